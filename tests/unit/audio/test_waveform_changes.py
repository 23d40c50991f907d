"""Each change does what its name says, to tones whose answer is known; draws are draws of the generator given."""

import math
import sys
from collections import Counter
from typing import get_args

import numpy as np
import pytest
import torch

from lungsound.audio.augment import RANGES, Kind, WaveformChange, change_waveform, check_installed, draw_waveform_change
from lungsound.errors import SettingsError

KINDS: tuple[Kind, ...] = get_args(Kind)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tone(frequency_hz: float, *, sample_rate_hz: int = 16000, duration_s: float = 2.0) -> torch.Tensor:
    t = torch.arange(int(duration_s * sample_rate_hz), dtype=torch.float64) / sample_rate_hz
    return (0.5 * torch.sin(2 * math.pi * frequency_hz * t)).float()


def loudest_hz(waveform: torch.Tensor, sample_rate_hz: int = 16000) -> float:
    """Frequency of the largest bin of the whole waveform's spectrum."""
    spectrum = np.abs(np.fft.rfft(waveform.numpy() * np.hanning(len(waveform))))
    return float(spectrum.argmax() * sample_rate_hz / len(waveform))


def changed(waveform: torch.Tensor, kind: Kind, amount: float, *, seed: int = 0, rate_hz: int = 16000) -> torch.Tensor:
    return change_waveform(waveform, WaveformChange(kind, amount, noise_seed=seed), sample_rate_hz=rate_hz)


@pytest.fixture
def stretch() -> None:
    pytest.importorskip("python_stretch", reason="the extra 'augment' is not installed; see docs/install.md")


# ---- what each change does ----


@pytest.mark.parametrize("factor", [0.5, 1.75])
def test_loudness_is_a_factor(factor: float) -> None:
    waveform = torch.randn(1000, generator=seeded(0))
    assert torch.equal(changed(waveform, "loudness", factor), waveform * factor)


