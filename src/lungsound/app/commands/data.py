"""Looking at a corpus, and making a synthetic one."""

from pathlib import Path
from typing import Annotated

import typer

from lungsound.app.commands.shared import CorpusArgument, LabelMapOption, console


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
    from lungsound.app.demo import synthesize_with_bar

    synthesize_with_bar(folder, num_patients=patients, seed=seed, console=console)
    console.print(f"wrote {folder}; look at it with: lungsound data check {folder}", highlight=False)
