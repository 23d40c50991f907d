import json
import math
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.metrics import confusion_matrix, mean_score
from lungsound.evaluation.rescore import (
    NO_COLUMN,
    CycleTable,
    MetricValue,
    PatientCounts,
    Rescored,
    find_test_set,
    known_numbers,
    metric_table,
    reader_warnings,
    resample_notes,
    rescore,
    summary,
    write_rescore,
)
from lungsound.labels import LABEL_SETS

CLASSES = ("normal", "crackle", "wheeze", "both")
OFFICIAL = np.array([[1289, 150, 120, 20], [300, 280, 49, 20], [150, 35, 180, 20], [40, 40, 30, 33]])


def scored(counts: PatientCounts, *, seed: int = 0, num_draws: int = 20) -> Rescored:
    return rescore(counts, epoch="last", bootstrap=Bootstrap(seed, num_draws))


def of_matrix(confusion: np.ndarray, classes: tuple[str, ...] = CLASSES, parts: tuple[str, ...] = ()) -> Rescored:
    return scored(PatientCounts(classes, np.array(confusion)[np.newaxis], False, parts, notes=("a note",)))


def drawn_table(num_cycles: int = 300, num_patients: int = 20) -> CycleTable:
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, num_cycles)
    probabilities = generator.dirichlet(np.ones(4), num_cycles)
    probabilities[np.arange(num_cycles), labels] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return CycleTable(
        classes=CLASSES,
        labels=labels,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        patients=tuple(f"p{i % num_patients:02}" for i in range(num_cycles)),
        parts=("",) * num_cycles,
        notes=("a note",),
    )


def counted(table: CycleTable) -> PatientCounts:
    return PatientCounts.of(table, [""])


def value(result: Rescored, key: str) -> MetricValue:
    return next(metric for metric in result.metrics if metric.key == key)


def test_every_metric_has_a_name_a_definition_and_a_column() -> None:
    result = scored(counted(drawn_table()))
    keys = [metric.key for metric in result.metrics]
    # Without a Poor Quality class the same as Se and Score.
    left_out = {"challenge_sensitivity", "average_score"}
    assert keys == [metric.key for metric in known_numbers().metrics if metric.key not in left_out]
    assert len({metric.name for metric in result.metrics}) == len(keys)
    assert all(metric.definition and metric.beside for metric in result.metrics)


def test_values_are_those_of_the_metrics_and_intervals_are_over_patients() -> None:
    table = drawn_table()
    counts = counted(table)
    result = scored(counts, seed=5, num_draws=200)
    confusion = confusion_matrix(table.labels, table.predicted, 4)
    np.testing.assert_array_equal(counts.confusion, confusion)
    assert value(result, "score").estimate == Bootstrap(5, 200).of_counts(counts.confusions, mean_score)
    assert value(result, "score").estimate.value == pytest.approx(float(mean_score(confusion)))
    assert all(metric.estimate.interval.problem is None for metric in result.metrics)
    assert not any("interval" in warning.lower() for warning in reader_warnings(result))


def test_interval_of_an_area_is_that_of_the_resampled_rows() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    table = drawn_table(num_cycles=120, num_patients=12)
    area = value(scored(counted(table), num_draws=200), "abnormal_auroc").estimate
    theirs = sklearn_metrics.roc_auc_score(table.labels != 0, 1 - table.probabilities[:, 0])
    assert area.value == pytest.approx(theirs)
    generator, patients = np.random.default_rng(1), np.array(table.patients)
    values = []
    for _ in range(60):
        taken = generator.choice(np.unique(patients), 12)
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in taken])
        values.append(sklearn_metrics.roc_auc_score(table.labels[rows] != 0, 1 - table.probabilities[rows, 0]))
    low, high = np.quantile(values, [0.025, 0.975])
    assert (area.interval.low, area.interval.high) == pytest.approx((low, high), abs=0.06)


