"""Evaluating a run, and answering for recordings."""

from pathlib import Path
from typing import Annotated

import typer

from lungsound.app.commands.shared import (
    NOTICE,
    DataOption,
    DeviceOption,
    console,
    print_error,
    print_report,
)
from lungsound.errors import LungsoundError


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: the run's.")] = None,
    device: DeviceOption = None,
) -> None:
    """Evaluate a run again on its test part, or with --data on another corpus; write predictions and report."""
    from lungsound.scoring import evaluate as evaluate_run

    print_report(evaluate_run(run, data_root=data, out_dir=out, device=device, console=console))


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, or its model.safetensors.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Sound files.")],
    device: DeviceOption = None,
) -> None:
    """Answer for recordings: by breathing cycle when an annotation lies beside one, else by windows."""
    from lungsound.app.demo import print_answers
    from lungsound.app.predictor import Predictor

    predictor = Predictor.load(run, device=device or "cpu")
    failures = []
    for path in files:
        try:
            answers = predictor.predict(path)
        except LungsoundError as error:
            failures.append(str(error))
        else:
            is_annotated = predictor.annotated_spans(path) is not None
            print_answers(f"{path.name}, by {'annotated cycle' if is_annotated else 'window'}", answers, console)
    if predictor.is_calibrated:
        told = "Probabilities are calibrated on validation patients; uncertain: better withheld, by their errors."
    else:
        told = "Probabilities are not calibrated."
    console.print(f"{told} {NOTICE}", highlight=False)
    for failure in failures:
        print_error(failure)
    if failures:
        raise typer.Exit(2)
