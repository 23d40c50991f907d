"""Deletion, insertion and overlap by hand; the report of a model that predicts crackle; planted sounds in a cycle."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.explanations import (
    band_hz,
    deletion_and_insertion,
    main,
    mean_over_cycles,
    overlap,
    planted_bins,
    read_events,
    tile_means,
    tiles,
)
from torch import Tensor

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, load_config
from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE, Cycle, Recording
from lungsound.data.synthetic import Event
from lungsound.data.synthetic_sounds import COARSE, FINE, crackle
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.training.checkpoint import save_model
from lungsound.training.run import RunFolder

SHARES = torch.tensor([0.1, 0.4, 0.2, 0.3])


def predict(is_away: Tensor) -> Tensor:
    """Probability that the four bins which are still there add up to."""
    return ((~is_away).flatten(1) * SHARES).sum(dim=1)


def test_areas_by_hand() -> None:
    tile = tiles(2, 2, size=1)
    best = deletion_and_insertion(predict, SHARES, tile)
    assert best.deletion == pytest.approx((1 / 2 + 0.6 + 0.3 + 0.1 + 0 / 2) / 4)
    assert best.insertion == pytest.approx((0 / 2 + 0.4 + 0.7 + 0.9 + 1 / 2) / 4)
    worst = deletion_and_insertion(predict, -SHARES, tile)
    assert worst.deletion == pytest.approx(best.insertion)
    assert worst.insertion == pytest.approx(best.deletion)
    first_to_last = deletion_and_insertion(predict, torch.zeros(4), tile)  # equals go in order
    assert first_to_last.deletion == pytest.approx((1 / 2 + 0.9 + 0.5 + 0.3 + 0 / 2) / 4)


def test_areas_in_fewer_steps_than_tiles() -> None:
    two = deletion_and_insertion(predict, SHARES, tiles(2, 2, size=1), num_steps=2)
    assert two.deletion == pytest.approx((1 / 2 + 0.3 + 0 / 2) / 2)


def test_tiles_cover_every_bin_once() -> None:
    tile = tiles(5, 7, size=3)
    naive = [[(time // 3) * 3 + mel // 3 for mel in range(7)] for time in range(5)]
    assert tile.tolist() == naive
    bins = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    means = tile_means(bins, tile)
    assert means[4] == pytest.approx(float(bins[3:, 3:6].mean()))
    assert means[5] == pytest.approx(float(bins[3:, 6:].mean()))


def test_overlap_by_hand() -> None:
    values = torch.tensor([3.0, -5.0, 1.0, 0.0])
    found = overlap(values, torch.tensor([False, True, True, False]))
    assert (found.is_hit, found.share, found.area) == (False, 0.25, 0.5)
    assert overlap(values, torch.tensor([True, False, False, False])).is_hit
    assert math.isnan(overlap(-values.abs(), torch.tensor([True, False, False, False])).share)


def test_means_are_over_cycles_and_intervals_over_patients() -> None:
    patients = [name for name in "abcdef" for _ in range(2)]
    values = [float(place) for place in range(12)]
    found = mean_over_cycles(values, patients)
    assert found.value == pytest.approx(5.5)
    assert found.interval.num_patients == 6
    assert found.interval.low < 5.5 < found.interval.high
    with_hole = mean_over_cycles([math.nan, 1.0, 3.0], ["a", "a", "b"])
    assert with_hole.value == 2.0


@pytest.mark.parametrize(("num_frames", "num_mels", "num_steps"), [(40, 33, 10), (16, 16, 10), (35, 20, 4), (7, 5, 3)])
def test_areas_of_a_crooked_answer_are_those_of_a_loop(num_frames: int, num_mels: int, num_steps: int) -> None:
    """Tiles that are cut, equal values, an answer that is no sum: bin by bin and step by step."""
    generator = torch.Generator().manual_seed(num_frames)
    sound = torch.rand(num_frames, num_mels, generator=generator).tolist()
    tile = tiles(num_frames, num_mels)
    values = torch.rand(int(tile.max()) + 1, generator=generator).mul(4).round()  # many are equal

    def probability(is_away: list[list[bool]]) -> float:
        left = sum(sound[t][m] * (m + 1) for t in range(num_frames) for m in range(num_mels) if not is_away[t][m])
        return math.tanh(left / 50.0)

    def many(is_away: Tensor) -> Tensor:
        return torch.tensor([probability(mask) for mask in is_away.tolist()], dtype=torch.float64)

    per_row = math.ceil(num_mels / 16)
    order = sorted(range(len(values)), key=lambda place: -float(values[place]))  # keeps the order of equals
    numbers = sorted({round(len(order) * step / num_steps) for step in range(num_steps + 1)})
    curves: dict[str, list[float]] = {"deletion": [], "insertion": []}
    for number in numbers:
        gone = set(order[:number])
        in_gone = [[(t // 16) * per_row + m // 16 in gone for m in range(num_mels)] for t in range(num_frames)]
        curves["deletion"].append(probability(in_gone))
        curves["insertion"].append(probability([[not each for each in row] for row in in_gone]))
    found = deletion_and_insertion(many, values, tile, num_steps=num_steps)
    for name, curve in curves.items():
        area = sum(
            (numbers[step + 1] - numbers[step]) / len(order) * (curve[step] + curve[step + 1]) / 2
            for step in range(len(numbers) - 1)
        )
        assert getattr(found, name) == pytest.approx(area, rel=1e-9)
    assert found.deletion < 1.0


CYCLE = Cycle(Recording("r", "p", Path("r.wav"), 9.0, 4000), 2.0, 4.0, has_crackle=False, has_wheeze=True)


def run_that_predicts_crackle(folder: Path, corpus: Path) -> Path:
    config = load_config("demo", [f"data.root={corpus}"])
    model = make_classifier(config.model, FrontEnd(config.audio), LABEL_SETS["sound4"])
    model.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head[-1].weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        model.head[-1].bias[1] = 3.0
    run = RunFolder(folder)
    folder.mkdir()
    run.start(config)
    labels = LABEL_SETS["sound4"]
    save_model(run.model, model, audio=config.audio, architecture=config.model, mean=-9.0, std=3.0, label_set=labels)
    return folder


def test_report_compares_relevance_with_other_orders(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_that_predicts_crackle(tmp_path / "run", synthetic_corpus_dir)
    for name in ("first", "second"):
        main([str(run), "--out", str(tmp_path / name), "--cycles", "12"])
    page = (tmp_path / "first.md").read_text(encoding="utf-8")
    assert page == (tmp_path / "second.md").read_text(encoding="utf-8")
    assert "<table>" in (tmp_path / "first.html").read_text(encoding="utf-8")
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
    assert "| relevance |" in capsys.readouterr().out


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
    low_hz, high_hz = band_hz(event)
    banks, bin_hz = own_front_end.log_mel.mel_banks, 4000 / own_front_end.log_mel.fft_size
    expected = {
        mel
        for row in range(len(banks))
        for mel in range(48)
        if banks[row, mel] > 0 and low_hz - bin_hz < row * bin_hz < high_hz + bin_hz
    }
    assert set(found.any(dim=0).nonzero().flatten().tolist()) == (expected if frames else set())


def test_events_are_read_as_they_were_written(synthetic_corpus_dir: Path) -> None:
    written = (synthetic_corpus_dir / SYNTHETIC_EVENTS_FILE).read_text().splitlines()[1:]
    assert written == [
        f"{name}\t{e.kind}\t{e.start_s:.4f}\t{e.end_s:.4f}\t{e.frequency_hz:.1f}"
        for name, events in read_events(synthetic_corpus_dir).items()
        for e in events
    ]


def test_the_band_of_a_crackle_holds_its_energy() -> None:
    for kind in (FINE, COARSE):
        idw_s, two_cycle_s = sum(kind.idw_s) / 2, sum(kind.two_cycle_s) / 2
        power = np.abs(np.fft.rfft(crackle(16000, idw_s=idw_s, two_cycle_s=two_cycle_s), 8192)) ** 2
        frequency_hz = np.fft.rfftfreq(8192, 1 / 16000)
        low_hz, high_hz = band_hz(Event(kind.name, 0.0, two_cycle_s, 0.5 / idw_s))
        share = power[(frequency_hz > low_hz) & (frequency_hz < high_hz)].sum() / power.sum()
        assert 0.80 < share < 0.95