def test_official_icbhi_matrix_stands_beside_its_columns() -> None:
    result = of_matrix(OFFICIAL)
    beside = {metric.key: metric.beside for metric in result.metrics if metric.is_beside_published}
    assert beside == {
        "specificity": "Sp of ICBHI, 4 classes",
        "sensitivity": "Se of ICBHI, 4 classes",
        "score": "Score of ICBHI, 4 classes",
        "two_class_sensitivity": "Se of ICBHI, 2 classes",
        "two_class_score": "Score of ICBHI, 2 classes",
    }
    assert value(result, "macro_mean_score").beside == "no Sp, Se or Score column"
    assert value(result, "challenge_score").beside == NO_COLUMN
    warnings = reader_warnings(result)
    assert any("Patients 156 and 218" in warning for warning in warnings)
    assert not any("Not comparable" in warning for warning in warnings)
    paper = next(score for score in result.published if score.score == 62.37)
    assert result.estimate_beside(paper) == value(result, "score").estimate
    two_class = next(score for score in result.published if score.score == 68.71)
    assert result.estimate_beside(two_class) == value(result, "two_class_score").estimate


def test_a_part_of_icbhi_stands_beside_nothing() -> None:
    for part in (OFFICIAL // 2, np.diag([639, 102, 140, 39])):
        result = of_matrix(part)
        assert not any(metric.is_beside_published for metric in result.metrics)
        assert result.published == []
        assert any(warning.startswith("Not comparable with published") for warning in reader_warnings(result))
    assert any("920 of the 2,756 test cycles" in warning for warning in reader_warnings(of_matrix(part)))


def test_folded_sprsound_stands_beside_the_two_class_task_only() -> None:
    result = of_matrix(np.diag([1040, 83, 305, 1]))
    beside = {metric.key: metric.beside for metric in result.metrics if metric.is_beside_published}
    assert set(beside) == {
        "two_class_sensitivity",
        "two_class_score",
        "two_class_harmonic_score",
        "two_class_challenge_score",
    }
    assert beside["two_class_challenge_score"] == "Score of SPRSound inter, task 1-1"
    warnings = reader_warnings(result)
    assert any("Read as 2 classes they are SPRSound 2022, inter" in warning for warning in warnings)
    assert any("both (1)" in warning for warning in warnings)


def test_poor_quality_recordings_are_left_out_of_the_challenge_only() -> None:
    confusion = np.diag([241, 65, 24, 17, 8])
    confusion[1] = [5, 50, 5, 0, 5]
    confusion[4] = [8, 0, 0, 0, 0]
    result = of_matrix(confusion, LABEL_SETS["sprsound_record5"].classes)
    assert value(result, "challenge_sensitivity").estimate.value == pytest.approx((50 + 24 + 17) / (65 + 24 + 17))
    assert value(result, "sensitivity").estimate.value == pytest.approx((50 + 24 + 17) / (65 + 24 + 17 + 8))
    assert value(result, "challenge_sensitivity").beside == "SE of SPRSound inter, task 2-2"
    assert value(result, "sensitivity").beside == value(result, "score").beside == NO_COLUMN
    assert not any(metric.key.startswith("two_class") for metric in result.metrics)


def test_two_classes_have_no_second_reading() -> None:
    result = of_matrix(np.array([[1200, 379], [500, 677]]), ("normal", "abnormal"))
    assert not any(metric.key.startswith("two_class") for metric in result.metrics)
    assert value(result, "score").beside == "Score of ICBHI, 2 classes"
    assert result.estimate_beside(result.published[0]) == value(result, "score").estimate


def test_a_matrix_has_no_interval() -> None:
    result = of_matrix(OFFICIAL)
    assert any(warning.startswith("No intervals: nothing says") for warning in reader_warnings(result))
    assert value(result, "score").text == result.counts.text(value(result, "score").estimate) == "61.8"
    assert value(result, "cohen_kappa").text == "0.38"  # no fraction, so not in percent


def test_warnings_about_intervals() -> None:
    for num_patients, text in ((20, ""), (5, "there are only 5 patients"), (1, "one patient cannot show how")):
        warnings = reader_warnings(scored(counted(drawn_table(100, num_patients))))
        about = " ".join(warning for warning in warnings if "ntervals" in warning)
        assert bool(about) == bool(text), num_patients
        assert text in about


def test_the_part_that_chose_the_epoch_is_optimistic() -> None:
    result = of_matrix(OFFICIAL)
    on_test, on_validation = "chosen on the test set itself", "chosen on the validation set itself: this score is optim"
    for epoch, parts, text in (
        ("test", (), on_test),
        ("unknown", (), "is not stated"),
        ("last", (), ""),
        ("test", ("validation",), ""),
        ("test", ("train",), ""),
        ("test", ("inter",), on_test),
        ("test", ("validation", "test"), on_test),
        ("validation", ("validation",), on_validation),
        ("validation", ("test",), ""),
        ("validation", (), ""),
        ("last", ("validation",), ""),
        ("unknown", ("validation",), "is not stated"),
    ):
        warnings = reader_warnings(replace(result, epoch=epoch, counts=replace(result.counts, parts=parts)))
        about = " ".join(warning for warning in warnings if "epoch" in warning.lower())
        assert bool(about) == bool(text), (epoch, parts)
        assert text in about


def test_resamples_without_a_class_are_counted() -> None:
    for num_rare, shown in ((1, "60.0 (60.0 to 60.0)"), (2, "45.0 (n/a)")):
        confusions = np.zeros((8, 4, 4), dtype=np.int64)
        confusions[:, 0, 0], confusions[:, 0, 1], confusions[:, 1, 1] = 8, 2, 10
        for rare in range(num_rare):
            confusions[rare, 2 + rare, 0] = 5
        result = scored(PatientCounts(CLASSES, confusions, has_patients=True), num_draws=500)
        macro_recall = value(result, "macro_recall")
        assert macro_recall.text == shown
        (note,) = resample_notes(result)
        assert f"{macro_recall.estimate.interval.num_undefined} of 500 resamples: Macro recall (UAR), Macro sp" in note
        assert "Sensitivity" not in note
        assert metric_table(result).endswith(f"|\n\n{note}\n")
    assert resample_notes(scored(counted(drawn_table()), num_draws=200)) == []


def test_warning_names_three_scores_of_the_same_predictions() -> None:
    result = of_matrix(OFFICIAL)
    (warning,) = [warning for warning in reader_warnings(result) if warning.startswith("Three numbers")]
    for key in ("score", "two_class_score", "macro_mean_score"):
        assert f"{100 * value(result, key).estimate.value:.1f}" in warning


def test_always_normal_is_no_better() -> None:
    always_normal = np.zeros((4, 4), dtype=np.int64)
    always_normal[:, 0] = OFFICIAL.sum(axis=1)
    assert any("not above the 50.0" in warning for warning in reader_warnings(of_matrix(always_normal)))
    assert not any("not above the 50.0" in warning for warning in reader_warnings(of_matrix(OFFICIAL)))


def test_no_normal_cycle_is_no_number() -> None:
    confusion = OFFICIAL.copy()
    confusion[0] = 0
    result = of_matrix(confusion)
    assert math.isnan(value(result, "score").estimate.value)
    assert value(result, "score").text == "n/a"
    assert any("Without a cycle, and left out of macro means: normal" in each for each in reader_warnings(result))


def page_of(folder: Path, *results: Rescored) -> str:
    write_rescore(folder, Path("f.csv"), results)
    return (folder / "rescore.md").read_text(encoding="utf-8")


def test_summary() -> None:
    assert summary(of_matrix(OFFICIAL)) == (
        "2756 cycles, ICBHI 2017, official test set, 4 classes; classes normal, crackle, wheeze, both. Values in "
        "percent."
    )
    text = summary(scored(counted(drawn_table())))
    assert "300 cycles of 20 patients; classes" in text
    assert text.endswith("In brackets: 95 % intervals over patients.")


def test_tables_of_the_page(tmp_path: Path) -> None:
    result = of_matrix(OFFICIAL)
    page = page_of(tmp_path, result)
    assert f"| metric | value | comparable with | what it is |\n{'| --- ' * 4}|\n" in page
    assert (
        "| ICBHI Score, exact class | 61.8 | Score of ICBHI, 4 classes | mean of Sp and Se; SPRSound's average" in page
    )
    assert all(f"| {metric.name} | {metric.text} |" in page for metric in result.metrics)
    recall, precision, f1 = (100 * share for share in (1289 / 1579, 1289 / 1779, 2 * 1289 / (1579 + 1779)))
    assert f"| normal | 1579 | 1779 | {recall:.1f} | {precision:.1f} | {f1:.1f} |" in page
    assert "| | normal | crackle | wheeze | both |\n| --- | ---: | ---: | ---: | ---: |\n| normal | 1289 |" in page
    assert "| crackle | 300 | 280 | 49 | 20 |" in page
    assert "> **Patients 156 and 218" in page
    assert "### How the file was read\n\n- a note" in page
    assert "a note" in (tmp_path / "rescore.html").read_text(encoding="utf-8")


def test_published_numbers_on_the_page(tmp_path: Path) -> None:
    result = of_matrix(OFFICIAL)
    page = page_of(tmp_path, result)
    cells = [line.strip("| ").split(" | ") for line in page.partition("| method |")[2].splitlines()]
    rows = {row[0]: row for row in cells if len(row) == 8}
    ours = 100 * (1289 / 1579 + (280 + 180 + 33) / 1177) / 2
    ends = ["62.37 \N{PLUS-MINUS SIGN} 0.61", "on test (optimistic)", f"{ours - 62.37:+.1f}"]
    assert rows["AST, Patch-Mix contrastive"][3:] == ["81.66", "43.07", *ends]
    assert rows["BTS"][1:] == ["INTERSPEECH 2024", "4 classes", "", "", "63.54", "not known", f"{ours - 63.54:+.1f}"]
    two_class = 100 * (1289 / 1579 + (1177 - 490) / 1177) / 2
    assert rows["AST, Patch-Mix contrastive, read as 2 classes"][-1] == f"{two_class - 68.71:+.1f}"
    assert not {"SAM-AST", "MVST", "RespireNet, five folds"} & rows.keys()
    assert "- SAM-AST (68.10): its sensitivity is counted in 2 classes" in page


def test_parts_have_sections_of_their_own(tmp_path: Path) -> None:
    page = page_of(tmp_path, *(of_matrix(OFFICIAL // 2, parts=(part,)) for part in ("inter", "intra")))
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## Part inter", "## Part intra"]
    assert "Published numbers" not in page


def test_json_reads_back(tmp_path: Path) -> None:
    by_patients = scored(counted(drawn_table()))
    page = write_rescore(tmp_path, Path("f.csv"), [of_matrix(OFFICIAL), by_patients])
    assert page.name == "rescore.html"
    plain = json.loads((tmp_path / "rescore.json").read_text())
    assert (plain["format"], plain["unit"], plain["file"]) == ("lungsound rescore 1", "fraction", "f.csv")
    first, second = plain["parts"]
    assert first["confusion"] == OFFICIAL.tolist()
    assert (first["intervals_over"], first["num_units"], first["epoch"]) == (None, None, "last")
    score = next(metric for metric in first["metrics"] if metric["key"] == "score")
    assert (score["low"], score["high"], score["is_beside_published"]) == (None, None, True)
    score = next(metric for metric in second["metrics"] if metric["key"] == "score")
    assert score["low"] < score["value"] < score["high"]
    assert score["num_undefined"] == 0
    assert (second["intervals_over"], second["num_units"]) == ("patient", 20)
    assert second["by_class"][0]["recall"]["value"] == by_patients.per_class[0].recall.value


# ---- known test sets and published scores ----

OFFICIAL_TOTALS = (1579, 649, 385, 143)


def test_score_of_the_paper_is_the_mean_of_its_sp_and_se() -> None:
    paper = next(score for score in known_numbers().scores if score.name == "AST, Patch-Mix contrastive")
    assert (paper.specificity, paper.sensitivity, paper.score) == (81.66, 43.07, 62.37)


def test_every_printed_score_is_the_mean_of_the_printed_parts() -> None:
    for score in known_numbers().scores:
        if score.specificity is not None:
            # Each number is rounded, and means over seeds are rounded on their own; the physicians' have one digit.
            tolerance = 0.055 if "physicians" in score.name else 0.011
            mean = (score.specificity + score.sensitivity) / 2
            assert mean == pytest.approx(score.score, abs=tolerance), score.name


def test_every_score_belongs_to_a_known_set() -> None:
    sets = {(known.name, known.task) for known in known_numbers().test_sets}
    for score in known_numbers().scores:
        assert (score.test_set, score.task) in sets, score.name
        assert score.score is not None or score.not_comparable is not None, score.name


def test_no_method_comes_twice_in_one_task() -> None:
    names = [(score.name, score.task) for score in known_numbers().scores]
    assert len(set(names)) == len(names)


def test_test_sets_agree_with_the_totals_of_the_corpora() -> None:
    text = resources.files("lungsound.data").joinpath("manifests", "published_totals.toml").read_text(encoding="utf-8")
    totals = tomllib.loads(text)
    parts = {
        "ICBHI 2017, official test set": totals["icbhi"]["parts"]["test"]["cycles"],
        "ICBHI 2017, official training set": totals["icbhi"]["parts"]["train"]["cycles"],
        "ICBHI 2017, all recordings": totals["icbhi"]["cycles"],
        "SPRSound 2022, inter": totals["sprsound"]["parts"]["inter"]["cycles"],
        "SPRSound 2022, intra": totals["sprsound"]["parts"]["intra"]["cycles"],
    }
    for name, cycles in parts.items():
        known = find_test_set(cycles)
        assert known is not None
        assert known.name == name
        assert "4 classes" in known.task
        two_class = find_test_set([cycles[0], sum(cycles[1:])])
        assert two_class is None or two_class.name == name


def test_seven_and_two_classes_of_events_are_as_many() -> None:
    for name in ("inter", "intra"):
        by_task = {known.task: known for known in known_numbers().test_sets if known.name == f"SPRSound 2022, {name}"}
        events = [known.totals for task, known in by_task.items() if task.startswith("events")]
        assert len(events) == 3
        assert len({(totals[0], sum(totals[1:])) for totals in events}) == 1
        recordings = [known.totals for task, known in by_task.items() if task.startswith("recordings")]
        assert [sum(totals) for totals in recordings] == [{"inter": 355, "intra": 379}[name]] * 2


def test_no_two_sets_are_mistaken_for_each_other() -> None:
    for known in known_numbers().test_sets:
        assert find_test_set(known.totals) is known


def test_totals_in_another_order() -> None:
    for totals, is_known in (
        ((1579, 385, 649, 143), True),
        ((1579, 649, 385, 143, 0), True),
        ((649, 1579, 385, 143), False),
        ((1579, 649, 385, 142), False),
        ((0, 0), False),
    ):
        assert (find_test_set(totals) is find_test_set(OFFICIAL_TOTALS)) is is_known, totals


def test_comparable_sets_have_a_short_name() -> None:
    assert find_test_set(OFFICIAL_TOTALS).short == "ICBHI, 4 classes"
    assert all(bool(known.short) == (known.not_comparable is None) for known in known_numbers().test_sets)
