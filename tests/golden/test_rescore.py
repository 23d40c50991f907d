"""A confusion matrix as the authors' published program prints it, rescored: the same Sp, Se and Score."""

import json
from pathlib import Path
from typing import Any

import pytest

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.rescore import rescore
from lungsound.evaluation.rescore_files import ReadOptions, read_parts

GOLDEN = json.loads((Path(__file__).parent / "data" / "scores.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["validate"])
def test_published_confusion_matrices(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "confusion.json"
    path.write_text(json.dumps(case["confusion"]), encoding="utf-8")
    classes = ("normal", "crackle", "wheeze", "both", "other")[: len(case["confusion"])]
    (counts,) = read_parts(path, ReadOptions(classes=classes))
    result = rescore(counts, epoch="unknown", bootstrap=Bootstrap(num_draws=10))
    values = {metric.key: 100 * metric.estimate.value for metric in result.metrics}
    reading = "two_class_" if case["is_two_class"] else ""
    ours = [values[key] for key in ("specificity", f"{reading}sensitivity", f"{reading}score")]
    assert ours == pytest.approx(case["printed_percent"], abs=0.00501)
    assert values["accuracy"] == pytest.approx(case["accuracy_printed_percent"], abs=0.00501)
