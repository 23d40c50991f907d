"""`lungsound data`: download, check, audit and convert a corpus, or make a synthetic one."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lungsound.cli.shared import (
    CorpusArgument,
    LabelMapOption,
    SeedOption,
    argument,
    console,
    flag,
    option,
    print_lines,
)

SplitOption = Annotated[str, option("NAME", "official, fold0 .. fold4, or a file of 'name<TAB>part' lines.")]
UnitOption = Annotated[
    Literal["cycle", "recording"], option("UNIT", "Labels to write: those of each cycle, or of each recording.")
]


def data_fetch(
    name: Annotated[Literal["icbhi", "sprsound"], argument("NAME", "icbhi or sprsound.")],
    folder: Annotated[Path, argument("DIR", "New or empty folder.")],
    yes: Annotated[bool, flag("--yes", "Accept the licence without being asked.")] = False,
    archive: Annotated[Path | None, option("FILE", "Archive that you have, in place of a download.")] = None,
    sha256: Annotated[
        str | None, option("HEX", "SHA-256 that the archive must have, in place of the known hash.", "--sha256")
    ] = None,
) -> None:
    """Download a corpus and unpack it.

    Shows its licence and asks whether you accept it. A download that broke off goes on where it stopped.
    """
    import re
    import sys

    from lungsound.data.fetch import CORPORA, fetch_corpus
    from lungsound.errors import SettingsError

    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise SettingsError(f"--sha256 {sha256} is not a SHA-256: 64 hex digits are needed")
    if archive is not None and not archive.is_file():
        raise SettingsError(f"--archive {archive} is not a file")
    source = CORPORA[name]
    print_lines(source.title, source.licence.strip())
    if not yes:
        if not sys.stdin.isatty():
            raise SettingsError("without a terminal you cannot be asked to accept the licence: add --yes to accept it")
        if not typer.confirm("Do you accept it?"):
            raise SettingsError("the licence was not accepted: nothing was downloaded")
    if sha256 is None:
        known = f"{source.hash} by {source.hash_from}" if source.hash else "none is published, so it cannot be checked"
        print_lines(f"checksum of the archive: {known}")
    digits = fetch_corpus(source, folder, archive=archive, sha256=sha256, console=console)
    print_lines(
        f"the archive has the SHA-256 {digits}: note it, and give it as --sha256 next time",
        f"wrote {folder}; look at it with: lungsound data check {folder}",
    )


def data_check(folder: CorpusArgument, split: SplitOption = "official", label_map: LabelMapOption = None) -> None:
    """Count recordings, cycles, patients and problems in a corpus.

    Compares the numbers with the published totals. Exit code 2 when something is wrong with the corpus.
    """
    from lungsound.data.check import print_check
    from lungsound.data.reader import read_corpus

    corpus = read_corpus(folder, split=split, is_strict=False, label_map=label_map)
    if not print_check(corpus, console):
        raise typer.Exit(2)


def data_synthesize(
    folder: Annotated[Path, argument("DIR", "New or empty folder.")],
    patients: Annotated[int, option("N", "Patients in the synthetic corpus.", min=4)] = 40,
    seed: SeedOption = 0,
) -> None:
    """Make a synthetic corpus with ground-truth annotations.

    Its layout is ICBHI's. The same seed gives the same bytes.
    """
    from lungsound.data.synthetic import synthesize
    from lungsound.progress import track

    with track(console, "recordings") as on_progress:
        synthesize(folder, num_patients=patients, seed=seed, on_progress=on_progress)
    console.print(f"wrote {folder}; look at it with: lungsound data check {folder}")


def data_audit(
    folder: CorpusArgument,
    out: Annotated[Path | None, option("DIR", "Folder for audit.html and audit.json.")] = None,
    waive: Annotated[
        list[str] | None,
        option("NAME", "Known leak to accept: a patient, a recording or a pair A,B. Repeatable.", "--waive"),
    ] = None,
    split: SplitOption = "official",
    names_only: Annotated[
        bool, flag("--names-only", "Read only the names of ICBHI's annotation files, no sound.")
    ] = False,
    workers: Annotated[
        int | None, option("N", "Number of recordings to read at the same time.  [default: all cores]", min=1)
    ] = None,
) -> None:
    """Find bad recordings, and leaks between parts of the split.

    A leak is a patient or a sound that two parts share. Exit code 1 when there is one that --waive does not name.
    """
    import os

    from lungsound.data.audit import audit_corpus
    from lungsound.data.icbhi import read_icbhi
    from lungsound.data.reader import read_corpus
    from lungsound.errors import SettingsError
    from lungsound.evaluation.audit_report import print_audit, write_audit
    from lungsound.progress import track

    if names_only:
        corpus = read_icbhi(folder, split=split, is_sound_read=False)
    else:
        corpus = read_corpus(folder, split=split, is_strict=False)
    if out is not None and out.exists() and not out.is_dir():
        raise SettingsError(f"--out {out} is a file: give a folder, or one to be made")
    with track(console, "audit") as on_progress:
        audit = audit_corpus(
            corpus,
            waived=waive or [],
            is_audio_read=not names_only,
            num_workers=workers or os.cpu_count() or 1,
            on_progress=on_progress,
        )
    print_audit(audit, console)
    if out is not None:
        print_lines(f"report: {write_audit(audit, out)}")
    if not audit.is_clean:
        raise typer.Exit(1)


def data_pack(
    folder: CorpusArgument,
    out: Annotated[Path, option("URI", "New or empty folder, or URI (s3://, gs://, az://) to write to.")],
    shard_mb: Annotated[int, option("N", "Most megabytes of sound in a shard.", min=1)] = 64,
    split: SplitOption = "official",
    label_map: LabelMapOption = None,
    unit: UnitOption = "cycle",
) -> None:
    """Write a corpus as tar files that train reads by streaming.

    Split and labels are packed as they are read here. The same corpus gives the same bytes.
    """
    from lungsound.data.reader import read_corpus
    from lungsound.data.shards import pack
    from lungsound.progress import track
    from lungsound.storage import as_uri

    corpus, place = read_corpus(folder, split=split, unit=unit, label_map=label_map), as_uri(out) or out
    with track(console, "recordings") as on_progress:
        num_shards = pack(corpus, place, shard_mb=shard_mb, unit=unit, on_progress=on_progress)
    numbers = f"{len(corpus.cycles):,} cycles of {len(corpus.recordings):,} recordings in {num_shards:,} shards"
    print_lines(f"wrote {numbers}; train on them with: lungsound train RECIPE --data {place}")


def data_convert(
    folder: CorpusArgument,
    to: Annotated[Literal["icbhi", "sprsound", "table"], option("FORMAT", "icbhi, sprsound or table.", "--to")],
    out: Annotated[Path, option("DIR", "New or empty folder.")],
    label_map: LabelMapOption = None,
    unit: UnitOption = "cycle",
    lossy: Annotated[bool, flag("--lossy", "Write what the format can hold, and list what is lost.")] = False,
) -> None:
    """Write a corpus's annotations in another format.

    Writes ICBHI's .txt, SPRSound's .json or a table (CSV), and does not copy the recordings. Without --lossy, anything
    that the format cannot hold is an error.
    """
    from lungsound.data.convert import write_annotations
    from lungsound.data.reader import read_corpus

    corpus = read_corpus(folder, unit=unit, label_map=label_map)
    lost = write_annotations(corpus, out, to=to, is_lossy=lossy)
    numbers = f"{len(corpus.cycles):,} cycles of {len(corpus.recordings):,} recordings"
    print_lines(*corpus.notes, *(f"lost: {each}" for each in lost), f"wrote {numbers} as {to} into {out}")
