"""Each measure against scipy, naive loops or a closed form; each defect planted, and absent where it is not."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from lungsound.audio.io import Samples
from lungsound.audio.quality import (
    LOWEST_DBFS,
    MIN_BAND_HZ,
    Quality,
    channel_difference_db,
    clipped_share,
    find_defects,
    measure_quality,
    rms_dbfs,
    silent_stretches,
)

RATE = 16000


def noise(seed: int = 0, *, seconds: float = 4.0, rate_hz: int = RATE, size: float = 0.05) -> Samples:
    return (size * np.random.default_rng(seed).standard_normal(int(seconds * rate_hz))).astype(np.float32)


def in_16_bit(waveform: np.ndarray) -> Samples:
    return (np.round(np.clip(waveform, -1, 32767 / 32768) * 32768) / 32768).astype(np.float32)


def kinds(waveform: Samples, rate_hz: int = RATE) -> list[str]:
    return [defect.kind for defect in find_defects(measure_quality(np.atleast_2d(waveform), rate_hz))]


def low_passed(waveform: Samples, limit_hz: float) -> Samples:
    return in_16_bit(signal.sosfiltfilt(signal.ellip(10, 0.1, 80, limit_hz, fs=RATE, output="sos"), waveform))


def test_level_of_a_full_sine_is_minus_three_decibels_whatever_its_offset() -> None:
    sine = np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE).astype(np.float32)
    assert rms_dbfs(sine) == pytest.approx(-3.0103, abs=1e-4)
    assert rms_dbfs((0.1 * sine + 0.5).astype(np.float32)) == pytest.approx(-23.0103, abs=1e-3)
    assert rms_dbfs(np.zeros(10, np.float32)) == LOWEST_DBFS


def naive_clipped_share(waveform: Samples) -> float:
    """Runs of 3 or more at the largest and the smallest value, two runs at least, counted one sample at a time."""
    total = 0
    for extreme in (max(waveform), min(waveform)):
        runs, length = [], 0
        for value in [*waveform, None]:
            if value == extreme:
                length += 1
            else:
                runs += [length] if length >= 3 else []
                length = 0
        total += sum(runs) if len(runs) >= 2 and abs(extreme) >= 0.01 else 0
    return total / len(waveform)


@pytest.mark.parametrize("limit", [0.04, 0.06, 0.08, 0.15, 0.3])
def test_clipped_share_equals_a_naive_count(limit: float) -> None:
    clipped = np.clip(np.convolve(noise(seconds=1), np.ones(8), "same"), -limit, 2 * limit).astype(np.float32)
    assert clipped_share(clipped) == naive_clipped_share(clipped)


def test_what_is_clipped_is_found_and_what_only_repeats_its_peak_is_not() -> None:
    slow = np.convolve(noise(), np.ones(8) / 2, "same")
    assert "clipped" in kinds(in_16_bit(np.clip(slow, -0.15, 0.15)))
    assert "clipped" not in kinds(in_16_bit(slow))
    once = in_16_bit(slow)
    once[100:110] = once.max() + 0.1
    assert clipped_share(once) == 0
    few_steps = np.random.default_rng(0).integers(-2, 3, RATE).astype(np.float32) / 32768
    assert clipped_share(few_steps) == 0


def test_silent_stretches_are_where_they_were_planted() -> None:
    waveform = noise()
    waveform[8000:16000] = 0.001
    waveform[20000:20700] = 0  # 44 ms: too short
    waveform[30000:30800] = 0  # 50 ms
    assert silent_stretches(waveform, RATE) == [(8000, 16000), (30000, 30800)]


def test_a_flat_top_is_no_silence_and_all_zeros_are() -> None:
    waveform = noise()
    waveform[4000:6000] = 0.9
    assert silent_stretches(waveform, RATE) == []
    assert silent_stretches(np.zeros(RATE, np.float32), RATE) == [(0, RATE)]


def test_silences_dropouts_and_offsets_are_told_apart() -> None:
    half, hole, edge = noise(), noise(), noise()
    half[16000:32000] = 0
    hole[16000:17000] = 0
    edge[:1000] = 0
    assert kinds(in_16_bit(half)) == ["digital silence"]
    assert kinds(in_16_bit(hole)) == ["dropouts"]
    assert kinds(in_16_bit(edge)) == []
    assert kinds(in_16_bit(noise() + 0.012)) == ["DC offset"]
    assert kinds(in_16_bit(noise() + 0.008)) == []
    assert kinds(np.zeros(4 * RATE, np.float32)) == ["silent", "digital silence"]


def test_a_recording_just_loud_enough_is_not_silent() -> None:
    assert "silent" in kinds(noise(size=10 ** (-81 / 20)))
    assert "silent" not in kinds(noise(size=10 ** (-79 / 20)))


def test_channels_that_are_dead_or_doubled() -> None:
    one, other = in_16_bit(noise(1)), in_16_bit(noise(2))
    assert kinds(np.stack([one, other])) == []
    assert kinds(np.stack([one, np.zeros_like(one)])) == ["dead channel"]
    assert kinds(np.stack([one, one])) == ["duplicate channel"]


def test_channels_that_cancel_are_not_called_silent() -> None:
    one = in_16_bit(noise(1))
    found = kinds(np.stack([one, -one]))
    assert "channels cancel" in found
    assert "silent" not in found
    assert "silent" in kinds(np.zeros((2, RATE), np.float32))


def test_floats_beyond_full_scale_are_measured_and_named() -> None:
    whole = np.round(1000 * noise()).astype(np.float32)  # samples of 16 bit that were never scaled
    for loud in (whole, noise(size=3)):
        assert kinds(loud - loud.mean()) == ["beyond full scale"]
    assert kinds(19 * np.clip(noise(), -0.1, 0.1)) == []  # 5.6 dB, as a decoder of MP3 may


def test_channel_difference_is_what_a_least_squares_fit_leaves() -> None:
    one, rest = noise(1).astype(np.float64), noise(2).astype(np.float64)
    two = 0.5 * one + 0.01 * rest
    channels = np.stack([one, two]).astype(np.float32)
    left = []
    for a, b in ((one - one.mean(), two - two.mean()), (two - two.mean(), one - one.mean())):
        _, residue, *_ = np.linalg.lstsq(b[:, np.newaxis], a, rcond=None)
        left.append(10 * math.log10(residue[0] / (a @ a)))
    assert channel_difference_db(channels) == pytest.approx(min(left), abs=0.01)


def measured(waveform: Samples) -> Quality:
    return measure_quality(waveform[np.newaxis], RATE)


@pytest.mark.parametrize("limit_hz", [500, 1000, 3000, 6000])
def test_the_band_ends_where_scipys_filter_cuts(limit_hz: int) -> None:
    band = measured(low_passed(noise(), limit_hz)).band
    assert band is not None
    assert band.limit_hz == pytest.approx(limit_hz, rel=0.05, abs=90)  # smoothed over 70 Hz


def test_white_noise_fills_its_rate_and_what_is_short_or_silent_has_no_band() -> None:
    band = measured(in_16_bit(noise())).band
    assert band is not None
    assert (band.limit_hz, band.is_steep) == (RATE / 2, False)
    assert measured(noise()[:200]).band is None
    assert measured(np.zeros(RATE, np.float32)).band is None


def test_a_fall_into_a_microphones_noise_is_no_wall() -> None:
    cut = low_passed(noise(), 4000)
    rounding_only = measured(cut).band
    noisy = measured(in_16_bit(cut + noise(7, size=10 ** (-70 / 20)))).band
    assert rounding_only is not None
    assert noisy is not None
    assert rounding_only.limit_hz < 4400
    assert (noisy.limit_hz, noisy.is_steep) == (RATE / 2, False)


def test_a_band_too_narrow_for_crackles_is_a_defect_and_one_like_sprsounds_is_none() -> None:
    assert kinds(low_passed(noise(), 0.8 * MIN_BAND_HZ)) == ["band-limited"]
    assert kinds(low_passed(noise(), 900)) == []


@pytest.mark.parametrize("old_rate_hz", [4000, 8000])
@pytest.mark.parametrize("method", ["polyphase", "fourier"])
def test_what_was_recorded_at_a_lower_rate_is_found(old_rate_hz: int, method: str) -> None:
    old = noise(rate_hz=old_rate_hz)
    if method == "polyphase":
        new = signal.resample_poly(old, RATE, old_rate_hz)
    else:
        new = signal.resample(old, old.size * RATE // old_rate_hz)
    assert measured(in_16_bit(new)).upsampled_from_hz == old_rate_hz
    assert kinds(in_16_bit(new)) == ["upsampled"]


def test_full_bands_and_filters_that_end_in_noise_are_not_upsampled() -> None:
    assert measured(in_16_bit(noise())).upsampled_from_hz is None
    device = low_passed(noise(), 2000) + noise(5, size=10 ** (-50 / 20))
    assert measured(in_16_bit(device)).upsampled_from_hz is None


def shaped(level_db: Callable[[np.ndarray], np.ndarray], *, size: float) -> Samples:
    """Noise whose spectrum has a level in dB that is a function of the frequency in Hz."""
    spectrum = np.fft.rfft(noise(size=size)) * 10 ** (level_db(np.fft.rfftfreq(4 * RATE, 1 / RATE)) / 20)
    return in_16_bit(np.fft.irfft(spectrum))


def test_a_steady_slope_of_forty_decibels_an_octave_is_not_upsampled() -> None:
    """It falls by 25 dB about 2000 Hz, and to 14 dB above rounding."""
    sloping = shaped(lambda hz: -40 * np.log2(np.maximum(hz, 1000) / 1000), size=0.02)
    assert measured(sloping).upsampled_from_hz is None


@pytest.mark.parametrize(("edge_db", "found"), [(10, None), (18, 4000)])
def test_an_edge_near_rounding_counts_from_fourteen_decibels(edge_db: float, found: int | None) -> None:
    stepped = shaped(lambda hz: np.where(hz > 2000, -edge_db, 0.0), size=10 ** (-72 / 20))
    assert measured(stepped).upsampled_from_hz == found


def test_a_quality_within_every_threshold_has_no_defect() -> None:
    quality: Quality = measure_quality(in_16_bit(noise())[np.newaxis], RATE)
    assert find_defects(quality) == ()
    assert (quality.duration_s, quality.num_channels, quality.channel_difference_db) == (4.0, 1, None)
    assert [defect.kind for defect in find_defects(replace(quality, clipped_share=1e-4))] == ["clipped"]
    assert find_defects(replace(quality, clipped_share=0.9e-4)) == ()


def test_channels_are_compared_alike_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = np.random.default_rng(0).normal(0.1, 0.2, (3, 10_000)).astype(np.float32)
    channels[1] = 0.5 * channels[0] + 0.01 * channels[2]
    expected = channel_difference_db(channels)
    monkeypatch.setattr("lungsound.audio.quality.AT_ONCE", 4096)
    assert channel_difference_db(channels) == pytest.approx(expected, abs=1e-6)
    assert channel_difference_db(channels[:1].repeat(2, axis=0)) < -120
    assert channel_difference_db(np.stack([channels[0], np.full(10_000, 0.3, np.float32)])) == 0.0
