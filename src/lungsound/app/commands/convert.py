"""Writing the annotations of a corpus in another corpus's format."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lungsound.app.commands.shared import CorpusArgument, LabelMapOption, console


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
    from lungsound.data.annotations import write_annotations
    from lungsound.data.reader import read_corpus

    corpus = read_corpus(folder, unit=unit, label_map=label_map)
    lost = write_annotations(corpus, out, to=to, is_lossy=lossy)
    for note in (*corpus.notes, *(f"lost: {each}" for each in lost)):
        console.print(note, highlight=False, soft_wrap=True)
    numbers = f"{len(corpus.cycles):,} cycles of {len(corpus.recordings):,} recordings"
    console.print(f"wrote {numbers} as {to} into {out}", highlight=False, soft_wrap=True)
