"""The fingerprint against a naive one; coherence and correlation against scipy; what copies keep, and others do not."""

import numpy as np
import pytest
from scipy import signal

from lungsound.audio.fingerprint import (
    FRAME,
    HIGHEST_HZ,
    HOP,
    LAG_FRAMES,
    LOWEST_HZ,
    NUM_BANDS,
    RATE_HZ,
    WINDOW,
    Agreement,
    agreement,
    correlation,
    fingerprint,
    whitened_windows,
)
from lungsound.audio.io import Samples


def noise(seed: int = 0, *, seconds: float = 8.0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))).astype(np.float32)


def naive_fingerprint(waveform: Samples) -> np.ndarray:
    """The definition, bin by bin."""
    edges = [LOWEST_HZ * (HIGHEST_HZ / LOWEST_HZ) ** (i / (NUM_BANDS + 1)) for i in range(NUM_BANDS + 2)]
    frames = []
    for start in range(0, waveform.size - FRAME + 1, HOP):
        power = np.abs(np.fft.rfft(waveform[start : start + FRAME] * signal.windows.hann(FRAME))) ** 2
        bands = [0.0] * (NUM_BANDS + 1)
        for k, value in enumerate(power):
            for band in range(NUM_BANDS + 1):
                if edges[band] <= k * RATE_HZ / FRAME < edges[band + 1]:
                    bands[band] += value
        frames.append([np.log(bands[i + 1]) - np.log(bands[i]) for i in range(NUM_BANDS)])
    return np.sign(
        [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(frames, frames[LAG_FRAMES:], strict=False)]
    )


def test_fingerprint_equals_the_naive_one() -> None:
    waveform = noise(seconds=2)
    found, expected = fingerprint(waveform), naive_fingerprint(waveform)
    assert found.shape == expected.shape
    assert np.mean(found == expected) > 0.995  # float32 turns a sign where two bands change alike


def test_a_gain_and_a_steady_filter_leave_the_fingerprint() -> None:
    waveform = noise()
    signs = fingerprint(waveform)
    filtered = signal.lfilter(*signal.butter(1, 400, fs=RATE_HZ), waveform).astype(np.float32)
    assert np.mean(fingerprint((-0.01 * waveform).astype(np.float32)) == signs) > 0.999
    assert np.mean(fingerprint(filtered) == signs) > 0.9
    assert np.mean(fingerprint(noise(1)) == signs) == pytest.approx(0.5, abs=0.05)


def test_frames_with_digital_silence_have_no_signs() -> None:
    waveform = noise()
    waveform[10000:14000] = 0
    silent = ~fingerprint(waveform).any(axis=1)
    touching = [
        any(
            not waveform[start + block : start + block + 256].any()
            for start in (i * HOP, (i + LAG_FRAMES) * HOP)
            for block in range(0, FRAME, 256)
        )
        for i in range(len(silent))
    ]
    assert silent.tolist() == touching
    assert 0 < silent.sum() < len(silent)


@pytest.mark.parametrize("num_samples", [0, 100, FRAME, FRAME + HOP])
def test_too_short_a_waveform_has_no_fingerprint(num_samples: int) -> None:
    assert fingerprint(noise()[:num_samples]).shape == (0, NUM_BANDS)


def test_the_shortest_waveform_with_a_fingerprint_has_one_frame() -> None:
    assert fingerprint(noise()[: FRAME + LAG_FRAMES * HOP]).shape == (1, NUM_BANDS)


def test_windows_are_scipys_spectra_with_all_bins_of_size_one() -> None:
    waveform = noise(seconds=3)
    _, _, spectra = signal.stft(
        waveform, window=signal.windows.hann(WINDOW), nperseg=WINDOW, noverlap=WINDOW // 2, boundary=None, padded=False
    )
    low, high = int(LOWEST_HZ), int(HIGHEST_HZ)
    expected = spectra[low:high].T
    np.testing.assert_allclose(whitened_windows(waveform), expected / np.abs(expected), atol=1e-3)


def test_a_copy_agrees_fully_and_says_how_late_it_is() -> None:
    waveform = noise()
    found = agreement(whitened_windows(waveform), whitened_windows(-0.3 * waveform), max_lag_s=0.025)
    assert (found.lag_s, found.coherence) == (0.0, pytest.approx(1.0, abs=1e-3))
    late = agreement(whitened_windows(waveform[40:]), whitened_windows(waveform[:-40]), max_lag_s=0.025)
    assert late.lag_s == pytest.approx(0.01)
    assert late.deviations > 50
    assert (
        agreement(whitened_windows(waveform[400:]), whitened_windows(waveform[:-400]), max_lag_s=0.025).coherence < 0.5
    )


def test_coherence_at_lag_zero_is_the_mean_cosine_of_phase_differences() -> None:
    shared = noise(9)
    one, other = (whitened_windows(shared + noise(seed)) for seed in (1, 2))
    cosines = (one.conj() * other).real.mean(axis=1)
    found = agreement(one, other, max_lag_s=0.0)
    assert found.coherence == pytest.approx(abs(float(np.median(cosines))), abs=1e-3)


def test_unlike_noises_do_not_agree() -> None:
    deviations = [
        agreement(whitened_windows(noise(2 * i)), whitened_windows(noise(2 * i + 1)), max_lag_s=0.025).deviations
        for i in range(1, 30)
    ]
    assert max(deviations) < 9
    assert np.median(deviations) > 1  # the largest of a hundred lags, so the scale is that of one


def test_deviations_of_unlike_noises_at_lag_zero_are_one_and_a_quarter_of_those_at_far_lags() -> None:
    windows = [whitened_windows(noise(seed)) for seed in range(16)]
    deviations = [agreement(a, b, max_lag_s=0.0).deviations for i, a in enumerate(windows) for b in windows[:i]]
    assert np.sqrt(np.mean(np.square(deviations))) == pytest.approx(1.25, abs=0.15)


def test_a_click_that_both_have_and_too_few_windows_are_no_agreement() -> None:
    one, other = noise(1), noise(2)
    for waveform in (one, other):
        waveform[16000:16020] += 0.9
    assert agreement(whitened_windows(one), whitened_windows(other), max_lag_s=0.025).deviations < 9
    short = whitened_windows(noise(seconds=2.4))
    assert len(short) == 3
    assert agreement(short, short, max_lag_s=0.025) == Agreement()
    assert agreement(short[:0], short, max_lag_s=0.025) == Agreement()


def test_correlation_equals_scipys_in_the_band_of_the_search() -> None:
    one = noise(1)
    other = (0.5 * np.roll(one, 12) + noise(2)).astype(np.float32)
    length = 1 << (one.size + RATE_HZ).bit_length()
    frequencies = np.fft.rfftfreq(length, 1 / RATE_HZ)
    inside = (frequencies >= LOWEST_HZ) & (frequencies <= HIGHEST_HZ)
    a, b = (np.fft.irfft(np.where(inside, np.fft.rfft(w, length), 0)) for w in (one, other))
    every = signal.correlate(a, b, mode="full", method="fft")
    near = every[length - 1 - 40 : length - 1 + 41]
    expected = np.abs(near).max() / np.sqrt((a @ a) * (b @ b))
    assert correlation(one, other) == pytest.approx(float(expected), abs=1e-3)


def test_correlation_of_copies_is_one_and_of_silence_zero() -> None:
    waveform = noise()
    assert correlation(waveform, -2 * waveform) == pytest.approx(1.0, abs=1e-5)
    assert correlation(waveform, np.zeros_like(waveform)) == 0.0
    assert correlation(waveform, noise(1)) < 0.1
