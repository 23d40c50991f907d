from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from lungsound.evaluation import report
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.report import ReportInputs, write_report
from lungsound.evaluation.scores import Evaluation, evaluate_predictions, score_subgroups
from lungsound.evaluation.selection import column_rows

CONTEXT = {
    "corpus": "icbhi, 288 recordings",
    "split": "official, tested on test",
    "protocol": "strict",
    "trained on": "icbhi, split official",
    "training cycles": "3000",
    "training patients": "60",
    "pretrained weights": "none",
    "epoch selection": "validation",
    "recipe": "tiny_ce",
    "model": "AST tiny",
    "labels": "sound4",
    "input": "8 s, 128 mels",
    "versions": "lungsound 0.1.0",
    "model hash": "abc123",
}


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    generator = np.random.default_rng(6)
    labels = generator.integers(0, 3, 90)
    return Predictions(
        keys=tuple(f"r{row}#0-1" for row in range(90)),
        patients=tuple(f"p{row % 15}" for row in range(90)),
        devices=("Meditron",) * 90,
        parts=("test",) * 90,
        labels=labels,
        probabilities=(generator.dirichlet([1.0] * 3, 90) + 0.5 * np.eye(3)[labels]) / 1.5,
        classes=("normal", "crackle", "wheeze"),
    )


@pytest.fixture(scope="module")
def evaluation(predictions: Predictions) -> Evaluation:
    return evaluate_predictions(predictions, Bootstrap(num_draws=50))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*args: object, **_: object) -> None:
        next(path for path in args if isinstance(path, Path)).write_bytes(b"")

    for name in ("draw_confusion", "draw_score_intervals"):
        monkeypatch.setattr(report, name, draw)


def card(folder: Path, predictions: Predictions, evaluation: Evaluation, **more: object) -> str:
    inputs = ReportInputs(**{"predictions": predictions, "evaluation": evaluation, "context": CONTEXT, **more})
    return write_report(folder, inputs).with_name("MODEL_CARD.md").read_text()


def sections(page: str) -> dict[str, str]:
    """Text under each heading of level 2."""
    return dict(part.split("\n", 1) for part in page.split("\n## ")[1:])


def test_the_card_says_what_the_model_is(tmp_path: Path, predictions: Predictions, evaluation: Evaluation) -> None:
    page = card(tmp_path / "run", predictions, evaluation, chosen_epoch=7, num_shared_patients=0)
    assert page.startswith("# Model card: tiny_ce\n")
    found = sections(page)
    titles = ["Intended use", "Model", "Training", "Scores", "Scores by group", "Calibration", "Limits", "Versions"]
    assert list(found) == titles
    assert "Not to diagnose, treat or monitor anyone." in found["Intended use"]
    assert "one of the classes normal, crackle and wheeze." in found["Intended use"]
    assert "| model | AST tiny |" in found["Model"]
    assert "| input | 8 s, 128 mels |" in found["Model"]
    for fact in ("trained on", "protocol", "training cycles", "training patients", "recipe"):
        assert f"| {fact} | {CONTEXT[fact]} |" in found["Training"]
    assert "| model hash | abc123 |" in found["Versions"]
    assert "| revision | not stated |" in found["Versions"]
    assert page.endswith("*Research software, not a medical device.*\n")


def test_every_fact_stands_once(tmp_path: Path, predictions: Predictions, evaluation: Evaluation) -> None:
    page = card(tmp_path, predictions, evaluation)
    for fact in CONTEXT:
        assert page.count(f"| {fact} | ") == (0 if fact == "epoch selection" else 1)


def test_the_card_gives_the_scores_and_how_the_epoch_was_chosen(
    tmp_path: Path, predictions: Predictions, evaluation: Evaluation
) -> None:
    columns = {"test": column_rows([{"last": predictions}], [{"last": 7}], part="test")}
    page = card(tmp_path, predictions, evaluation, chosen_epoch=7, columns=columns)
    text = sections(page)["Scores"]
    score = evaluation.all_classes
    cells = " | ".join(e.in_percent() for e in (score.score, score.specificity, score.sensitivity))
    assert f"| 3 classes | {cells} |" in text
    assert "| epoch | epoch 7; chosen by the Score on patients held out of the training set |" in text
    assert page.index("| 3 classes |") < page.index("| last epoch | 7 |")


def test_the_card_gives_subgroups_and_calibration(
    tmp_path: Path, predictions: Predictions, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    subgroups = score_subgroups(predictions, {"sex": ["F"] * 6 + ["M"] * 84}, Bootstrap(num_draws=20))
    section = Markup("## Calibration and abstention\n\nECE 3.0")
    monkeypatch.setattr(report, "calibration_section", lambda *_, **__: section)
    page = card(tmp_path, predictions, evaluation, subgroups=subgroups, calibration=object())
    found = sections(page)
    assert "| *F* | 6 | 6 |" in found["Scores by group"]
    assert "| Meditron | 90 | 15 |" in found["Scores by group"]
    assert found["Calibration and abstention"].strip() == "ECE 3.0"
    assert "Calibration" not in found


def test_the_card_names_its_limits(tmp_path: Path, predictions: Predictions, evaluation: Evaluation) -> None:
    more = {"context": CONTEXT | {"epoch selection": "best_on_test"}, "notes": ["Made up."]}
    page = card(tmp_path, predictions, evaluation, **more, num_shared_patients=2, num_validation_patients=1)
    limits = sections(page)["Limits"].strip().splitlines()
    assert limits[0].startswith("- Warning: the epoch was chosen by its Score on this same test split.")
    assert limits[1] == "- Warning: 2 of the patients also have recordings in the training set."
    assert limits[2] == "- Warning: 1 of the patients also has recordings in validation."
    assert limits[3] == "- Made up."
    unknown = "- Whether these patients are in the training set is not known."
    assert unknown not in limits
    page = card(tmp_path, predictions, evaluation)
    assert unknown in sections(page)["Limits"].splitlines()
