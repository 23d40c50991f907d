"""What a run's probabilities are worth: calibration, prediction sets, abstaining, operating points."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lungsound.cli.shared import NOTICE, console

if TYPE_CHECKING:
    from lungsound.evaluation.calibration import Calibration, Method
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


@dataclass(frozen=True)
class Rows:
    """Rows to fit on and rows to measure on; of a run the epoch that it kept.

    `kept` is the calibration in the run's model. `num_shared` patients are on both sides, with different cycles.
    """

    fitted_on: "Predictions"
    measured_on: "Predictions"
    run: Path | None = None
    kept: "Calibration | None" = None

    @property
    def num_shared(self) -> int:
        return len(set(self.fitted_on.patients) & set(self.measured_on.patients))

    @property
    def allowed(self) -> "Sequence[Method]":
        """Scalings to choose from: a run's keep the most probable class, since its scores are of its answers."""
        from lungsound.evaluation.calibration import METHODS, ORDER_KEEPING

        return METHODS if self.run is None else ORDER_KEEPING

    @property
    def sensitivities(self) -> tuple[float, ...]:
        """Wanted sensitivities of the operating points, unless others are asked for."""
        from lungsound.evaluation.calibration import WANTED_SENSITIVITY

        points = () if self.kept is None else self.kept.operating_points
        return tuple(point.wanted_sensitivity for point in points) or (WANTED_SENSITIVITY,)


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
    """Fit calibration on a run's validation patients, measure it on its test set; write calibration.md, .html, .json.

    For a RUN the scaling leaves the most probable class as it is; for files it may be vector scaling.
    """
    from lungsound.errors import SettingsError
    from lungsound.evaluation.calibration import WANTED_COVERAGE, fit_calibration
    from lungsound.evaluation.calibration_report import difference

    if keep and run is None:
        raise SettingsError("--keep puts the calibration into the model of a run: give the folder of one")
    if coverage is not None and error is not None:
        raise SettingsError("--coverage and --error were both given: answers can be withheld for one of them only")
    folder = out or run
    if folder is None:
        raise SettingsError("calibrating predictions files needs a folder for the page: give --out DIR")
    rows = _rows(run, validation, test)
    wanted = next(value for value in (error, coverage, WANTED_COVERAGE) if value is not None)
    calibration = fit_calibration(
        rows.fitted_on,
        abstain_for="coverage" if error is None else "error",
        abstain_value=wanted,
        sensitivities=rows.sensitivities,
        allowed=rows.allowed,
    )
    remarks = _remarks(rows)
    if run is not None and not keep and (told := difference(calibration, rows.kept)):
        remarks.append(told)
    for problem in (*remarks, *calibration.problems):
        console.print(f"Warning: {problem}", highlight=False, soft_wrap=True)
    _write_page(calibration, rows, folder, remarks)
    if keep and run is not None:
        _keep(run, calibration, commands="'lungsound evaluate'")


def operate(
    run: RunArgument = None,
    sensitivity: Annotated[
        list[float] | None,
        typer.Option(
            min=0.01,
            max=1.0,
            help="Wanted share of abnormal cycles found. Repeatable. [default: what the model keeps, else 0.9]",
        ),
    ] = None,
    prevalence: Annotated[
        list[float] | None,
        typer.Option(min=0.0001, max=0.9999, help="Share of abnormal cycles in use. Repeatable. [default: 0.1, 0.3]"),
    ] = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Put the thresholds into the run's model.")] = False,
) -> None:
    """A wanted sensitivity for abnormal cycles: its threshold from validation patients, its cost on the test set.

    For a RUN on the probabilities of 'predict': with the scaling that the model keeps.
    """
    from lungsound.errors import SettingsError
    from lungsound.evaluation.calibration import fit_calibration, with_operating_points
    from lungsound.evaluation.calibration_report import PREVALENCES, measure_operating_points, operating_lines

    if keep and run is None:
        raise SettingsError("--keep puts the thresholds into the model of a run: give the folder of one")
    rows = _rows(run, validation, test)
    wanted = sensitivity or rows.sensitivities
    if rows.kept is None:
        calibration = fit_calibration(rows.fitted_on, sensitivities=wanted, allowed=rows.allowed)
    else:
        calibration = with_operating_points(rows.kept, rows.fitted_on, sensitivities=wanted)
    for problem in (*_remarks(rows), *calibration.operating_problems):
        console.print(f"Warning: {problem}", highlight=False, soft_wrap=True)
    measured = measure_operating_points(calibration, rows.measured_on, prevalences=prevalence or PREVALENCES)
    for line in operating_lines(measured, calibration.scaling):
        console.print(line, highlight=False, soft_wrap=True)
    if run is not None and calibration.scaling.method != "none":
        console.print("predictions.csv holds the probabilities before scaling.", highlight=False, soft_wrap=True)
    console.print(f"In percent, with intervals over test patients. {NOTICE}", highlight=False, soft_wrap=True)
    if keep and run is not None:
        _keep(run, calibration, commands="'lungsound evaluate' and 'lungsound calibrate'")


