"""A tiny call of the measurement of `predict`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from benchmarks.predicting import main

from tests.unit.inference.models import saved_model

pytest.importorskip("transformers", reason="the peer needs pip install 'lungsound[baselines]'")


@pytest.mark.slow
def test_every_row_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_model(tmp_path / "run")
    rng = np.random.default_rng(0)
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(24000), 8000)
    words = [str(tmp_path / f"{number}.wav") for number in range(3)]
    main([*words, "--model", str(tmp_path / "run"), "--rounds", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 4
    assert all(float(cells[1].split()[0].replace(",", "")) > 0 for cells in rows)
    assert "3 recordings" in rows[0][3]
