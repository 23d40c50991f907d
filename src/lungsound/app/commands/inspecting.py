"""What lies behind answers: features, explanations, found cycles, the quality of recordings."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lungsound.app.commands.answering import CyclesOption
from lungsound.app.commands.shared import CorpusArgument, DataOption, DeviceOption, console, print_error

StemOption = Annotated[Path, typer.Option("--out", metavar="STEM", help="Writes STEM.md and STEM.html.")]
PartOption = Annotated[
    list[str] | None, typer.Option(help="Part of the split; repeatable. Default: all, of segment all but train.")
]
ModeOption = Annotated[list[str] | None, typer.Option(help="Recording mode, e.g. sc; repeatable.")]


def embed(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or its model.safetensors.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help=".npz, .csv or .parquet.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]", help="Sound files, folders, patterns.")
    ] = None,
    data: DataOption = None,
    cycles: CyclesOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Write the model's features of cycles: of recordings, of a corpus, or of the one that the run was trained on."""
    from lungsound.app.embeddings import embed as embed_cycles

    found = embed_cycles(
        run, paths or (), out=out, data_root=data, find_by=cycles, device=device or "cpu", console=console
    )
    console.print(f"{len(found.cycles)} cycles, {found.features.shape[1]} features: {out}", highlight=False)
    for error in found.errors:
        print_error(error)
    if found.errors:
        raise typer.Exit(1)


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    out: StemOption,
    cycles: Annotated[int, typer.Option(min=1, help="How many test cycles.")] = 100,
) -> None:
    """Measure on test cycles how true explanations are to the model: by deletion, insertion and planted sounds."""
    from lungsound.app.explanation_report import report_explanations

    _with_bar(
        "cycles",
        lambda tell: report_explanations(run, out, console=console, num_cycles=cycles, on_progress=tell),
    )


def data_segment(corpus: CorpusArgument, out: StemOption, part: PartOption = None, mode: ModeOption = None) -> None:
    """Find breathing cycles in annotated recordings, and measure how well."""
    from lungsound.app.segmentation_report import report_segmentation

    _with_bar(
        "recordings",
        lambda tell: report_segmentation(
            corpus, out, console=console, parts=part or (), modes=mode or (), on_progress=tell
        ),
    )


def data_quality(corpus: CorpusArgument, out: StemOption, part: PartOption = None, mode: ModeOption = None) -> None:
    """How often recordings are called defective, and how many planted defects are found."""
    from lungsound.app.quality_report import report_quality

    _with_bar(
        "recordings",
        lambda tell: report_quality(corpus, out, console=console, parts=part or (), modes=mode or (), on_progress=tell),
    )


def _with_bar(what: str, work: Callable[[Callable[[int, int], None]], object]) -> None:
    from lungsound.training.progress import track

    with track(console, what) as on_progress:
        work(on_progress)