def _keep(run: Path, calibration: "Calibration", *, commands: str) -> None:
    """Put it into the run's model; `commands` write what shows an earlier one."""
    from lungsound.training.checkpoint import add_to_model

    model = run / "model.safetensors"
    add_to_model(model, calibration=calibration, domain=None)
    console.print(f"kept with {model}; pages show it after {commands} of the run", highlight=False, soft_wrap=True)


def _remarks(rows: Rows) -> list[str]:
    if not (num_shared := rows.num_shared):
        return []
    names = "1 patient" if num_shared == 1 else f"{num_shared} patients"
    return [f"Validation and the test share {names}: what is measured is optimistic."]


def _write_page(calibration: "Calibration", rows: Rows, folder: Path, remarks: Sequence[str]) -> None:
    """Write calibration.md, .html, .json and their pictures; print what matters most."""
    from lungsound.evaluation.bootstrap import Bootstrap
    from lungsound.evaluation.calibration import without_nan
    from lungsound.evaluation.calibration_report import draw_calibration, measure_calibration, measured_blocks, verdict
    from lungsound.files import write_text
    from lungsound.page import write_page

    bootstrap, test = Bootstrap(), rows.measured_on
    measures = measure_calibration(calibration, test, bootstrap=bootstrap)
    folder.mkdir(parents=True, exist_ok=True)
    draw_calibration(calibration, measures, test, folder=folder, bootstrap=bootstrap)
    blocks = measured_blocks(calibration, measures, folder=folder, remarks=remarks)
    numbers = {
        "format": FORMAT,
        "remarks": list(remarks),
        "calibration": calibration.to_plain(),
        "measures": dataclasses.asdict(measures),
    }
    write_text(folder / "calibration.json", json.dumps(without_nan(numbers), indent=1, allow_nan=False) + "\n")
    write_page(folder / "calibration", TITLE, blocks)
    console.print(f"scaling: {calibration.scaling.method}; {calibration.reason}", highlight=False, soft_wrap=True)
    for name, errors in (("before", measures.before), ("after", measures.after)):
        error = errors.top_label.corrected_in_percent()
        console.print(f"ECE {name} scaling, corrected for chance, percent: {error}", highlight=False, soft_wrap=True)
    console.print(f"{verdict(measures.after.top_label)} {NOTICE}", highlight=False, soft_wrap=True)
    console.print(f"page: {folder / 'calibration.html'}", highlight=False, soft_wrap=True)


def _rows(run: Path | None, validation: Path | None, test: Path | None) -> Rows:
    from lungsound.errors import DataError, SettingsError

    if run is None and validation is not None and test is not None:
        rows = Rows(_validation_rows(validation), _test_rows(test))
    elif run is not None and validation is None and test is None:
        rows = _rows_of_run(run)
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
    """The rows of the part "validation" when the file has such, else all: the file is all validation."""
    from lungsound.data.splits import VALIDATION
    from lungsound.evaluation.predictions import read_predictions

    predictions = read_predictions(file)
    return predictions.of_part(VALIDATION) if VALIDATION in predictions.parts else predictions


def _test_rows(file: Path) -> "Predictions":
    """All rows but those of the part "validation"."""
    from lungsound.errors import DataError
    from lungsound.evaluation.predictions import read_predictions

    predictions = read_predictions(file)
    tested = _tested(predictions)
    if not tested:
        raise DataError(f"{file} has rows of validation patients only: there is no test row to measure on")
    return predictions.of_rows(tested)


def _tested(predictions: "Predictions") -> list[int]:
    from lungsound.data.splits import VALIDATION

    return [row for row, part in enumerate(predictions.parts) if part != VALIDATION]


def _rows_of_run(run: Path) -> Rows:
    from lungsound.data.splits import VALIDATION
    from lungsound.errors import SettingsError
    from lungsound.evaluation.selection import LAST
    from lungsound.training.callbacks import COLUMN_OF
    from lungsound.training.checkpoint import read_calibration, unfinished
    from lungsound.training.run import RunFolder

    folder = RunFolder(run)
    column = COLUMN_OF[folder.config().train.selection]
    if told := unfinished(run):
        raise SettingsError(told)
    columns = folder.columns()
    answers = columns.get(column, columns.get(LAST))  # where no epoch was chosen the last was kept
    if answers is None or VALIDATION not in answers.parts or not (tested := _tested(answers)):
        raise SettingsError(
            f"{run} has no epochs/{column}.csv with validation and test rows: train it with data.protocol=strict, or "
            "give --validation FILE and --test FILE"
        )
    kept = read_calibration(folder.model)
    return Rows(answers.of_part(VALIDATION), answers.of_rows(tested), run=run, kept=kept)