@pytest.mark.parametrize("snr_db", [5.0, 20.0, 40.0])
def test_noise_has_the_ratio_and_is_white(snr_db: float) -> None:
    waveform = tone(440)
    noise = (changed(waveform, "noise", snr_db) - waveform).double()
    measured = 10 * math.log10(float(waveform.double().square().mean() / noise.square().mean()))
    assert measured == pytest.approx(snr_db, abs=0.1)
    power = np.abs(np.fft.rfft(noise.numpy())[1:-1]) ** 2
    quarters = power[: len(power) // 4 * 4].reshape(4, -1).mean(axis=1)
    np.testing.assert_allclose(quarters / quarters.mean(), 1, atol=0.1)


def test_noise_follows_its_seed_and_silence_stays_silent() -> None:
    waveform = tone(440)
    assert torch.equal(changed(waveform, "noise", 10, seed=1), changed(waveform, "noise", 10, seed=1))
    assert not torch.equal(changed(waveform, "noise", 10, seed=1), changed(waveform, "noise", 10, seed=2))
    assert torch.equal(changed(torch.zeros(50), "noise", 10), torch.zeros(50))


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize("rate", [0.8, 1.25])
@pytest.mark.parametrize("rate_hz", [4000, 16000, 32000])
def test_speed_changes_the_length_and_keeps_the_pitch(rate: float, rate_hz: int) -> None:
    waveform = tone(400, sample_rate_hz=rate_hz)
    faster = changed(waveform, "speed", rate, rate_hz=rate_hz)
    assert len(faster) == round(len(waveform) / rate)
    assert loudest_hz(faster, rate_hz) == pytest.approx(400, abs=2)
    assert float(faster.std() / waveform.std()) == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_speed_moves_a_click_in_time_and_keeps_it_a_click(rate: float) -> None:
    waveform = torch.zeros(32000)
    waveform[16000] = 1
    energy = changed(waveform, "speed", rate).square()
    place = round(16000 / rate)
    assert float(energy[place - 80 : place + 80].sum() / energy.sum()) > 0.8  # within 5 ms


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize("semitones", [-1.0, 1.5, 3.0])
@pytest.mark.parametrize("rate_hz", [4000, 16000])
def test_pitch_moves_a_tone_and_keeps_the_length(semitones: float, rate_hz: int) -> None:
    waveform = tone(400, sample_rate_hz=rate_hz)
    higher = changed(waveform, "pitch", semitones, rate_hz=rate_hz)
    assert len(higher) == len(waveform)
    assert loudest_hz(higher, rate_hz) == pytest.approx(400 * 2 ** (semitones / 12), abs=2)


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize("alpha", [0.9, 1.1])
@pytest.mark.parametrize("frequency_hz", [200, 1000, 3000, 6000, 7000])
def test_warp_multiplies_low_frequencies_and_moves_high_ones(alpha: float, frequency_hz: float) -> None:
    waveform = tone(frequency_hz)
    warped = changed(waveform, "warp", alpha)
    corner_hz = 0.3 * 16000 / math.sqrt(alpha)
    moved_hz = frequency_hz + (alpha - 1) * min(frequency_hz, corner_hz)
    assert len(warped) == len(waveform)
    assert loudest_hz(warped) == pytest.approx(moved_hz, abs=3)


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize("kind", ["pitch", "warp"])
def test_moving_frequencies_keeps_clicks_and_the_level_of_noise(kind: Kind) -> None:
    """A crackle is a click, a breath is noise: both must be what they were."""
    for amount in RANGES[kind]:
        click = torch.zeros(32000)
        click[16000] = 1
        energy = changed(click, kind, amount).square()
        assert float(energy[15920:16080].sum() / energy.sum()) > 0.8
        breath = torch.randn(32000, generator=seeded(0))
        assert float(changed(breath, kind, amount).std()) == pytest.approx(1, abs=0.2)


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_samples", [1, 2, 37, 2500])
def test_any_length_in_any_range(kind: Kind, num_samples: int) -> None:
    waveform = torch.randn(num_samples, generator=seeded(0))
    before = waveform.clone()
    for amount in RANGES[kind]:
        found = changed(waveform, kind, amount)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        expected = num_samples / amount if kind == "speed" else num_samples
        assert len(found) >= 1
        assert abs(len(found) - expected) <= 1
        assert torch.equal(changed(waveform, kind, amount), found)
    assert torch.equal(waveform, before)


# ---- draws ----


def test_kinds_are_drawn_evenly_and_amounts_fill_their_ranges() -> None:
    generator = seeded(0)
    drawn = [draw_waveform_change(KINDS, generator=generator) for _ in range(5000)]
    counts = Counter(change.kind for change in drawn if change is not None)
    assert all(abs(counts[kind] - 1000) < 150 for kind in KINDS)
    for kind, (low, high) in RANGES.items():
        amounts = np.array([change.amount for change in drawn if change is not None and change.kind == kind])
        assert low <= amounts.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < amounts.max() <= high
        assert amounts.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert len({change.noise_seed for change in drawn if change is not None}) == 5000


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.3, 240, 360), (1.0, 1000, 1000)])
def test_the_probability_is_how_often(probability: float, low: int, high: int) -> None:
    generator = seeded(1)
    drawn = [draw_waveform_change(["loudness"], generator=generator, probability=probability) for _ in range(1000)]
    assert low <= sum(change is not None for change in drawn) <= high


@pytest.mark.usefixtures("stretch")
def test_nothing_but_the_generator_is_drawn_from() -> None:
    waveform = tone(300, duration_s=0.2)
    first = [draw_waveform_change(KINDS, generator=seeded(seed)) for seed in range(20)]
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the state that must not change)
    assert [draw_waveform_change(KINDS, generator=seeded(seed)) for seed in range(20)] == first
    for kind in KINDS:
        assert torch.equal(*(changed(waveform, kind, RANGES[kind][0]) for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


# ---- the extra ----


@pytest.mark.parametrize("kind", ["speed", "pitch", "warp"])
def test_without_the_extra_one_line_names_it(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    for use in (lambda: check_installed(["noise", kind]), lambda: changed(tone(300), kind, 1.0)):
        with pytest.raises(
            SettingsError, match=r"python-stretch: install it with pip install 'lungsound\[augment\]'"
        ) as error:
            use()
        assert "\n" not in str(error.value)


def test_noise_and_loudness_do_not_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    check_installed(["noise", "loudness"])
    assert len(changed(tone(300), "noise", 20)) == 32000
