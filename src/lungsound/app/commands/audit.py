"""Auditing a corpus: leakage between its parts, and recordings that are not what they should be."""

from pathlib import Path
from typing import Annotated

import typer

from lungsound.app.commands.shared import CorpusArgument, console

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

    from lungsound.app.audit_report import print_audit, write_audit
    from lungsound.data.audit import audit_corpus, read_waivers
    from lungsound.data.names_only import read_names
    from lungsound.data.reader import read_corpus
    from lungsound.errors import SettingsError
    from lungsound.training.progress import track

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
