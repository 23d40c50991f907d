"""What a run's probabilities are worth: calibration, prediction sets, abstaining, operating points."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungsound.app.commands.shared import NOTICE, console

if TYPE_CHECKING:
    from lungsound.evaluation.calibration.store import Calibration
    from lungsound.evaluation.predictions import Predictions

FORMAT = "lungsound calibration report 1"
TITLE = "Calibration"

RunArgument = Annotated[Path | None, typer.Argument(metavar="[RUN]", help="Folder of a trained run.")]
ValidationOption = Annotated[
    Path | None,
    typer.Option("--validation", metavar="FILE", help="Predictions of validation patients, instead of RUN."),
]
TestOption = Annotated[
    Path | None, typer.Option("--test", metavar="FILE", help="Predictions of other patients, instead of RUN.")
]


def calibrate(
    run: RunArgument = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the page; default: the run's.")] = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    coverage: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, help="Withhold answers to answer this share. [default: 0.8]")
    ] = None,
    error: Annotated[
        float | None, typer.Option(min=0.001, max=1.0, help="Withhold answers to keep this share of wrong ones.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Put it into the run's model, for 'predict', in the place of an earlier one.")
    ] = False,
) -> None:
    """Fit calibration on a run's validation patients, measure it on its test part; write calibration.md, .html, .json.

    With --keep the scaling leaves the most probable class as it is; the run's report stays as it is.
    """
    from lungsound.errors import SettingsError
    from lungsound.evaluation.calibration.scaling import METHODS, ORDER_KEEPING
    from lungsound.evaluation.calibration.selective import WANTED_COVERAGE
    from lungsound.evaluation.calibration.store import fit_calibration

    if keep and run is None:
        raise SettingsError("--keep puts the calibration into the model of a run: give the folder of one")
    if coverage is not None and error is not None:
        raise SettingsError("--coverage and --error were both given: answers can be withheld for one of them only")
    folder = out or run
    if folder is None:
        raise SettingsError("calibrating predictions files needs a folder for the page: give --out DIR")
    fitted_on, measured_on = _rows(run, validation, test)
    calibration = fit_calibration(
        fitted_on,
        abstain_for="coverage" if error is None else "error",
        abstain_value=error or coverage or WANTED_COVERAGE,
        allowed=ORDER_KEEPING if keep else METHODS,
    )
    for problem in calibration.problems:
        console.print(f"Warning: {problem}", highlight=False, soft_wrap=True)
    _write_page(calibration, measured_on, folder)
    if keep and run is not None:
        from lungsound.checkpoint import write_calibration

        write_calibration(run / "model.safetensors", calibration)
        console.print(f"kept with {run / 'model.safetensors'}", highlight=False, soft_wrap=True)


def operate(
    run: RunArgument = None,
    sensitivity: Annotated[
        list[float] | None,
        typer.Option(min=0.01, max=1.0, help="Wanted share of abnormal cycles found. Repeatable. [default: 0.9]"),
    ] = None,
    prevalence: Annotated[
        list[float] | None,
        typer.Option(min=0.0001, max=0.9999, help="Share of abnormal cycles in use. Repeatable. [default: 0.1, 0.3]"),
    ] = None,
    validation: ValidationOption = None,
    test: TestOption = None,
) -> None:
    """A wanted sensitivity for abnormal cycles: its threshold from validation patients, its cost on the test part."""
    from lungsound.evaluation.calibration.measures import PREVALENCES, measure_operating_points
    from lungsound.evaluation.calibration.operating_point import WANTED_SENSITIVITY
    from lungsound.evaluation.calibration.report import operating_lines
    from lungsound.evaluation.calibration.store import fit_calibration

    fitted_on, measured_on = _rows(run, validation, test)
    calibration = fit_calibration(fitted_on, sensitivities=sensitivity or (WANTED_SENSITIVITY,))
    for problem in calibration.operating_problems:
        console.print(f"Warning: {problem}", highlight=False, soft_wrap=True)
    measured = measure_operating_points(calibration, measured_on, prevalences=prevalence or PREVALENCES)
    for line in operating_lines(measured):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"In percent, with intervals over test patients. {NOTICE}", highlight=False, soft_wrap=True)


def _write_page(calibration: "Calibration", test: "Predictions", folder: Path) -> None:
    """Write calibration.md, .html, .json and their pictures; print what matters most."""
    from lungsound.evaluation.calibration.measures import measure_calibration
    from lungsound.evaluation.calibration.patient_sums import Resampling
    from lungsound.evaluation.calibration.report import draw_calibration, measured_blocks, verdict
    from lungsound.evaluation.calibration.store import without_nan
    from lungsound.files import write_text
    from lungsound.page import write_page

    resampling = Resampling()
    measures = measure_calibration(calibration, test, resampling=resampling)
    folder.mkdir(parents=True, exist_ok=True)
    draw_calibration(calibration, measures, test, folder=folder, resampling=resampling)
    blocks = measured_blocks(calibration, measures, folder=folder)
    numbers = {"format": FORMAT, "calibration": calibration.to_plain(), "measures": dataclasses.asdict(measures)}
    write_text(folder / "calibration.json", json.dumps(without_nan(numbers), indent=1, allow_nan=False) + "\n")
    write_page(folder / "calibration", TITLE, blocks)
    console.print(f"scaling: {calibration.scaling.method}; {calibration.reason}", highlight=False, soft_wrap=True)
    for name, errors in (("before", measures.before), ("after", measures.after)):
        error = errors.top_label.corrected.in_percent()
        console.print(f"ECE {name} scaling, corrected for chance, percent: {error}", highlight=False)
    console.print(f"{verdict(measures.after.top_label)} {NOTICE}", highlight=False, soft_wrap=True)
    console.print(f"page: {folder / 'calibration.html'}", highlight=False, soft_wrap=True)


def _rows(run: Path | None, validation: Path | None, test: Path | None) -> tuple["Predictions", "Predictions"]:
    """Rows to fit on and rows to measure on: of the epoch that the run kept, or of two files."""
    from lungsound.errors import DataError, SettingsError
    from lungsound.evaluation.predictions import read_predictions

    if run is None and validation is not None and test is not None:
        fitted_on, measured_on = read_predictions(validation), read_predictions(test)
    elif run is not None and validation is None and test is None:
        fitted_on, measured_on = _rows_of_run(run)
    else:
        raise SettingsError(
            "give either a RUN, or --validation FILE and --test FILE, predictions of different patients"
        )
    if fitted_on.classes != measured_on.classes:
        raise DataError(
            f"validation has the classes {', '.join(fitted_on.classes)}, the test {', '.join(measured_on.classes)}: "
            "both must come from one model"
        )
    if shared := set(fitted_on.patients) & set(measured_on.patients):
        console.print(
            f"Warning: {len(shared)} patients are in validation and in the test: what is measured is optimistic.",
            highlight=False,
            soft_wrap=True,
        )
    return fitted_on, measured_on


def _rows_of_run(run: Path) -> tuple["Predictions", "Predictions"]:
    from lungsound.data.protocol import VALIDATION
    from lungsound.errors import SettingsError
    from lungsound.run_folder import RunFolder
    from lungsound.watch import COLUMN_OF

    folder = RunFolder(run)
    column = COLUMN_OF[folder.config().train.selection]
    kept = folder.columns().get(column)
    if kept is None or VALIDATION not in kept.parts or set(kept.parts) == {VALIDATION}:
        raise SettingsError(
            f"{run} has no epochs/{column}.csv with validation and test rows: train it with data.protocol=strict, or "
            "give --validation FILE and --test FILE"
        )
    tested = [row for row, part in enumerate(kept.parts) if part != VALIDATION]
    return kept.of_part(VALIDATION), kept.of_rows(tested)
