import numpy as np
import pytest

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.scores import evaluate_predictions


def test_interval_of_macro_f1_is_over_resamples_with_every_class() -> None:
    # 12 patients with normal and crackle; only the first has wheeze: it is missed with probability (11/12)^12.
    labels = np.array([0, 1] * 12 + [2])
    predictions = Predictions(
        keys=tuple(f"r#{i}-{i + 1}" for i in range(25)),
        patients=(*(f"p{i // 2:02}" for i in range(24)), "p00"),
        devices=("",) * 25,
        parts=("test",) * 25,
        labels=labels,
        probabilities=np.eye(3)[np.where(labels == 2, 0, labels)],
        classes=("normal", "crackle", "wheeze"),
    )
    found = evaluate_predictions(predictions, Bootstrap(num_draws=4000))
    assert found.macro_f1.value == pytest.approx((24 / 25 + 1 + 0) / 3)
    interval = found.macro_f1.interval
    assert interval.num_undefined / interval.num_draws == pytest.approx((11 / 12) ** 12, abs=0.03)
    assert interval.high < 2 / 3  # 1 when resamples without wheeze are means over the other two
    assert found.accuracy.interval.num_undefined == 0
