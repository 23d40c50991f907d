"""An archive beside `predict`: what counts as the same, and a small call."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from benchmarks.archive import MARK, ONE_OF, WAYS, difference, main

from lungsound.experiments.study import BEGIN, END
from tests.unit.inference.models import saved_model

ROW = {"path": "few/1.wav", "label": "normal", "p_normal": 0.75, "error": None}
KEY = ("1.wav", "cycle", 0.0)


def test_the_largest_difference_of_a_number_is_told() -> None:
    near = {**ROW, "path": "all/1.wav", "p_normal": 0.75 + 2**-21}
    assert difference({KEY: ROW}, {KEY: near}) == 2**-21


@pytest.mark.parametrize(
    "other",
    [{}, {KEY: {**ROW, "label": "crackle"}}, {KEY: {**ROW, "p_normal": 0.7501}}, {KEY: {**ROW, "error": "unreadable"}}],
)
def test_other_rows_labels_numbers_and_failures_end_the_call(
    other: dict[tuple[object, ...], dict[str, object]],
) -> None:
    with pytest.raises(SystemExit):
        difference({KEY: ROW}, other)


@pytest.mark.slow
def test_a_small_call_writes_the_table(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs pip install 'lungsound[ray]'")
    pytest.importorskip("pyarrow", reason="needs pip install 'lungsound[parquet]'")
    saved_model(tmp_path / "run")
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(24000), 8000)
    into = tmp_path / "page.md"
    into.write_text(f"{BEGIN.format(MARK)}\n{END.format(MARK)}\n", encoding="utf-8")
    main([str(tmp_path), "--times", str(ONE_OF), "--model", str(tmp_path / "run"), "--into", str(into)])
    page = into.read_text(encoding="utf-8")
    assert all(f"| {way} |" in page for way in WAYS)
    assert "3 names, s | 300 names, s" in page
