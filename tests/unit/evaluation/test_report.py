import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from lungsound.errors import DataError
from lungsound.evaluation import report
from lungsound.evaluation.bootstrap import Bootstrap, patient_confusions
from lungsound.evaluation.metrics import (
    confusion_matrix,
    f1,
    icbhi_score,
    macro_f1,
    mean_score,
    precision,
    recall,
    two_class_score,
)
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.report import HardCycle, ReportInputs, hardest_rows, summary_lines, write_report
from lungsound.evaluation.rescore import PatientCounts, rescore
from lungsound.evaluation.scores import Evaluation, evaluate_predictions, score_subgroups
from lungsound.evaluation.selection import column_rows

CONTEXT = {
    "corpus": "made up",
    "split": "test",
    "recipe": "tiny | pipes",
    "pretrained weights": "none",
    "epoch selection": "last",
    "command": "lungsound\ntrain",
}
HISTORY = [{"epoch": 1, "loss": 2.0, "learning_rate": 1e-4}, {"epoch": 2, "loss": 1.0, "learning_rate": 1e-5}]


def predictions_of(
    num_cycles: int = 120,
    num_patients: int = 12,
    classes: tuple[str, ...] = ("normal", "crackle", "wheeze", "both"),
    parts: tuple[str, ...] = ("test",),
) -> Predictions:
    generator = np.random.default_rng(11)
    labels = generator.integers(0, len(classes), num_cycles)
    rows = generator.dirichlet([0.7] * len(classes), num_cycles) + 0.3 * np.eye(len(classes))[labels]
    patients = generator.integers(0, num_patients, num_cycles)
    return Predictions(
        keys=tuple(f"{p}_{i % 2}_Al#{i}.000-{i + 1}.000" for i, p in enumerate(patients)),
        patients=tuple(str(p) for p in patients),
        devices=tuple(("Meditron", "", "LittC2SE")[p % 3] for p in patients),
        parts=tuple(parts[i % len(parts)] for i in range(num_cycles)),
        labels=labels,
        probabilities=rows / 1.3,
        classes=classes,
    )


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_predictions(predictions_of(), Bootstrap(num_draws=200))


