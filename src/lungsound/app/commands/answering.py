"""Evaluating a run, exporting its model for fast engines, and answering for recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungsound.app.commands.shared import (
    NOTICE,
    DataOption,
    DeviceOption,
    LabelMapOption,
    console,
    print_error,
    print_report,
)
from lungsound.errors import LungsoundError

if TYPE_CHECKING:
    from lungsound.app.predictor import Predictor


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: the run's.")] = None,
    device: DeviceOption = None,
    label_map: LabelMapOption = None,
) -> None:
    """Evaluate a run again on its test part, or with --data on another corpus; write predictions and report.

    Another corpus in words of its own is read by --label-map, else by the map of the run.
    """
    from lungsound.scoring import evaluate as evaluate_run

    print_report(evaluate_run(run, data_root=data, label_map=label_map, out_dir=out, device=device, console=console))


EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        help="What computes: exact (float32 torch's probabilities to 1e-4), auto (the fastest that 'export' found to "
        "answer alike), torch, torch-bf16, onnx, onnx-int8, openvino, openvino-bf16, openvino-int8.",
    ),
]


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data: DataOption = None,
    cycles: Annotated[int, typer.Option(help="How many test cycles the engines are measured on.")] = 500,
) -> None:
    """Export a run's model for the fast engines (ONNX Runtime, OpenVINO), and measure each on real cycles.

    What each is: how fast here, how often it answers as torch does. 'predict' then takes the fastest that does.
    """
    from lungsound.app.export import export_run

    path = export_run(run, data_root=data, num_cycles=cycles, console=console)
    console.print(f"engines: {path}", highlight=False, soft_wrap=True)


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or its model.safetensors.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Sound files.")],
    device: DeviceOption = None,
    engine: EngineOption = "auto",
) -> None:
    """Answer for recordings: by breathing cycle when an annotation lies beside one, else by windows."""
    from lungsound.app.demo import print_answers
    from lungsound.app.predictor import Predictor
    from lungsound.checkpoint import unfinished

    predictor = Predictor.load(run, device=device or "cpu", engine=engine)
    failures = []
    for path in files:
        try:
            answers = predictor.predict(path)
        except LungsoundError as error:
            failures.append(str(error))
        else:
            is_annotated = predictor.annotated_spans(path) is not None
            print_answers(f"{path.name}, by {'annotated cycle' if is_annotated else 'window'}", answers, console)
    if told := unfinished(run if run.is_dir() else run.parent):
        console.print(f"Warning: {told}; these are answers of an epoch on the way.", highlight=False, soft_wrap=True)
    console.print(f"{what_probabilities_are(predictor)} {NOTICE}", highlight=False)
    for failure in failures:
        print_error(failure)
    if failures:
        raise typer.Exit(2)


def what_probabilities_are(predictor: "Predictor") -> str:
    """A line below the answers: whether the probabilities are scaled, and what "uncertain" means."""
    calibration = predictor.trained.calibration
    if calibration is None:
        return "Probabilities are not calibrated."
    told = f"Probabilities: {calibration.scaling.in_words} ({calibration.reason})"
    if calibration.abstain is None:
        return f"{told}."
    return f"{told}; uncertain: better withheld, by the errors on validation patients."
