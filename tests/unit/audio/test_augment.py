"""SpecAugment and changes of the waveform: drawn from a generator, then applied to a copy."""

import math
import sys
from collections import Counter
from typing import Any, get_args

import numpy as np
import pytest
import torch

from lungsound.audio.augment import (
    RANGES,
    SpecAugmentDraw,
    WaveformChange,
    apply_response,
    apply_specaugment,
    change_waveform,
    check_installed,
    draw_response,
    draw_specaugment,
    draw_waveform_change,
)
from lungsound.audio.filter_bank import LogMel
from lungsound.config import AugmentSettings
from lungsound.config import WaveformChange as Kind
from lungsound.errors import SettingsError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_masks(num_frames: int, num_mels: int, random: torch.Generator, **settings: Any) -> SpecAugmentDraw:
    return draw_specaugment(num_frames, num_mels, AugmentSettings(**settings), num_encoded=None, generator=random)


class TestDraw:
    def test_the_same_seed_draws_the_same_masks(self) -> None:
        first, again, other = (draw_masks(798, 128, generator(seed)) for seed in (1, 1, 2))
        assert first == again != other

    @pytest.mark.parametrize(("num_frames", "num_mels"), [(798, 128), (100, 20), (1, 1)])
    def test_masks_fit_their_axis(self, num_frames: int, num_mels: int) -> None:
        random = generator()
        for _ in range(300):
            draw = draw_masks(num_frames, num_mels, random, num_time_masks=3)
            assert (len(draw.frequency), len(draw.time)) == (2, 3)
            for masks, size, max_width in ((draw.frequency, num_mels, 48), (draw.time, num_frames, 160)):
                for mask in masks:
                    assert 0 <= mask.stop - mask.start < max_width
                    assert 0 <= mask.start <= mask.stop <= size

    def test_every_width_below_the_maximum_and_every_start_up_to_the_last(self) -> None:
        random = generator()
        draws = [draw_masks(5, 5, random, max_frequency_width=3, max_time_width=3) for _ in range(1500)]
        masks = [mask for draw in draws for mask in draw.frequency + draw.time]
        expected = {(start, width) for width in range(3) for start in range(5 - width + 1)}
        assert {(mask.start, mask.stop - mask.start) for mask in masks} == expected
        counts = np.bincount([mask.stop - mask.start for mask in masks])
        assert np.abs(counts / len(masks) - 1 / 3).max() < 0.03

    @pytest.mark.parametrize(("probability", "share"), [(0.0, 0), (0.3, 0.3), (1.0, 1)])
    def test_probability(self, probability: float, share: float) -> None:
        random = generator()
        draws = [draw_masks(9, 9, random, probability=probability) for _ in range(1000)]
        assert np.mean([bool(draw.frequency) for draw in draws]) == pytest.approx(share, abs=0.05 * (0 < share < 1))
        assert all(draw == SpecAugmentDraw() for draw in draws if not draw.frequency)

    def test_published_gate_follows_the_normal_number(self) -> None:
        random, same = generator(), generator()
        share = 0.0
        for _ in range(1000):
            same.set_state(random.get_state())
            draw = draw_masks(9, 9, random, gate="published", probability=0.0)
            assert bool(draw.frequency) == bool(torch.randn((), generator=same) <= 1)
            share += bool(draw.frequency) / 1000
        assert share == pytest.approx(0.8413, abs=0.04)

    def test_of_a_short_cycle_only_the_encoded_frames_are_masked_in_proportion(self) -> None:
        settings, random = AugmentSettings(), generator()
        for _ in range(300):
            draw = draw_specaugment(800, 128, settings, num_encoded=200, generator=random)
            for mask in draw.time:
                assert 0 <= mask.stop - mask.start < 40
                assert 0 <= mask.start <= mask.stop <= 200


def naive_apply(fbank: np.ndarray, draw: SpecAugmentDraw, *, is_mean: bool) -> np.ndarray:
    """The rule bin by bin: mean of the input, frequency masks, mean of that, time masks."""
    masked = [list(row) for row in fbank]
    value = sum(sum(row) for row in masked) / fbank.size if is_mean else 0.0
    for mask in draw.frequency:
        for row in masked:
            for mel in range(mask.start, mask.stop):
                row[mel] = value
    value = sum(sum(row) for row in masked) / fbank.size if is_mean else 0.0
    for mask in draw.time:
        for frame in range(mask.start, mask.stop):
            masked[frame] = [value] * fbank.shape[1]
    return np.array(masked)


