"""An archive beside `predict`: what counts as the same, and a small call."""

from pathlib import Path

import pytest
from benchmarks.archive import MARK, ONE_OF, WAYS, difference, main

from tests.benchmarks.inputs import write_inputs

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
    recordings, into, options = write_inputs(tmp_path, MARK)
    main([*recordings, "--times", str(ONE_OF), *options])
    page = into.read_text(encoding="utf-8")
    assert all(f"| {way} |" in page for way in WAYS)
    assert "3 names, s | 300 names, s" in page
