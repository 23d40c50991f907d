"""`lungsound calibrate` and `lungsound operate`: calibration, prediction sets, abstention, operating points."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lungsound.cli.shared import NOTICE, argument, flag, option, print_lines, print_table
from lungsound.errors import DataError, SettingsError

if TYPE_CHECKING:
    from lungsound.evaluation.calibration import Calibration
    from lungsound.evaluation.predictions import Predictions

SENSITIVITY = "Target sensitivity. Repeatable.  [default: those in the model, else 0.9]"
PREVALENCE = "Share of abnormal cycles in practice. Repeatable.  [default: 0.1, 0.3]"
FORMAT = "lungsound calibration report 3"

RunArgument = Annotated[Path | None, argument("RUN", "Folder of a trained run.")]
ValidationOption = Annotated[
    Path | None, option("FILE", "Predictions on validation patients; with --test, instead of RUN.", "--validation")
]
TestOption = Annotated[
    Path | None, option("FILE", "Predictions on test patients; with --validation, instead of RUN.", "--test")
]


def calibrate(
    run: RunArgument = None,
    out: Annotated[Path | None, option("DIR", "Folder for the report.  [default: RUN]")] = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    coverage: Annotated[
        float | None,
        option("SHARE", "Share of cycles to predict; the others are withheld.  [default: 0.8]", min=0.01, max=1.0),
    ] = None,
    error: Annotated[
        float | None,
        option(
            "SHARE",
            "Instead of --coverage: share of wrong predictions to allow among those not withheld.",
            min=0.001,
            max=1.0,
        ),
    ] = None,
    keep: Annotated[
        bool, flag("--keep", "Store the calibration in the run's model, replacing an earlier one.")
    ] = False,
) -> None:
    """Fit a model's calibration on validation patients.

    Measures it on the test set and writes calibration.html, calibration.md and calibration.json.
    """
    from pydantic import TypeAdapter

    from lungsound.evaluation import calibration_report as evaluation
    from lungsound.evaluation.bootstrap import Bootstrap
    from lungsound.evaluation.calibration import WANTED_COVERAGE, fit_calibration
    from lungsound.files import write_json
    from lungsound.page import write_page

    if coverage is not None and error is not None:
        raise SettingsError("--coverage and --error were both given: predictions can be withheld for one of them only")
    folder = out or run
    if folder is None:
        raise SettingsError("calibrating predictions files needs a folder for the page: give --out DIR")
    fitted_on, measured_on, kept, sensitivities, remarks, threshold_on = _rows(run, validation, test, keep=keep)
    calibration = fit_calibration(
        fitted_on,
        abstain_for="coverage" if error is None else "error",
        abstain_value=error or coverage or WANTED_COVERAGE,
        sensitivities=sensitivities,
        threshold_on=threshold_on,
    )
    if run is not None and not keep and (remark := evaluation.difference(calibration, kept)):
        remarks.append(remark)
    print_lines(*(f"Warning: {problem}" for problem in (*remarks, *calibration.problems)))
    measures = evaluation.measure_calibration(calibration, measured_on, Bootstrap())
    numbers = {
        "format": FORMAT,
        "remarks": remarks,
        "calibration": calibration.to_plain(),
        "measures": TypeAdapter(evaluation.CalibrationMeasures).dump_python(measures),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "calibration.json", numbers)
    section = evaluation.calibration_section(
        calibration, measured_on, folder=folder, measures=measures, remarks=remarks
    )
    write_page(folder / "calibration", "Calibration", section)
    print_lines(
        f"scaling: {'temperature' if calibration.is_scaled else 'none'}; {calibration.reason}",
        f"ECE before scaling, corrected for chance, percent: {measures.before.top_label.corrected.in_percent()}",
        f"ECE after scaling, corrected for chance, percent: {measures.after.top_label.corrected.in_percent()}",
        f"{evaluation.verdict(measures.after.top_label)} {NOTICE}",
        f"page: {folder / 'calibration.html'}",
    )
    if keep:
        _keep(run, calibration, held_out=fitted_on)


def operate(
    run: RunArgument = None,
    sensitivity: Annotated[list[float] | None, option("SHARE", SENSITIVITY, min=0.01, max=1.0)] = None,
    prevalence: Annotated[list[float] | None, option("SHARE", PREVALENCE, min=0.0001, max=0.9999)] = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    keep: Annotated[bool, flag("--keep", "Store the thresholds in the run's model.")] = False,
) -> None:
    """Choose thresholds that reach a target sensitivity.

    Chooses them on validation patients and measures them on the test set. With RUN, they apply to the probabilities of
    'predict', as scaled by the model's calibration.
    """
    from lungsound.evaluation import calibration_report as evaluation
    from lungsound.evaluation.bootstrap import Bootstrap
    from lungsound.evaluation.calibration import fit_calibration

    fitted_on, measured_on, kept, sensitivities, remarks, _ = _rows(run, validation, test, keep=keep)
    calibration = fit_calibration(fitted_on, sensitivities=sensitivity or sensitivities)
    if kept is not None:
        here, there = ((each.num_cycles, each.num_patients, each.is_scaled) for each in (calibration, kept))
        if here != there:
            raise DataError(
                f"the model's calibration was fitted to {there[0]} cycles of {there[1]} patients, this run has "
                f"{here[0]} of {here[1]}: put a new one into the model with 'lungsound calibrate RUN --keep'"
            )
        calibration = kept.model_copy(update={"operating_points": calibration.operating_points})
    prevalences = prevalence or evaluation.PREVALENCES
    measures = evaluation.measure_operating_points(calibration, measured_on, prevalences, Bootstrap())
    print_lines(*(f"Warning: {problem}" for problem in (*remarks, *calibration.problems)))
    print_table(evaluation.OPERATING_HEAD, evaluation.operating_rows(measures))
    print_lines(
        f"Abnormal when P(abnormal) = 1 - P(normal), probabilities {calibration.scaling}, reaches the threshold.",
        *(["predictions.csv holds the probabilities before scaling."] if run and calibration.is_scaled else []),
        f"In percent, on the test, with intervals over patients. {NOTICE}",
    )
    if keep:
        _keep(run, calibration)


def _keep(run: Path | None, calibration: "Calibration", *, held_out: "Predictions | None" = None) -> None:
    """Store the calibration, and the measurement of the `held_out` patients, who are decided on anew by it."""
    from lungsound.evaluation.evidence import HELD_OUT, Evidence, Measured, Trained
    from lungsound.training.model_file import add_to_model, read_facts
    from lungsound.training.run import RunFolder

    assert run is not None
    folder = RunFolder(run)
    evidence = read_facts(folder.model).evidence
    if held_out is not None:
        if evidence is None:  # of a run by an older version
            facts = folder.facts()
            trained = (Trained(name=facts.corpus.name, num_patients=len(facts.patients["train"])),)
            names = [each.name for each in facts.corpus.members.values()] or [facts.corpus.name]
            is_synthetic = set(names) == {"synthetic"}
            evidence = Evidence(trained=trained, is_synthetic=is_synthetic, held_out=None)
        measured = Measured.of(calibration.decided(held_out), name=HELD_OUT, ages_years=())
        ages = () if evidence.held_out is None else evidence.held_out.ages_years
        measured = measured.model_copy(update={"ages_years": ages})
        evidence = evidence.model_copy(update={"held_out": measured})
    add_to_model(folder.model, calibration=calibration, evidence=evidence)
    print_lines(f"stored in {folder.model}; pages show it after 'lungsound evaluate' and 'calibrate' of the run")


def _rows(
    run: Path | None, validation: Path | None, test: Path | None, *, keep: bool
) -> "tuple[Predictions, Predictions, Calibration | None, list[float], list[str], Predictions | None]":
    """Predictions to fit on and to measure on (of a run: of its selected epoch), and the calibration in its model.

    Then the wanted sensitivities unless others are given, remarks, and the validation rows of a model with a threshold.
    """
    from lungsound.evaluation.calibration import WANTED_SENSITIVITY
    from lungsound.evaluation.predictions import VALIDATION_PART, read_predictions
    from lungsound.evaluation.runs import read_test_rows
    from lungsound.evaluation.selection import COLUMN_OF, LAST
    from lungsound.training.model_file import read_facts, unfinished
    from lungsound.training.run import RunFolder

    if keep and run is None:
        raise SettingsError("--keep stores into the model of a run: give its folder as RUN")
    kept = fitted_on = measured_on = threshold_on = unknown = None
    if run is None and validation is not None and test is not None:
        given, measured_on = read_predictions(validation), read_test_rows(test)
        fitted_on = given.to_calibrate() or given
    elif run is not None and validation is None and test is None:
        folder = RunFolder(run)
        column = COLUMN_OF[folder.config().train.selection]
        if problem := unfinished(run):
            raise SettingsError(problem)
        unknown = folder.check_model()
        columns = folder.columns()
        predictions = columns.get(column, columns.get(LAST))  # with no epoch selected the model is that of the last
        if predictions is not None:
            fitted_on, measured_on = predictions.to_calibrate(), predictions.of_test()
        if fitted_on is None or measured_on is None:
            raise SettingsError(
                f"{run} has no epochs/{column}.csv with validation and test rows: train it with data.protocol=strict, "
                "or give --validation FILE and --test FILE"
            )
        kept = read_facts(folder.model).calibration
        if predictions is not None and kept is not None and kept.normal_threshold is not None:
            threshold_on = predictions.of_part(VALIDATION_PART)
    else:
        raise SettingsError("give a RUN, or --validation FILE and --test FILE, predictions of different patients")
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
    num_shared = len(set(fitted_on.patients) & set(measured_on.patients))
    remarks = [] if unknown is None else [unknown]
    if num_shared:
        remarks.append(f"Patients in both validation and test: {num_shared}. The measurements are optimistic.")
    points = () if kept is None else kept.operating_points
    sensitivities = [point.wanted_sensitivity for point in points] or [WANTED_SENSITIVITY]
    return fitted_on, measured_on, kept, sensitivities, remarks, threshold_on
