"""Sp, Se and Score as the authors' published program gives them; it counts in percent, we in fractions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungsound.evaluation.metrics import accuracy, confusion_matrix, icbhi_score, two_class_score
from lungsound.evaluation.predictions import Predictions
from tests.golden.formulas import uni

GOLDEN = json.loads((Path(__file__).parent / "data" / "scores.json").read_text())
CLASSES = ("normal", "crackle", "wheeze", "both")


@pytest.mark.parametrize("case", GOLDEN["get_score"])
def test_score_of_hits_and_counts(case: dict[str, Any]) -> None:
    hits, counts = case["hits"], case["counts"]
    wrong = np.array(counts) - hits
    confusion = np.diag(hits) + np.roll(np.diag(wrong), 1, axis=1)
    ours = icbhi_score(confusion)
    specificity, sensitivity, score = case["sp_se_sc"]
    # The published program adds 1e-10 to the denominators, hence 0 where nothing is there; ours is then NaN.
    if counts[0]:
        assert 100 * ours.specificity == pytest.approx(specificity, abs=1e-8)
    else:
        assert specificity == 0.0
        assert np.isnan(ours.specificity)
    if sum(counts[1:]):
        assert 100 * ours.sensitivity == pytest.approx(sensitivity, abs=1e-8)
    else:
        assert sensitivity == 0.0
        assert np.isnan(ours.sensitivity)
    if counts[0] and sum(counts[1:]):
        assert 100 * ours.score == pytest.approx(score, abs=1e-8)
    else:
        assert np.isnan(ours.score)


@pytest.mark.parametrize("case", GOLDEN["validate"])
def test_validation_pass_from_logits_to_printed_scores(case: dict[str, Any]) -> None:
    num_cycles = case["num_cycles"]
    logits = uni(f"e_val_logits{case['case']}", (num_cycles, 4)).astype(np.float64)
    logits[:, 0] += case["normal_bias"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    predictions = Predictions(
        keys=tuple(f"r#{i}.000-{i + 1}.000" for i in range(num_cycles)),
        patients=("p",) * num_cycles,
        devices=("",) * num_cycles,
        parts=("",) * num_cycles,
        labels=np.array(case["labels"]),
        probabilities=powers / powers.sum(axis=1, keepdims=True),
        classes=CLASSES,
    )
    confusion = confusion_matrix(predictions.labels, predictions.predicted, 4)
    assert confusion.tolist() == case["confusion"]
    ours = (two_class_score if case["is_two_class"] else icbhi_score)(confusion)
    in_percent = [100 * value for value in (ours.specificity, ours.sensitivity, ours.score)]
    assert in_percent == pytest.approx(case["printed_percent"], abs=0.00501)
    assert 100 * float(accuracy(confusion)) == pytest.approx(case["accuracy_printed_percent"], abs=0.00501)


def test_cases_cover_both_readings_and_both_extremes() -> None:
    cases = GOLDEN["validate"]
    assert {case["is_two_class"] for case in cases} == {True, False}
    assert {case["printed_percent"][0] for case in cases} >= {0.0, 100.0}
