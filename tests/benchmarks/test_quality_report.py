"""The report of a small corpus, and of what is planted in it."""

from pathlib import Path

import pytest
from benchmarks.quality import PLANTED, report_quality
from rich.console import Console

from lungsound.errors import SettingsError


def test_what_is_said_and_what_is_noticed(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(width=200)
    done = []
    report_quality(
        synthetic_corpus_dir,
        tmp_path / "quality",
        console=console,
        parts=("test",),
        num_planted=1,
        on_progress=lambda *given: done.append(given),
    )
    told = capsys.readouterr().out
    assert done[-1][0] == done[-1][1] == len(done) > 0
    assert "answers withheld for 0" in told
    for each in PLANTED:
        assert each.name in told
    page = (tmp_path / "quality.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if "speech" in line and "+10 dB" in line)
    assert "100" in row
    assert (tmp_path / "quality.html").is_file()


def test_no_recordings_are_refused(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no recordings"):
        report_quality(synthetic_corpus_dir, tmp_path / "quality", console=Console(), parts=("none",))
