"""Deletion, insertion and overlap by hand; true sounds in a cycle; the table of a model that predicts crackle."""

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
    read_events,
    tiles,
    true_bins,
)
from torch import Tensor

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, load_config
from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE, Cycle, Recording
from lungsound.data.synthetic import Event
from lungsound.data.synthetic_sounds import COARSE, FINE, crackle
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.training.model_file import save_model
from lungsound.training.run import RunFolder


def test_areas_by_hand() -> None:
    shares, tile = torch.tensor([0.1, 0.4, 0.2, 0.3]), tiles(2, 2, size=1)

    def predict(is_away: Tensor) -> Tensor:
        return ((~is_away).flatten(1) * shares).sum(dim=1)

    best = deletion_and_insertion(predict, shares, tile)
    assert best == pytest.approx(((1 / 2 + 0.6 + 0.3 + 0.1 + 0 / 2) / 4, (0 / 2 + 0.4 + 0.7 + 0.9 + 1 / 2) / 4))
    assert deletion_and_insertion(predict, -shares, tile) == pytest.approx(best[::-1])
    first_to_last = deletion_and_insertion(predict, torch.zeros(4), tile)  # equals go in order
    assert first_to_last[0] == pytest.approx((1 / 2 + 0.9 + 0.5 + 0.3 + 0 / 2) / 4)
    in_two_steps = deletion_and_insertion(predict, shares, tile, num_steps=2)
    assert in_two_steps[0] == pytest.approx((1 / 2 + 0.3 + 0 / 2) / 2)


@pytest.mark.parametrize(("num_frames", "num_mels", "num_steps"), [(40, 33, 10), (7, 5, 3)])
def test_areas_of_a_curved_prediction_are_those_of_a_loop(num_frames: int, num_mels: int, num_steps: int) -> None:
    """Tiles that are cut, equal values, a probability that is no sum: bin by bin and step by step."""
    generator = torch.Generator().manual_seed(num_frames)
    sound = torch.rand(num_frames, num_mels, generator=generator).tolist()
    tile = tiles(num_frames, num_mels)
    values = torch.rand(int(tile.max()) + 1, generator=generator).mul(4).round()  # many are equal

    def probability(is_away: list[list[bool]]) -> float:
        left = sum(sound[t][m] * (m + 1) for t in range(num_frames) for m in range(num_mels) if not is_away[t][m])
        return math.tanh(left / 50.0)

    def predict(is_away: Tensor) -> Tensor:
        return torch.tensor([probability(mask) for mask in is_away.tolist()], dtype=torch.float64)

    per_row = math.ceil(num_mels / 16)
    order = sorted(range(len(values)), key=lambda place: -float(values[place]))  # keeps the order of equals
    numbers = sorted({round(len(order) * step / num_steps) for step in range(num_steps + 1)})
    curves: list[list[float]] = [[], []]
    for number in numbers:
        gone = set(order[:number])
        in_gone = [[(t // 16) * per_row + m // 16 in gone for m in range(num_mels)] for t in range(num_frames)]
        curves[0].append(probability(in_gone))
        curves[1].append(probability([[not each for each in row] for row in in_gone]))
    areas = [np.trapezoid(curve, np.array(numbers) / len(order)) for curve in curves]
    assert deletion_and_insertion(predict, values, tile, num_steps=num_steps) == pytest.approx(areas, rel=1e-9)


def test_overlap_and_means_by_hand() -> None:
    values = torch.tensor([3.0, -5.0, 1.0, 0.0])
    assert overlap(values, torch.tensor([False, True, True, False])) == (0, 0.25)
    first = torch.tensor([True, False, False, False])
    assert overlap(values, first)[0] == 1
    assert math.isnan(overlap(-values.abs(), first)[1])
    mean = mean_over_cycles(np.arange(12.0), np.repeat(list("abcdef"), 2))
    assert mean.interval.low < mean.value == 5.5 < mean.interval.high
    assert mean.interval.num_patients == 6
    assert mean_over_cycles(np.array([math.nan, 1.0, 3.0]), np.array(["a", "a", "b"])).value == 2.0


@pytest.mark.slow
def test_the_table_compares_relevance_with_other_orders(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("demo", [f"data.root={synthetic_corpus_dir}", "audio.duration_s=1.0"])
    labels, run = LABEL_SETS["sound4"], RunFolder(tmp_path)
    model = make_classifier(config.model, FrontEnd(config.audio), labels)
    model.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head[-1].weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        model.head[-1].bias[1] = 3.0  # crackle
    run.start(config)
    save_model(run.model, model, audio=config.audio, architecture=config.model, mean=-9.0, std=3.0, label_set=labels)
    main([str(tmp_path), "--cycles", "12"])
    page = capsys.readouterr().out
    found = re.findall(r"^\| all \| 12 \| \d+ \| (\w+) \| ([\d.]+) \([^|]*\| ([\d.]+) \(", page, re.MULTILINE)
    areas = {order: (float(deletion), float(insertion)) for order, deletion, insertion in found}
    assert areas["relevance"][0] < areas["chance"][0]
    assert areas["relevance"][1] > areas["chance"][1]
    assert "| crackle | " in page
    assert "| wheeze | " not in page  # none was predicted right


def test_true_bins_are_those_of_time_and_band() -> None:
    cycle = Cycle(Recording("r", "p", Path("r.wav"), 9.0, 4000), 2.0, 4.0, has_crackle=False, has_wheeze=True)
    front_end = FrontEnd(AudioSettings(sample_rate_hz=4000, duration_s=3.0, num_mels=48))
    banks, bin_hz = front_end.log_mel.mel_banks, 4000 / front_end.log_mel.fft_size
    for event, frames in (
        (Event("wheeze", 2.5, 2.8, 400.0), range(50, 80)),
        (Event("wheeze", 1.0, 2.0975, 400.0), range(10)),
        (Event("wheeze", 3.9, 4.5, 400.0), range(190, 200)),
        (Event("wheeze", 1.0, 1.9, 400.0), range(0)),
        (Event("coarse crackle", 3.0, 3.012, 300.0), range(100, 102)),
    ):
        is_true = true_bins([event], cycle, front_end, 200)
        assert is_true.any(dim=1).nonzero().flatten().tolist() == list(frames), event
        low_hz, high_hz = band_hz(event)
        in_band = [low_hz - bin_hz < row * bin_hz < high_hz + bin_hz for row in range(len(banks))]
        expected = (banks[np.array(in_band)] > 0).any(axis=0) & bool(frames)
        assert np.array_equal(is_true.any(dim=0), expected), event


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
