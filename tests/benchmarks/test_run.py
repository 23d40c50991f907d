"""The table of speed: its rows and aims, and a quick call of each part."""

from pathlib import Path

import pytest
from benchmarks.__main__ import MARK, main
from benchmarks.rows import Row

from tests.benchmarks.inputs import write_inputs


def test_a_row_has_median_quartiles_and_aim() -> None:
    # Of four values by hand: 1.75, 2.5, 3.25.
    row = Row("what", [4.0, 1.0, 2.0, 3.0], "x", "how", at_least=3)
    assert row.cells == ("what", "2.50 x", "1.75 to 3.25", "at least 3", "how")
    assert row.is_reached is False
    assert Row("what", [4.0], "%", "how", at_most=4).is_reached is True
    assert Row("what", [4.0], "%", "how").is_reached is None


def test_other_words_are_refused_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--part", "all"])
    assert refused.value.code == 2
    assert "all" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "num_rows"), [("predict", 5), ("service", 2), ("features", 3), ("inference", 4), ("steps", 4)]
)
def test_every_row_of_a_part_is_measured(part: str, num_rows: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the peer needs pip install 'lungsound[baselines]'")
    pytest.importorskip("fastapi", reason="the service needs pip install 'lungsound[serve]'")
    recordings, into, options = write_inputs(tmp_path, MARK)
    main([*recordings, "--part", part, "--quick", *options])
    page = into.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= num_rows  # the rows of bf16 are there where the processor has it
    assert all(float(cells[1].split()[0]) > 0 for cells in rows)
    assert "RECORDING..." in page
    assert recordings[0] not in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