def empty_picture(*args: object, **_: object) -> None:
    next(path for path in args if isinstance(path, Path)).write_bytes(b"")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty files for pictures, for tests that read only the words."""
    for name in ("draw_confusion", "draw_score_intervals", "draw_curves"):
        monkeypatch.setattr(report, name, empty_picture)


def inputs_of(evaluation: Evaluation, **changed: Any) -> ReportInputs:
    return ReportInputs(**{"predictions": predictions_of(), "evaluation": evaluation, "context": CONTEXT, **changed})


def write(folder: Path, evaluation: Evaluation, **changed: Any) -> str:
    path = write_report(folder, inputs_of(evaluation, **changed))
    assert path == folder / "report.md"
    return path.read_text(encoding="utf-8")


def test_evaluation_is_that_of_its_confusion_matrix(evaluation: Evaluation) -> None:
    predictions = predictions_of()
    confusion = confusion_matrix(predictions.labels, predictions.predicted, 4)
    assert evaluation.confusion.tolist() == confusion.tolist()
    assert (evaluation.num_cycles, evaluation.num_patients) == (120, len(set(predictions.patients)))
    assert evaluation.num_recordings == len({key.split("#")[0] for key in predictions.keys})
    scores = evaluation.all_classes
    assert scores.score.value == icbhi_score(confusion).score
    assert scores.specificity.value == icbhi_score(confusion).specificity
    assert scores.sensitivity.value == icbhi_score(confusion).sensitivity
    assert evaluation.two_class is not None
    assert evaluation.two_class.score.value == two_class_score(confusion).score
    assert evaluation.accuracy.value == (predictions.labels == predictions.predicted).mean()
    assert evaluation.macro_f1.value == macro_f1(confusion)
    for estimate in (evaluation.accuracy, evaluation.macro_f1):
        assert estimate.interval.low < estimate.value < estimate.interval.high


def test_evaluation_of_each_class(evaluation: Evaluation) -> None:
    confusion = evaluation.confusion
    predictions = predictions_of()
    for index, of_class in enumerate(evaluation.per_class):
        assert of_class.name == predictions.classes[index]
        assert of_class.recall.value == recall(confusion)[index]
        assert of_class.precision.value == precision(confusion)[index]
        assert of_class.f1.value == f1(confusion)[index]
        assert of_class.num_cycles == (predictions.labels == index).sum()
        assert of_class.num_answered == (predictions.predicted == index).sum()
        patients = {p for p, label in zip(predictions.patients, predictions.labels, strict=True) if label == index}
        assert of_class.num_patients == len(patients)
        for estimate in (of_class.recall, of_class.precision, of_class.f1):
            assert estimate.interval.low < estimate.value < estimate.interval.high


def test_evaluation_of_each_device(evaluation: Evaluation) -> None:
    predictions = predictions_of()
    assert [of_device.name for of_device in evaluation.by_device] == ["", "LittC2SE", "Meditron"]
    assert sum(of_device.num_cycles for of_device in evaluation.by_device) == 120
    for of_device in evaluation.by_device:
        rows = [row for row, device in enumerate(predictions.devices) if device == of_device.name]
        confusion = confusion_matrix(predictions.labels[rows], predictions.predicted[rows], 4)
        assert of_device.scores.score.value == icbhi_score(confusion).score
        assert of_device.num_patients == len({predictions.patients[row] for row in rows})


def test_evaluation_of_each_part_of_the_split(evaluation: Evaluation) -> None:
    assert [(part.name, part.num_cycles, part.num_patients) for part in evaluation.by_part] == [
        ("test", 120, evaluation.num_patients)
    ]
    assert evaluation.by_part[0].scores == evaluation.all_classes
    predictions = predictions_of(parts=("intra", "inter", "intra"))
    inter, intra = evaluate_predictions(predictions, Bootstrap(num_draws=20)).by_part
    for of_part, name, rows in (
        (inter, "inter", range(1, 120, 3)),
        (intra, "intra", [r for r in range(120) if r % 3 != 1]),
    ):
        confusion = confusion_matrix(predictions.labels[rows], predictions.predicted[rows], 4)
        assert (of_part.name, of_part.num_cycles) == (name, len(rows))
        assert of_part.scores.score.value == icbhi_score(confusion).score
        assert of_part.num_patients == len({predictions.patients[row] for row in rows})


def test_intervals_are_fixed_by_the_seed(evaluation: Evaluation) -> None:
    expected = Bootstrap(num_draws=200).of_counts(patient_confusions(predictions_of()), mean_score)
    assert evaluation.all_classes.score == expected
    other = evaluate_predictions(predictions_of(), Bootstrap(1, num_draws=200))
    assert other.all_classes.score.interval != expected.interval
    assert other.interval_seed == 1


def test_two_classes_have_one_reading() -> None:
    evaluation = evaluate_predictions(predictions_of(classes=("normal", "abnormal")), Bootstrap(num_draws=20))
    assert evaluation.two_class is None


@pytest.mark.usefixtures("no_pictures")
def test_report_files_and_nothing_else(tmp_path: Path, evaluation: Evaluation) -> None:
    write(tmp_path / "run", evaluation, history=HISTORY)
    pictures = ["confusion.png", "curves.png", "intervals.png"]
    names = ["MODEL_CARD.md", *pictures, "report.html", "report.json", "report.md", "subgroups.png"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names
    first = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    page = write(tmp_path / "run", evaluation, history=HISTORY)
    assert re.findall(r"\]\(([^)]+)\)", page) == ["intervals.png", "confusion.png", "subgroups.png", "curves.png"]
    assert "| recipe | tiny \\| pipes |\n| pretrained weights | none |" in page
    assert "| command | lungsound train |\n" in page
    assert {name: (tmp_path / "run" / name).read_bytes() for name in names} == first


@pytest.mark.usefixtures("no_pictures")
def test_older_pictures_go_when_they_are_not_drawn_again(tmp_path: Path, evaluation: Evaluation) -> None:
    write(tmp_path, evaluation, history=HISTORY)
    one_device = dataclasses.replace(predictions_of(), devices=("Meditron",) * 120)
    page = write(tmp_path, evaluate_predictions(one_device, Bootstrap(num_draws=20)))
    for name in ("curves.png", "subgroups.png"):
        assert name not in page
        assert not (tmp_path / name).exists()


@pytest.mark.usefixtures("no_pictures")
def test_json_holds_every_number_as_a_fraction(tmp_path: Path, evaluation: Evaluation) -> None:
    write(tmp_path, evaluation, history=HISTORY, notes=["n"], chosen_epoch=2, num_shared_patients=0)
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert numbers["format"] == "lungsound report 2"
    assert numbers["unit"] == "fraction"
    assert numbers["confusion"] == evaluation.confusion.tolist()
    score = evaluation.all_classes.score
    assert numbers["all_classes"]["score"]["value"] == score.value
    assert numbers["all_classes"]["score"]["interval"] == {
        "low": score.interval.low,
        "high": score.interval.high,
        "level": 0.95,
        "num_draws": 200,
        "num_patients": evaluation.num_patients,
        "num_undefined": 0,
        "num_seeds": 1,
    }
    assert numbers["always_normal_score"] == 0.5
    assert [of_class["name"] for of_class in numbers["per_class"]] == list(evaluation.classes)
    assert [of_device["name"] for of_device in numbers["by_device"]] == ["", "LittC2SE", "Meditron"]
    assert [(of_part["name"], of_part["num_cycles"]) for of_part in numbers["by_part"]] == [("test", 120)]
    assert numbers["subgroups"] == {"device": numbers["by_device"]}
    assert numbers["hardest"] == []
    assert numbers["accuracy"]["value"] == evaluation.accuracy.value
    assert numbers["context"] == CONTEXT
    assert numbers["history"] == HISTORY
    assert (numbers["notes"], numbers["chosen_epoch"], numbers["num_shared_patients"]) == (["n"], 2, 0)


@pytest.mark.usefixtures("no_pictures")
def test_first_screen(tmp_path: Path, evaluation: Evaluation) -> None:
    score = evaluation.all_classes.score
    page = write(tmp_path, evaluation, num_shared_patients=0, notes=["The corpus is synthetic."])
    assert page.splitlines()[:20] == [
        f"# Score {100 * score.value:.1f}",
        "",
        f"**Score {100 * score.value:.1f} (95 % interval {100 * score.interval.low:.1f} to "
        f"{100 * score.interval.high:.1f})** on 120 cycles of {evaluation.num_patients} held-out patients, in percent. "
        f"Always predicting normal scores 50.0. AUC of normal or not {evaluation.all_classes.auc.in_percent()}.",
        "",
        "> The corpus is synthetic.",
        "",
        "- Data: made up; split test",
        "- Trained on: not stated",
        "- Weights: none",
        "- Epoch: the last one; no score chose it",
        "- Use: research software, not a medical device.",
        "",
        "| reading | Score | Sp | Se | AUC, normal or not |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {name} | "
            + " | ".join(
                value.in_percent()
                for value in (reading.score, reading.specificity, reading.sensitivity, evaluation.all_classes.auc)
            )
            + " |"
            for name, reading in (("4 classes", evaluation.all_classes), ("normal or not", evaluation.two_class))
        ),
        "",
        "![Scores with intervals](intervals.png)",
        "",
        "## By class",
    ]


@pytest.mark.usefixtures("no_pictures")
def test_epoch_chosen_on_the_test_split_is_a_warning(tmp_path: Path, evaluation: Evaluation) -> None:
    page = write(tmp_path, evaluation, context={**CONTEXT, "epoch selection": "best_on_test"})
    assert "> **Warning: the epoch was chosen by its Score on this same test split." in page
    assert "The Score may be too high, by an unknown amount;" in page
    assert "- Epoch: chosen by the Score on the test split itself" in page
    other = write(tmp_path, evaluation, context={**CONTEXT, "epoch selection": "best_on_other_test"})
    assert "Warning" not in other
    assert "- Epoch: chosen by the Score on the test split of the corpus that it was trained on" in other
    for selection in ("last", "validation"):
        assert "Warning" not in write(tmp_path, evaluation, context={**CONTEXT, "epoch selection": selection})


@pytest.mark.usefixtures("no_pictures")
def test_patients_that_training_saw_are_a_warning_and_not_called_held_out(
    tmp_path: Path, evaluation: Evaluation
) -> None:
    page = write(tmp_path, evaluation, num_shared_patients=0, num_validation_patients=3)
    assert "> **Warning: 3 of the patients also have recordings in validation.**" in page
    assert "held-out" not in page
    page = write(tmp_path, evaluation, num_shared_patients=2)
    assert "> **Warning: 2 of the patients also have recordings in the training set.**" in page
    one = write(tmp_path, evaluation, num_shared_patients=1)
    assert "> **Warning: 1 of the patients also has recordings in the training set.**" in one
    assert "held-out" not in page
    assert "held-out patients, in percent" not in write(tmp_path, evaluation)


@pytest.mark.usefixtures("no_pictures")
def test_several_parts_have_their_lines_and_table(tmp_path: Path) -> None:
    evaluation = evaluate_predictions(predictions_of(parts=("inter", "intra", "")), Bootstrap(num_draws=50))
    page = write(tmp_path, evaluation, notes=["Made up."])
    lines = summary_lines(inputs_of(evaluation, notes=["Made up."]))
    names = ["unknown part", "inter", "intra"]
    assert [line.split(" (")[0].split(":")[0] for line in lines[1:]] == [*names, "Made up."]
    table = page.split("### By part of the split\n\n")[1].split("\n\n")[0].splitlines()
    assert table[0] == "| part | cycles | patients | Score | Sp | Se | AUC, normal or not |"
    for name, of_part, line, row in zip(names, evaluation.by_part, lines[1:], table[2:], strict=False):
        value, interval = 100 * of_part.scores.score.value, of_part.scores.score.interval
        assert line == (
            f"{name}: Score {value:.1f} (95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f}) "
            f"on 40 cycles of {of_part.num_patients} patients. AUC of normal or not {of_part.scores.auc.in_percent()}."
        )
        assert row.startswith(f"| {name} | 40 | {of_part.num_patients} | {of_part.scores.score.in_percent()} | ")
        assert row.endswith(f" | {of_part.scores.auc.in_percent()} |")
    assert len(table) == 5


@pytest.mark.usefixtures("no_pictures")
def test_several_parts_are_in_the_picture_of_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []

    def draw(lines: list[Any], path: Path, **_: str) -> None:
        drawn.append([line.name for line in lines])
        path.write_bytes(b"")

    monkeypatch.setattr(report, "draw_score_intervals", draw)
    write(tmp_path, evaluate_predictions(predictions_of(parts=("inter", "intra")), Bootstrap(num_draws=5)))
    assert drawn[0][5:] == ["Score, inter", "Score, intra"]
    devices = ["unknown device", "device: LittC2SE", "device: Meditron"]
    assert drawn[1] == ["part: inter", "part: intra", *devices]


@pytest.mark.usefixtures("no_pictures")
def test_one_patient_and_no_abnormal_cycle(tmp_path: Path) -> None:
    predictions = Predictions(
        keys=("a#0-1", "a#1-2"),
        patients=("p", "p"),
        devices=("", ""),
        parts=("", ""),
        labels=np.array([0, 0]),
        probabilities=np.array([[0.9, 0.1], [0.2, 0.8]]),
        classes=("normal", "abnormal"),
    )
    page = write(tmp_path, evaluate_predictions(predictions, Bootstrap(num_draws=20)))
    reason = "no interval: one patient: how patients differ cannot be seen"
    assert page.startswith(f"# Score n/a\n\n**Score n/a ({reason})** on 2 cycles of 1 ")
    assert "| 2 classes | n/a | 50.0 (n/a) | n/a |" in page
    assert "| *unknown device* | 2 | 1 | n/a | 50.0 (n/a) | n/a |" in page
    assert "Few patients: unknown device (1)." in page
    assert "> **Warning: few patients (1)." in page
    assert "nan" not in page
    numbers = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert numbers["all_classes"]["score"]["value"] is None
    assert numbers["all_classes"]["specificity"]["value"] == 0.5


@pytest.mark.usefixtures("no_pictures")
def test_resamples_without_a_score_are_told(tmp_path: Path) -> None:
    predictions = Predictions(
        keys=tuple(f"{p}#0-1" for p in range(12)),
        patients=tuple(str(p) for p in range(12)),
        devices=("",) * 12,
        parts=("",) * 12,
        labels=np.array([1] + [0] * 11),
        probabilities=np.tile([0.4, 0.6], (12, 1)),
        classes=("normal", "abnormal"),
    )
    evaluation = evaluate_predictions(predictions, Bootstrap(num_draws=500))
    num_undefined = evaluation.all_classes.score.interval.num_undefined
    # The one patient with an abnormal cycle is missed with probability (11/12)^12.
    assert num_undefined / 500 == pytest.approx((11 / 12) ** 12, abs=0.07)
    assert f"In {num_undefined} of 500 resamples of the patients the Score had no value" in write(tmp_path, evaluation)


def test_a_failing_picture_leaves_the_older_report(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("draw_confusion", "draw_score_intervals"):
        monkeypatch.setattr(report, name, empty_picture)
    write(tmp_path, evaluation, history=HISTORY)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = evaluate_predictions(predictions_of(num_cycles=60), Bootstrap(num_draws=20))
    with pytest.raises(DataError, match="loss of epoch 1 is 'x'"):
        write(tmp_path, other, history=[{"epoch": 1, "loss": "x"}])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("no_pictures")
def test_an_interval_without_width_is_not_certainty(tmp_path: Path) -> None:
    predictions = predictions_of()
    right = dataclasses.replace(predictions, probabilities=np.eye(4)[predictions.labels])
    page = write(tmp_path, evaluate_predictions(right, Bootstrap(num_draws=50)))
    assert "**Score 100.0 (95 % interval 100.0 to 100.0)**" in page
    assert "> **Warning: every resample gave the same Score." in page


@pytest.mark.usefixtures("no_pictures")
def test_history_with_gaps_is_strict_json(tmp_path: Path, evaluation: Evaluation) -> None:
    write(tmp_path, evaluation, history=[{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": math.nan}])
    assert json.loads((tmp_path / "report.json").read_text())["history"][1] == {"epoch": 2, "loss": None}


def test_a_terminal_shows_the_score_and_what_warns(evaluation: Evaluation) -> None:
    context, notes = CONTEXT | {"epoch selection": "best_on_test"}, ["Left out: age <2, device `x`, 5 * 3."]
    first, warning, note = summary_lines(inputs_of(evaluation, context=context, notes=notes))
    assert first.startswith(f"Score {100 * evaluation.all_classes.score.value:.1f} (95 % interval")
    assert warning.startswith("Warning: the epoch was chosen by its Score")
    assert note == notes[0]


class Tags(HTMLParser):
    """Start tags of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def hard_cycles() -> list[HardCycle]:
    predictions, generator = predictions_of(), np.random.default_rng(5)
    waveform = generator.normal(0, 0.1, 16000).astype(np.float32)
    rows = hardest_rows(predictions, num_cycles=2)
    return [HardCycle.of_row(predictions, row, waveform=waveform, sample_rate_hz=16000) for row in rows]


