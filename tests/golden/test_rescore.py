"""A confusion matrix as the authors' published program prints it, rescored: the same Sp, Se and Score."""

import json
from pathlib import Path
from typing import Any

import pytest

from lungsound.evaluation.rescore import rescore
from lungsound.evaluation.rescore_files import Tally, read_answer_file

GOLDEN = json.loads((Path(__file__).parent / "data" / "scores.json").read_text())


@pytest.mark.parametrize("case", GOLDEN["validate"])
def test_published_confusion_matrices(case: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "confusion.txt"
    path.write_text("\n".join(" ".join(map(str, row)) for row in case["confusion"]) + "\n", encoding="utf-8")
    tally = read_answer_file(path)
    assert isinstance(tally, Tally)
    values = {line.key: 100 * line.value.value for line in rescore(tally).lines}
    reading = "two_class_" if case["is_two_class"] else ""
    ours = [values[key] for key in ("specificity", f"{reading}sensitivity", f"{reading}score")]
    assert ours == pytest.approx(case["printed_percent"], abs=0.00501)
    assert values["accuracy"] == pytest.approx(case["accuracy_printed_percent"], abs=0.00501)
