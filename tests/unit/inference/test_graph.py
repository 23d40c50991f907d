"""The exported graph's filter banks are the front end's."""

import math

import pytest
import torch

from lungsound.audio.filter_bank import EfficientATLogMel, LogMel
from lungsound.inference.graph import EfficientATGraph, KaldiGraph, PowerSpectrum


def test_the_power_spectrum_is_that_of_each_frame_by_hand() -> None:
    """Frames of 6 samples every 4 (blocks of 2), a plain Fourier transform, filters that keep each bin."""
    waveform = torch.randn(2, 19, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    spectrum = torch.fft.rfft(torch.eye(6, dtype=torch.float64))
    found = PowerSpectrum(spectrum, torch.eye(4, dtype=torch.float64), hop_size=4)(waveform)
    assert found.shape == (2, 4, 4)
    for sample in range(2):
        for frame in range(4):
            for k in range(4):
                values = [float(waveform[sample, 4 * frame + n]) for n in range(6)]
                real = sum(value * math.cos(2 * math.pi * k * n / 6) for n, value in enumerate(values))
                imaginary = sum(value * math.sin(2 * math.pi * k * n / 6) for n, value in enumerate(values))
                assert float(found[sample, frame, k]) == pytest.approx(real**2 + imaginary**2, abs=1e-9)


@pytest.mark.parametrize("num_samples", [400, 16000, 16077])
@pytest.mark.parametrize("loudness", [0.0, 1e-4, 1.0])
def test_kaldis_filter_bank_is_that_of_the_front_end(num_samples: int, loudness: float) -> None:
    log_mel = LogMel()
    waveform = loudness * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(1))
    found, expected = KaldiGraph(log_mel)(waveform), log_mel(waveform)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


@pytest.mark.parametrize("num_samples", [514, 32000, 32001])
@pytest.mark.parametrize("loudness", [0.0, 1e-3, 1.0])
def test_efficientats_filter_bank_is_that_of_the_front_end(num_samples: int, loudness: float) -> None:
    log_mel = EfficientATLogMel()
    waveform = loudness * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(1))
    found, expected = EfficientATGraph(log_mel)(waveform), log_mel(waveform)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)
