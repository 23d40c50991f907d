"""Looking at a corpus, and making a synthetic one.

Auditing a corpus: leakage between its parts, and recordings that are not what they should be.

Writing the annotations of a corpus in another corpus's format.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lungsound.cli.shared import CorpusArgument, LabelMapOption, console


def data_check(
    folder: CorpusArgument,
    split: Annotated[
        str, typer.Option(help="official, fold0 .. fold4, or a file of 'name<TAB>part' lines.")
    ] = "official",
    label_map: LabelMapOption = None,
) -> None:
    """Count recordings, cycles, patients and problems, and compare with the published totals.

    Exit code 2 when something is wrong with the corpus.
    """
    from lungsound.data.check import print_check
    from lungsound.data.reader import read_corpus

    corpus = read_corpus(folder, split=split, is_strict=False, label_map=label_map)
    if not print_check(corpus, console):
        raise typer.Exit(2)


def data_synthesize(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")],
    patients: Annotated[int, typer.Option(min=4, help="Number of patients.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Make lung sounds by program, in ICBHI's own layout, with true annotations."""
    from lungsound.cli.demo import synthesize_with_bar

    synthesize_with_bar(folder, num_patients=patients, seed=seed, console=console)
    console.print(f"wrote {folder}; look at it with: lungsound data check {folder}", highlight=False)


WaiversOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Known leaks, one name a line; # starts a remark.")
]
SplitOption = Annotated[str, typer.Option(help="official, fold0 .. fold4, or a file of 'name<TAB>part' lines.")]


def data_audit(
    folder: CorpusArgument,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.html and audit.json.")] = None,
    waive: Annotated[
        list[str] | None,
        typer.Option("--waive", metavar="NAME", help="Known leak: a patient, a recording or a pair A,B. Repeatable."),
    ] = None,
    waivers: WaiversOption = None,
    split: SplitOption = "official",
    names_only: Annotated[
        bool, typer.Option("--names-only", help="By the names of ICBHI's annotation files; no sound is read.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Files decoded at a time; default: the cores.")] = None,
) -> None:
    """Look for patients and sounds that parts of the split share, and for damaged recordings.

    Exit code 1 when a part shares a patient or a sound with another and no waiver names it.
    """
    import os

    from lungsound.data.audit import audit_corpus, read_names, read_waivers
    from lungsound.data.reader import read_corpus
    from lungsound.errors import SettingsError
    from lungsound.evaluation.audit_report import print_audit, write_audit
    from lungsound.progress import track

    waived = [*(waive or []), *(read_waivers(waivers) if waivers else [])]
    corpus = read_names(folder, split=split) if names_only else read_corpus(folder, split=split, is_strict=False)
    if out is not None and out.exists() and not out.is_dir():
        raise SettingsError(f"--out {out} is a file: give a folder, or one to be made")
    with track(console, "audit") as on_progress:
        audit = audit_corpus(
            corpus,
            waived=waived,
            is_audio_read=not names_only,
            num_workers=workers or os.cpu_count() or 1,
            on_progress=on_progress,
        )
    print_audit(audit, console)
    if out is not None:
        page = write_audit(audit, out)
        console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if not audit.is_clean:
        raise typer.Exit(1)


def data_convert(
    folder: CorpusArgument,
    to: Annotated[Literal["icbhi", "sprsound", "table"], typer.Option("--to", help="Format to write.")],
    out: Annotated[Path, typer.Option(help="New or empty folder.")],
    label_map: LabelMapOption = None,
    unit: Annotated[
        Literal["cycle", "recording"], typer.Option(help="What is written: cycles, or words for whole recordings.")
    ] = "cycle",
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Write what the format can say; what is lost is listed.")
    ] = False,
) -> None:
    """Write annotations as ICBHI's .txt, SPRSound's .json or a table (CSV). No sound is copied.

    Without --lossy nothing is lost: what the format cannot say is an error.
    """
    from lungsound.data.convert import write_annotations
    from lungsound.data.reader import read_corpus

    corpus = read_corpus(folder, unit=unit, label_map=label_map)
    lost = write_annotations(corpus, out, to=to, is_lossy=lossy)
    for note in (*corpus.notes, *(f"lost: {each}" for each in lost)):
        console.print(note, highlight=False, soft_wrap=True)
    numbers = f"{len(corpus.cycles):,} cycles of {len(corpus.recordings):,} recordings"
    console.print(f"wrote {numbers} as {to} into {out}", highlight=False, soft_wrap=True)
