"""The report of explanations, of a model that answers crackle, and where planted sounds lie in a cycle."""

import io
import re
from pathlib import Path

import pytest
import torch
from benchmarks.explanations import planted_bins, report_explanations
from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, load_config
from lungsound.data.corpus import Cycle, Recording
from lungsound.data.synthetic import Event
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.training.run import RunFolder

CYCLE = Cycle(Recording("r", "p", Path("r.wav"), 9.0, 4000), 2.0, 4.0, has_crackle=False, has_wheeze=True)


def run_that_answers_crackle(folder: Path, corpus: Path) -> Path:
    config = load_config("demo", [f"data.root={corpus}"])
    model = make_classifier(config.model, FrontEnd(config.audio), LABEL_SETS["sound4"])
    model.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head[-1].weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        model.head[-1].bias[1] = 3.0
    run = RunFolder(folder)
    folder.mkdir()
    run.start(config)
    run.save_model(model, mean=-9.0, std=3.0)
    return folder


def test_report_compares_relevance_with_other_orders(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    run, printed, done = run_that_answers_crackle(tmp_path / "run", synthetic_corpus_dir), io.StringIO(), []
    for name in ("first", "second"):
        report_explanations(
            run,
            tmp_path / name,
            console=Console(file=printed, width=200),
            num_cycles=12,
            on_progress=lambda number, total: done.append((number, total)),
        )
    page = (tmp_path / "first.md").read_text(encoding="utf-8")
    assert page == (tmp_path / "second.md").read_text(encoding="utf-8")
    assert "<table>" in (tmp_path / "first.html").read_text(encoding="utf-8")
    assert done[:12] == [(number, 12) for number in range(1, 13)]
    areas = {
        name: (float(deletion), float(insertion))
        for name, deletion, insertion in re.findall(
            r"^\| ([a-z ]+) \| ([\d.]+) \([^|]*\| ([\d.]+) \([^|]*\| ", page, re.M
        )
    }
    assert areas["relevance"][0] < areas["chance"][0]
    assert areas["relevance"][1] > areas["chance"][1]
    assert "planted: crackle" in page
    assert "planted: wheeze" not in page  # none was answered right
    assert "| relevance |" in printed.getvalue()


@pytest.mark.parametrize(
    ("event", "frames"),
    [
        (Event("wheeze", 2.5, 2.8, 400.0), range(50, 80)),
        (Event("wheeze", 1.0, 2.0975, 400.0), range(10)),
        (Event("wheeze", 3.9, 4.5, 400.0), range(190, 200)),
        (Event("wheeze", 1.0, 1.9, 400.0), range(0)),
        (Event("coarse crackle", 3.0, 3.012, 300.0), range(100, 102)),
    ],
)
def test_planted_bins_are_those_of_time_and_band(event: Event, frames: range) -> None:
    own_front_end = FrontEnd(AudioSettings(sample_rate_hz=4000, duration_s=3.0, num_mels=48))
    found = planted_bins([event], CYCLE, own_front_end, 200)
    assert found.any(dim=1).nonzero().flatten().tolist() == list(frames)
    low_hz, high_hz = event.band_hz
    banks, bin_hz = own_front_end.log_mel.mel_banks, 4000 / own_front_end.log_mel.fft_size
    expected = {
        mel
        for row in range(len(banks))
        for mel in range(48)
        if banks[row, mel] > 0 and low_hz - bin_hz < row * bin_hz < high_hz + bin_hz
    }
    assert set(found.any(dim=0).nonzero().flatten().tolist()) == (expected if frames else set())
