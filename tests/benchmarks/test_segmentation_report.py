"""The report of found cycles, on the synthetic corpus."""

import io
import re
from pathlib import Path

import pytest
from benchmarks.segmentation import report_segmentation
from rich.console import Console

from lungsound.errors import SettingsError


def test_report_has_segmentation_beside_windows(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    printed, done = io.StringIO(), []
    report_segmentation(
        synthetic_corpus_dir,
        tmp_path / "segmentation",
        console=Console(file=printed, width=200),
        parts=("train", "test"),
        on_progress=lambda number, total: done.append((number, total)),
    )
    page = (tmp_path / "segmentation.md").read_text(encoding="utf-8")
    assert "<table>" in (tmp_path / "segmentation.html").read_text(encoding="utf-8")
    f1 = {
        name: float(value)
        for name, value in re.findall(
            r"^\| (segmentation|windows|windows at any phase) \| \d+ \| ([\d.]+) ", page, re.M
        )
    }
    assert f1["segmentation"] > f1["windows"] + 5
    assert f1["segmentation"] > f1["windows at any phase"] + 10
    assert "| segmentation |" in printed.getvalue()
    assert done[-1][0] == done[-1][1] == len(done)


def test_modes_that_no_recording_has_are_named(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="xx"):
        report_segmentation(synthetic_corpus_dir, tmp_path / "page", console=Console(quiet=True), modes=("xx",))
