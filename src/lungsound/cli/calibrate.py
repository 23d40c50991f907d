"""`lungsound calibrate` and `lungsound operate`: calibration, prediction sets, abstention, operating points."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungsound.cli.shared import NOTICE, console

if TYPE_CHECKING:
    from lungsound.evaluation.calibration import Calibration
    from lungsound.evaluation.predictions import Predictions


FORMAT = "lungsound calibration report 2"
TITLE = "Calibration"

RunArgument = Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a trained run.")]
ValidationOption = Annotated[
    Path | None,
    typer.Option("--validation", metavar="FILE", help="Predictions on validation patients, instead of RUN."),
]
TestOption = Annotated[
    Path | None, typer.Option("--test", metavar="FILE", help="Predictions on test patients, instead of RUN.")
]


@dataclass(frozen=True)
class Rows:
    """Predictions to fit on and to measure on (of a run: of its selected epoch), and the calibration in its model."""

    fitted_on: "Predictions"
    measured_on: "Predictions"
    kept: "Calibration | None" = None

    @property
    def remarks(self) -> list[str]:
        """Remark on patients who are in both, with different cycles."""
        num_shared = len(set(self.fitted_on.patients) & set(self.measured_on.patients))
        names = "1 patient" if num_shared == 1 else f"{num_shared} patients"
        return [f"Validation and the test share {names}: the measurements are optimistic."] if num_shared else []

    @property
    def sensitivities(self) -> tuple[float, ...]:
        """Wanted sensitivities of the operating points, unless others are given."""
        from lungsound.evaluation.calibration import WANTED_SENSITIVITY

        points = () if self.kept is None else self.kept.operating_points
        return tuple(point.wanted_sensitivity for point in points) or (WANTED_SENSITIVITY,)


def calibrate(
    run: RunArgument = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the report.  [default: RUN]")] = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    coverage: Annotated[
        float | None,
        typer.Option(min=0.01, max=1.0, metavar="SHARE", help="Share of cycles not to withhold.  [default: 0.8]"),
    ] = None,
    error: Annotated[
        float | None,
        typer.Option(min=0.001, max=1.0, metavar="SHARE", help="Share of wrong predictions among those not withheld."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Store the calibration in the run's model, replacing an earlier one.")
    ] = False,
) -> None:
    """Fit a model's calibration on validation patients.

    Measures it on the test set and writes calibration.html, calibration.md and calibration.json.
    """
    from lungsound.errors import SettingsError
    from lungsound.evaluation.calibration import WANTED_COVERAGE, fit_calibration
    from lungsound.evaluation.calibration_report import difference

    if keep and run is None:
        raise SettingsError("--keep stores the calibration in the model of a run: give its folder as RUN")
    if coverage is not None and error is not None:
        raise SettingsError("--coverage and --error were both given: predictions can be withheld for one of them only")
    folder = out or run
    if folder is None:
        raise SettingsError("calibrating predictions files needs a folder for the page: give --out DIR")
    rows = _rows(run, validation, test, is_kept_replaced=keep)
    wanted = next(value for value in (error, coverage, WANTED_COVERAGE) if value is not None)
    calibration = fit_calibration(
        rows.fitted_on,
        abstain_for="coverage" if error is None else "error",
        abstain_value=wanted,
        sensitivities=rows.sensitivities,
    )
    remarks = rows.remarks
    if run is not None and not keep and (remark := difference(calibration, rows.kept)):
        remarks.append(remark)
    _print(*(f"Warning: {problem}" for problem in (*remarks, *calibration.problems)))
    _write_page(calibration, rows.measured_on, folder, remarks)
    if keep and run is not None:
        _keep(run, calibration, commands="'lungsound evaluate'")


def operate(
    run: RunArgument = None,
    sensitivity: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            max=1.0,
            metavar="SHARE",
            help="Wanted sensitivity. Repeatable.  [default: those in the model, else 0.9]",
        ),
    ] = None,
    prevalence: Annotated[
        list[float] | None,
        typer.Option(
            min=0.0001,
            max=0.9999,
            metavar="SHARE",
            help="Share of abnormal cycles in practice. Repeatable.  [default: 0.1, 0.3]",
        ),
    ] = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Store the thresholds in the run's model.")] = False,
) -> None:
    """Choose thresholds that reach a wanted sensitivity.

    Chooses them on validation patients and measures them on the test set. Those of a RUN apply to the probabilities of
    'predict', scaled by the model's calibration.
    """
    from lungsound.errors import SettingsError
    from lungsound.evaluation.bootstrap import Bootstrap
    from lungsound.evaluation.calibration import fit_calibration, with_operating_points
    from lungsound.evaluation.calibration_measures import PREVALENCES, measure_operating_points
    from lungsound.evaluation.calibration_report import operating_lines

    if keep and run is None:
        raise SettingsError("--keep stores the thresholds in the model of a run: give its folder as RUN")
    rows = _rows(run, validation, test)
    wanted = sensitivity or rows.sensitivities
    if rows.kept is None:
        calibration = fit_calibration(rows.fitted_on, sensitivities=wanted)
    else:
        calibration = with_operating_points(rows.kept, rows.fitted_on, sensitivities=wanted)
    measures = measure_operating_points(calibration, rows.measured_on, prevalence or PREVALENCES, Bootstrap())
    _print(
        *(f"Warning: {problem}" for problem in (*rows.remarks, *calibration.operating_problems)),
        *operating_lines(measures, calibration),
        *(["predictions.csv holds the probabilities before scaling."] if run and calibration.is_scaled else []),
        f"In percent, with intervals over test patients. {NOTICE}",
    )
    if keep and run is not None:
        _keep(run, calibration, commands="'lungsound evaluate' and 'lungsound calibrate'")


def _keep(run: Path, calibration: "Calibration", *, commands: str) -> None:
    """Store the calibration in the run's model; pages show it once `commands` have written them anew."""
    from lungsound.training.checkpoint import add_to_model

    model = run / "model.safetensors"
    add_to_model(model, calibration=calibration, domain=None)
    _print(f"stored in {model}; pages show it after {commands} of the run")