def test_html_is_one_file_with_pictures_and_sounds(tmp_path: Path, evaluation: Evaluation) -> None:
    hardest = hard_cycles()
    page = write(tmp_path, evaluation, history=HISTORY, hardest=hardest, notes=["<script>alert(1)</script>"])
    pictures = ["confusion.png", "curves.png", "intervals.png"]
    names = ["MODEL_CARD.md", *pictures, "report.html", "report.json", "report.md", "subgroups.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    html = (tmp_path / "report.html").read_text()
    tags = Tags(html)
    sources = [attributes["src"] or "" for name in ("img", "audio") for attributes in tags.named(name)]
    embedded = [base64.b64decode(source.partition(",")[2]) for source in sources[:6]]
    assert [source.partition(",")[0] for source in sources] == ["data:image/png;base64"] * 6 + [
        "data:audio/wav;base64"
    ] * 2
    assert embedded[:3] == [(tmp_path / f"{name}.png").read_bytes() for name in ("intervals", "confusion", "subgroups")]
    assert all(attributes["alt"] for attributes in tags.named("img"))
    assert not tags.named("script")
    assert "<script>alert(1)</script>" in tags.text
    for cycle in hardest:
        chance = 100 * cycle.probabilities[cycle.label], 100 * cycle.probabilities[cycle.predicted]
        assert f"{cycle.key}: {cycle.label}, predicted {cycle.predicted}" in tags.text
        assert f"| {cycle.key} | {cycle.label} | {cycle.predicted} | {chance[0]:.1f} | {chance[1]:.1f} |" in page
    assert "Sound (" not in page
    numbers = json.loads((tmp_path / "report.json").read_text())["hardest"]
    assert numbers[0] == {
        "key": hardest[0].key,
        "label": hardest[0].label,
        "answer": hardest[0].predicted,
        "probabilities": dict(hardest[0].probabilities),
    }


@pytest.mark.usefixtures("no_pictures")
def test_subgroups_have_tables_and_small_ones_are_greyed(tmp_path: Path, evaluation: Evaluation) -> None:
    predictions = predictions_of()
    sex = ["F" if int(patient) < 2 else "M" for patient in predictions.patients]
    subgroups = score_subgroups(predictions, {"sex": sex}, Bootstrap(num_draws=20))
    page = write(tmp_path, evaluation, subgroups=subgroups)
    women, men = subgroups[0].groups
    assert f"| *F* | {women.num_cycles} | 2 | {women.scores.score.in_percent()} | " in page
    assert f"| M | {men.num_cycles} | 10 | {men.scores.score.in_percent()} | " in page
    assert "Few patients: F (2). An interval from fewer than 10 patients is itself uncertain." in page
    tags = Tags((tmp_path / "report.html").read_text())
    assert len(tags.named("em")) == 1 + 3
    numbers = json.loads((tmp_path / "report.json").read_text())["subgroups"]
    assert list(numbers) == ["device", "sex"]
    assert numbers["sex"][0]["scores"]["score"]["value"] == women.scores.score.value


@pytest.mark.usefixtures("no_pictures")
def test_sections_stand_in_order_and_their_pictures_move_along(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibration_section(_: object, test: Predictions, *, folder: Path, remarks: list[str]) -> Markup:
        assert test.keys == predictions_of().keys
        (folder / "reliability.png").write_bytes(b"made up")
        return Markup(f"## Calibration\n\n![Reliability](reliability.png)\n\n{remarks[0]}")

    monkeypatch.setattr(report, "calibration_section", calibration_section)
    columns = {"test": column_rows([{"last": predictions_of()}], [{"last": 3}], part="test")}
    metrics = [rescore(PatientCounts.of(predictions_of(), ["test"]), epoch="last", bootstrap=Bootstrap(0, 20))]
    more = {"columns": columns, "calibration": object(), "metrics": metrics, "num_validation_patients": 2}
    page = write(tmp_path, evaluation, **more)
    places = [page.index(text) for text in ("| reading |", "| last epoch |", "intervals.png", "## By class")]
    places += [page.index(text) for text in ("## By group", "## Calibration", "(reliability.png)")]
    places += [page.index(text) for text in ("Validation has 2 of these", "## Every metric", "## What was run")]
    assert places == sorted(places)
    assert (tmp_path / "reliability.png").read_bytes() == b"made up"
    assert base64.b64encode(b"made up").decode() in (tmp_path / "report.html").read_text()
    assert "(reliability.png)" in (tmp_path / "MODEL_CARD.md").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_failing_section_leaves_the_older_report(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, folder: Path, **_more: object) -> Markup:
        (folder / "half.png").write_bytes(b"")
        raise DataError("no validation rows")

    write(tmp_path, evaluation)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(report, "calibration_section", failing)
    with pytest.raises(DataError, match="no validation rows"):
        write(tmp_path, evaluation, notes=["newer"], calibration=object())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(("selection", "is_chosen_on_test"), [("best_on_test", True), ("validation", False)])
def test_curves_know_whether_the_test_chose_the_epoch(
    selection: str, is_chosen_on_test: bool, tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(_: object, path: Path, **settings: object) -> None:
        path.write_bytes(b"")
        drawn.append(settings)

    monkeypatch.setattr(report, "draw_curves", draw)
    write(tmp_path, evaluation, context={"epoch selection": selection}, history=HISTORY, chosen_epoch=2)
    assert drawn == [{"chosen_epoch": 2, "is_chosen_on_test": is_chosen_on_test}]


@pytest.mark.usefixtures("no_pictures")
def test_the_columns_are_three_also_when_the_run_has_one(tmp_path: Path, evaluation: Evaluation) -> None:
    reasons = {"validation": "no patient was held out"}
    columns = {"test": column_rows([{"last": predictions_of()}], [{"last": 3}], part="test", unwatched=reasons)}
    page = write(tmp_path, evaluation, columns=columns)
    table = page.split("| epoch | which | ")[1].split("\n\n")[0].splitlines()[2:]
    assert [row.split(" | ")[1] for row in table] == [
        "3",
        "none (no patient was held out)",
        "none (no epoch had a sensitivity over 5 %)",
    ]
    assert "the first of equals, among those with a sensitivity over 5 %" in page
    assert "Three ways to choose" not in write(tmp_path, evaluation)
