import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lungsound.audio.filter_bank import (
    AUDIOSET_STATISTICS,
    LOG_FLOOR,
    EfficientATLogMel,
    LogMel,
    fbank_statistics,
    fbank_sums,
    mel_banks,
    normalize,
)
from lungsound.errors import AudioError, SettingsError


def noise(*shape: int, dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def naive_mel_weight(bin_hz: float, left_hz: float, centre_hz: float, right_hz: float) -> float:
    """Height at `bin_hz` of the triangle with these corners, on the mel axis."""
    bin_mel, left, centre, right = (1127 * math.log(1 + hz / 700) for hz in (bin_hz, left_hz, centre_hz, right_hz))
    if left < bin_mel <= centre:
        return (bin_mel - left) / (centre - left)
    if centre < bin_mel < right:
        return (right - bin_mel) / (right - centre)
    return 0.0


def naive_log_mel(
    samples: np.ndarray, *, rate_hz: int, num_mels: int, low_hz: float, high_hz: float, frame: int, hop: int, fft: int
) -> np.ndarray:
    """Kaldi's recipe in loops: one frame, one bin, one mel at a time."""

    def corner_hz(index: int) -> float:
        low, high = (1127 * math.log(1 + hz / 700) for hz in (low_hz, high_hz))
        return 700 * (math.exp((low + (high - low) * index / (num_mels + 1)) / 1127) - 1)

    rows = []
    for start in range(0, len(samples) - frame + 1, hop):
        x = [float(value) for value in samples[start : start + frame]]
        mean = sum(x) / frame
        x = [value - mean for value in x]
        x = [x[i] - 0.97 * x[max(i - 1, 0)] for i in range(frame)]
        x = [x[i] * (0.5 - 0.5 * math.cos(2 * math.pi * i / (frame - 1))) for i in range(frame)]
        power = []
        for k in range(fft // 2 + 1):
            real = sum(x[i] * math.cos(2 * math.pi * k * i / fft) for i in range(frame))
            imaginary = sum(x[i] * math.sin(2 * math.pi * k * i / fft) for i in range(frame))
            power.append(real**2 + imaginary**2)
        row = []
        for m in range(num_mels):
            corners = (corner_hz(m), corner_hz(m + 1), corner_hz(m + 2))
            energy = sum(power[k] * naive_mel_weight(k * rate_hz / fft, *corners) for k in range(fft // 2))
            row.append(math.log(max(energy, 2.0**-23)))
        rows.append(row)
    return np.array(rows)


class TestLogMel:
    @pytest.mark.parametrize(
        ("rate_hz", "num_mels", "high_hz", "frame", "hop", "fft"),
        [(4000, 20, None, 100, 40, 128), (5000, 7, 1800.0, 125, 50, 128)],
    )
    def test_against_loops(
        self, rate_hz: int, num_mels: int, high_hz: float | None, frame: int, hop: int, fft: int
    ) -> None:
        waveform = noise(2, 2 * hop + frame + 3, dtype=np.float64) + 0.3
        log_mel = LogMel(sample_rate_hz=rate_hz, num_mels=num_mels, low_hz=50, high_hz=high_hz, dtype=np.float64)
        ours = log_mel(waveform)
        assert ours.shape == (2, 3, num_mels)
        for clip, fbank in zip(waveform, ours, strict=True):
            expected = naive_log_mel(
                clip, rate_hz=rate_hz, num_mels=num_mels, low_hz=50, high_hz=high_hz or rate_hz / 2,
                frame=frame, hop=hop, fft=fft,
            )  # fmt: skip
            np.testing.assert_allclose(fbank, expected, atol=1e-5)

    @pytest.mark.parametrize("constant", [0.0, 0.5])
    def test_silence_and_a_constant_are_at_the_floor(self, constant: float) -> None:
        fbank = LogMel()(np.full((1, 1000), constant, np.float32))
        np.testing.assert_allclose(fbank, -23 * math.log(2), rtol=1e-6)

    def test_ten_times_louder_adds_log_100(self) -> None:
        waveform = noise(1, 4000, dtype=np.float64)
        log_mel = LogMel(dtype=np.float64)
        quiet, loud = log_mel(waveform), log_mel(10 * waveform)
        is_above = quiet > math.log(LOG_FLOOR) + 1e-6
        assert is_above.mean() > 0.9
        np.testing.assert_allclose((loud - quiet)[is_above], math.log(100), rtol=1e-7)

    @pytest.mark.parametrize("frequency_hz", [300, 1000, 5000])
    def test_a_tone_is_loudest_at_its_filter(self, frequency_hz: int) -> None:
        tone = np.sin(2 * math.pi * frequency_hz * np.arange(1600) / 16000).astype(np.float32)
        low, peak, high = (1127 * math.log(1 + hz / 700) for hz in (20, frequency_hz, 8000))
        expected = (peak - low) / (high - low) * 129 - 1  # between the centres of two filters
        loudest = LogMel()(tone[None])[0].argmax(axis=-1)
        assert np.abs(loudest - expected).max() < 1.5

    def test_filter_3_catches_no_bin(self) -> None:
        banks = mel_banks(128, fft_size=512, sample_rate_hz=16000)
        assert banks.shape == (128, 257)
        assert [mel for mel in range(128) if banks[mel].sum() == 0] == [3]

    @pytest.mark.parametrize(
        ("rate_hz", "num_mels", "duration_s", "num_frames"),
        [(16000, 128, 8, 798), (16000, 64, 5, 498), (8000, 40, 2.5, 248), (22050, 80, 1, 98), (4000, 32, 0.025, 1)],
    )
    def test_other_rates_mels_and_durations(
        self, rate_hz: int, num_mels: int, duration_s: float, num_frames: int
    ) -> None:
        log_mel = LogMel(sample_rate_hz=rate_hz, num_mels=num_mels)
        num_samples = int(rate_hz * duration_s)
        assert log_mel.num_frames(num_samples) == num_frames
        assert log_mel(noise(2, num_samples)).shape == (2, num_frames, num_mels)

    def test_num_frames_counts_whole_frames(self) -> None:
        assert [LogMel().num_frames(n) for n in (0, 399, 400, 559, 560)] == [0, 0, 1, 1, 2]

    def test_each_clip_is_alone(self) -> None:
        waveform, log_mel = noise(5, 2000), LogMel()
        alone = np.concatenate([log_mel(clip[None]) for clip in waveform])
        np.testing.assert_allclose(log_mel(waveform), alone, rtol=0, atol=1e-4)

    def test_too_short(self) -> None:
        with pytest.raises(AudioError, match=r"399 samples.*400"):
            LogMel()(np.zeros((1, 399), np.float32))

    @pytest.mark.parametrize("settings", [{"low_hz": 9000}, {"high_hz": 9000}, {"num_mels": 0}, {"low_hz": -1}])
    def test_filters_outside_the_spectrum(self, settings: dict[str, int]) -> None:
        with pytest.raises(SettingsError, match="8000 Hz"):
            LogMel(**settings)

    @pytest.mark.parametrize("settings", [{"sample_rate_hz": 60}, {"sample_rate_hz": 80}])
    def test_frames_too_short(self, settings: dict[str, float]) -> None:
        with pytest.raises(SettingsError, match="too short"):
            LogMel(**settings)


def naive_efficientat(samples: np.ndarray, *, num_mels: int) -> np.ndarray:
    """EfficientAT's recipe in loops: one frame, one bin, one mel at a time, in float64."""
    x = [float(samples[i]) - 0.97 * float(samples[i - 1]) for i in range(1, len(samples))]

    def mirrored(i: int) -> float:
        last = len(x) - 1
        return x[-i if i < 0 else 2 * last - i if i > last else i]

    angle = 2 * np.pi * np.outer(np.arange(513), np.arange(1024)) / 1024
    top = 1127 * math.log(1 + 15000 / 700)
    corners_hz = [700 * (math.exp(top * m / (num_mels + 1) / 1127) - 1) for m in range(num_mels + 2)]
    rows = []
    for centre in range(0, len(x) + 1, 320):
        frame = np.zeros(1024)
        for i in range(800):
            window = 0.5 - 0.5 * math.cos(2 * math.pi * i / 799)
            frame[112 + i] = window * mirrored(centre - 512 + 112 + i)
        power = (np.cos(angle) @ frame) ** 2 + (np.sin(angle) @ frame) ** 2
        row = []
        for m in range(num_mels):
            weights = [naive_mel_weight(k * 31.25, *corners_hz[m : m + 3]) for k in range(512)]
            row.append(math.log(sum(w * p for w, p in zip(weights, power, strict=False)) + 1e-5))
        rows.append(row)
    return np.array(rows)


class TestEfficientATLogMel:
    @pytest.mark.parametrize(("num_samples", "num_mels"), [(514, 64), (1281, 24)])
    def test_against_loops(self, num_samples: int, num_mels: int) -> None:
        t = np.arange(num_samples) / 32000
        chirp = 0.5 * np.sin(2 * math.pi * (100 * t + 100000 * t * t))
        waveform = np.stack([noise(num_samples, dtype=np.float64), chirp, np.zeros_like(chirp)])
        ours = EfficientATLogMel(num_mels=num_mels, dtype=np.float64)(waveform)
        assert ours.shape == (3, 1 + (num_samples - 1) // 320, num_mels)
        for clip, fbank in zip(waveform, ours, strict=True):
            expected = naive_efficientat(clip, num_mels=num_mels)
            np.testing.assert_allclose(fbank, expected, rtol=0, atol=1e-3)

    def test_silence(self) -> None:
        fbank = EfficientATLogMel()(np.zeros((2, 3200), np.float32))
        assert fbank.shape == (2, 10, 128)
        np.testing.assert_allclose(fbank, math.log(1e-5), rtol=1e-6)
        mean, std = AUDIOSET_STATISTICS["efficientat"]
        assert float(normalize(fbank, mean=mean, std=std)[0, 0, 0]) == pytest.approx((math.log(1e-5) + 4.5) / 5)

    @pytest.mark.parametrize("frequency_hz", [300, 1000, 5000, 14000])
    def test_a_tone_is_loudest_at_its_filter(self, frequency_hz: int) -> None:
        tone = np.sin(2 * math.pi * frequency_hz * np.arange(3200) / 32000).astype(np.float32)
        peak, high = (1127 * math.log(1 + hz / 700) for hz in (frequency_hz, 15000))
        loudest = EfficientATLogMel()(tone[None])[0].argmax(axis=-1)
        assert np.abs(loudest - (peak / high * 129 - 1)).max() < 1.5

    @pytest.mark.parametrize("num_samples", [*range(514, 560), 832, 833, 961, 962, 32000, 256000, 320000, 320001])
    def test_num_frames(self, num_samples: int) -> None:
        log_mel = EfficientATLogMel(num_mels=16)
        assert log_mel.num_frames(num_samples) == 1 + (num_samples - 1) // 320
        assert log_mel(np.zeros((1, num_samples), np.float32)).shape == (1, log_mel.num_frames(num_samples), 16)

    def test_each_clip_is_alone(self) -> None:
        waveform, log_mel = noise(5, 2000), EfficientATLogMel()
        alone = np.concatenate([log_mel(clip[None]) for clip in waveform])
        np.testing.assert_allclose(log_mel(waveform), alone, rtol=0, atol=1e-4)

    def test_too_short_to_be_mirrored(self) -> None:
        log_mel = EfficientATLogMel()
        assert [log_mel.num_frames(n) for n in (0, 1, 513, 514)] == [0, 0, 0, 2]
        with pytest.raises(AudioError, match=r"513 samples.*514"):
            log_mel(np.zeros((1, 513), np.float32))

    def test_another_rate_is_refused_in_one_line(self) -> None:
        with pytest.raises(
            SettingsError, match=r"made for 32000 Hz, not 16000 Hz: set audio\.sample_rate_hz"
        ) as caught:
            EfficientATLogMel(sample_rate_hz=16000)
        assert "\n" not in str(caught.value)


class TestStatistics:
    def test_normalize(self) -> None:
        assert normalize(np.array([-1.0, 2.0, 8.0]), mean=2, std=3).tolist() == [-0.5, 0, 1]

    def test_own_statistics_give_half_a_deviation(self) -> None:
        fbanks = [3 * noise(n, 6) - 10 for n in (5, 1, 40)]
        mean, std = fbank_statistics(fbank_sums(fbank) for fbank in fbanks)
        every = np.concatenate(fbanks).astype(np.float64)
        assert mean == pytest.approx(every.mean(), rel=1e-12)
        assert std == pytest.approx(every.std(), rel=1e-9)
        assert float(normalize(every, mean=mean, std=std).std()) == pytest.approx(0.5)

    def test_nothing_to_measure(self) -> None:
        with pytest.raises(AudioError, match="no filter banks"):
            fbank_statistics([])

    def test_silence_cannot_be_normalised(self) -> None:
        with pytest.raises(AudioError, match="silence"):
            fbank_statistics([fbank_sums(np.full((4, 3), -15.9, np.float32))])