def _print(*lines: str) -> None:
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _write_page(calibration: "Calibration", test: "Predictions", folder: Path, remarks: Sequence[str]) -> None:
    """Write calibration.md, .html, .json and their pictures; print a summary."""
    from pydantic import TypeAdapter

    from lungsound.evaluation.bootstrap import Bootstrap
    from lungsound.evaluation.calibration_measures import CalibrationMeasures, measure_calibration
    from lungsound.evaluation.calibration_report import draw_calibration, fitted_facts, measured_blocks, verdict
    from lungsound.files import write_json
    from lungsound.page import write_page

    measures = measure_calibration(calibration, test, Bootstrap())
    folder.mkdir(parents=True, exist_ok=True)
    draw_calibration(calibration, measures, test, folder, Bootstrap())
    numbers = {
        "format": FORMAT,
        "remarks": list(remarks),
        "calibration": calibration.to_plain(),
        "measures": TypeAdapter(CalibrationMeasures).dump_python(measures),
    }
    write_json(folder / "calibration.json", numbers)
    write_page(folder / "calibration", TITLE, measured_blocks(calibration, measures, folder=folder, remarks=remarks))
    _print(
        f"scaling: {fitted_facts(calibration)['scaling']}",
        f"ECE before scaling, corrected for chance, percent: {measures.before.top_label.corrected_in_percent()}",
        f"ECE after scaling, corrected for chance, percent: {measures.after.top_label.corrected_in_percent()}",
        f"{verdict(measures.after.top_label)} {NOTICE}",
        f"page: {folder / 'calibration.html'}",
    )


def _rows(run: Path | None, validation: Path | None, test: Path | None, *, is_kept_replaced: bool = False) -> Rows:
    from lungsound.errors import DataError, SettingsError
    from lungsound.evaluation.runs import read_test_rows

    if run is None and validation is not None and test is not None:
        rows = Rows(_validation_rows(validation), read_test_rows(test))
    elif run is not None and validation is None and test is None:
        rows = _rows_of_run(run, is_kept_replaced=is_kept_replaced)
    else:
        raise SettingsError(
            "give either a RUN, or --validation FILE and --test FILE, predictions of different patients"
        )
    fitted_on, measured_on = rows.fitted_on, rows.measured_on
    if fitted_on.classes != measured_on.classes:
        raise DataError(
            f"validation has the classes {', '.join(fitted_on.classes)}, the test {', '.join(measured_on.classes)}: "
            "both must come from one model"
        )
    if shared := sorted(set(fitted_on.keys) & set(measured_on.keys)):
        raise DataError(
            f"{len(shared)} cycles are in validation and in the test, {shared[0]} among them: give predictions of "
            "different patients"
        )
    return rows


def _validation_rows(file: Path) -> "Predictions":
    """Rows of the part "validation" if the file has that part, else all of its rows."""
    from lungsound.evaluation.predictions import VALIDATION_PART, read_predictions

    predictions = read_predictions(file)
    return predictions.of_part(VALIDATION_PART) if VALIDATION_PART in predictions.parts else predictions


def _rows_of_run(run: Path, *, is_kept_replaced: bool) -> Rows:
    from lungsound.errors import SettingsError, WeightsError
    from lungsound.evaluation.predictions import VALIDATION_PART
    from lungsound.evaluation.selection import LAST
    from lungsound.training.callbacks import COLUMN_OF
    from lungsound.training.checkpoint import read_calibration, unfinished
    from lungsound.training.run import RunFolder

    folder = RunFolder(run)
    column = COLUMN_OF[folder.config().train.selection]
    if problem := unfinished(run):
        raise SettingsError(problem)
    columns = folder.columns()
    predictions = columns.get(column, columns.get(LAST))  # with no epoch selected the model is that of the last
    test = None if predictions is None else predictions.without_validation()
    if predictions is None or test is None or VALIDATION_PART not in predictions.parts:
        raise SettingsError(
            f"{run} has no epochs/{column}.csv with validation and test rows: train it with data.protocol=strict, or "
            "give --validation FILE and --test FILE"
        )
    try:
        kept = read_calibration(folder.model)
    except WeightsError as error:
        if not is_kept_replaced:
            raise
        _print(f"Warning: {error}")
        kept = None
    return Rows(predictions.of_part(VALIDATION_PART), test, kept)