class TestApply:
    fbank = torch.arange(54, dtype=torch.float64).reshape(9, 6).sqrt()
    draw = SpecAugmentDraw(frequency=(slice(1, 3), slice(5, 6)), time=(slice(0, 1), slice(4, 4), slice(6, 9)))

    @pytest.mark.parametrize("fill", ["mean", "zero"])
    def test_against_loops(self, fill: str) -> None:
        before = self.fbank.clone()
        masked = apply_specaugment(self.fbank, self.draw, fill=fill)  # type: ignore[arg-type]
        np.testing.assert_allclose(masked.numpy(), naive_apply(self.fbank.numpy(), self.draw, is_mean=fill == "mean"))
        assert torch.equal(self.fbank, before)

    def test_nothing_drawn_is_an_equal_copy(self) -> None:
        masked = apply_specaugment(self.fbank, SpecAugmentDraw(), fill="mean")
        assert torch.equal(masked, self.fbank)
        assert masked.data_ptr() != self.fbank.data_ptr()


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
    drawn = [draw_waveform_change(KINDS, generator=generator, probability=1.0) for _ in range(5000)]
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
    first = [draw_waveform_change(KINDS, generator=seeded(seed), probability=1.0) for seed in range(20)]
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the state that must not change)
    assert [draw_waveform_change(KINDS, generator=seeded(seed), probability=1.0) for seed in range(20)] == first
    for kind in KINDS:
        assert torch.equal(*(changed(waveform, kind, RANGES[kind][0]) for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


# ---- the extra ----


@pytest.mark.parametrize("kind", ["speed", "pitch", "warp"])
def test_without_the_extra_one_line_names_it(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    for use in (lambda: check_installed(["noise", kind]), lambda: changed(tone(300), kind, 1.0)):
        with pytest.raises(SettingsError, match=r"pip install 'lungsound\[augment\]'") as error:
            use()
        assert "\n" not in str(error.value)


def test_noise_and_loudness_do_not_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_stretch", None)
    check_installed(["noise", "loudness"])
    assert len(changed(tone(300), "noise", 20)) == 32000


# ---- another stethoscope ----


def responses(number: int, num_mels: int, **settings: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack(
        [draw_response(num_mels, AugmentSettings(**settings), generator=generator) for _ in range(number)]
    )


@pytest.mark.parametrize("num_mels", [33, 128])
def test_a_response_goes_smoothly_from_point_to_point(num_mels: int) -> None:
    generator = torch.Generator().manual_seed(7)
    found = draw_response(num_mels, AugmentSettings(response_db=4.0, gain_db=2.0), generator=generator)
    generator = torch.Generator().manual_seed(7)
    points, gain = torch.randn(5, generator=generator).tolist(), torch.randn((), generator=generator).item()
    for mel in range(num_mels):
        place = 4 * mel / (num_mels - 1)
        left = min(int(place), 3)
        share = (1 - math.cos(math.pi * (place - left))) / 2
        value = ((1 - share) * points[left] + share * points[left + 1]) / math.hypot(1 - share, share)
        assert found[mel].item() == pytest.approx(4 * value + 2 * gain, abs=1e-4), mel
    assert found.diff().abs().max() < 4 * 4 * 12 / num_mels


def test_a_response_has_its_deviation_at_every_mel() -> None:
    torch.testing.assert_close(
        responses(4000, 40, response_db=5.0).std(dim=0), torch.full((40,), 5.0), rtol=0.05, atol=0
    )
    flat = responses(4000, 40, gain_db=3.0)
    assert torch.equal(flat, flat[:, :1].expand(-1, 40))
    assert flat[:, 0].std().item() == pytest.approx(3, rel=0.05)
    both = responses(4000, 40, response_db=4.0, gain_db=3.0)
    torch.testing.assert_close(both.std(dim=0), torch.full((40,), 5.0), rtol=0.05, atol=0)
    assert both.mean().abs() < 0.3


def test_a_gain_is_that_of_a_louder_recording() -> None:
    sound, log_mel = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)), LogMel(num_mels=24)
    before, louder = (
        (torch.from_numpy(log_mel((factor * sound).numpy())[0]) + 4.0) / (2 * 2.5) for factor in (1.0, 10 ** (6 / 20))
    )
    kept = before.clone()
    torch.testing.assert_close(apply_response(before, torch.full((24,), 6.0), std=2.5), louder, rtol=0, atol=1e-4)
    assert torch.equal(before, kept)
