"""The exported graph's filter banks are the front end's."""

import pytest
import torch

from lungsound.audio.filter_bank import EfficientATLogMel, LogMel
from lungsound.inference.graph import FilterBankGraph


@pytest.mark.parametrize(("kind", "sizes"), [(LogMel, (400, 16000, 16077)), (EfficientATLogMel, (514, 32000, 32001))])
def test_a_filter_bank_is_that_of_the_front_end(
    kind: type[LogMel] | type[EfficientATLogMel], sizes: tuple[int, ...]
) -> None:
    log_mel = kind()
    for num_samples in sizes:
        for loudness in (0.0, 1e-4, 1.0):
            waveform = loudness * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(1))
            given, expected = FilterBankGraph(log_mel)(waveform), torch.from_numpy(log_mel(waveform.numpy()))
            assert given.shape == expected.shape
            message = f"{num_samples} samples, loudness {loudness}"
            torch.testing.assert_close(given, expected, atol=5e-3, rtol=0, msg=lambda text, m=message: f"{m}: {text}")


@pytest.mark.parametrize("kind", [LogMel, EfficientATLogMel])
def test_the_mean_of_a_recording_is_that_of_the_front_end(kind: type[LogMel] | type[EfficientATLogMel]) -> None:
    log_mel = kind()
    for num_samples in (1100, 16000, 32001):
        recording = 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(1))
        given, expected = (
            FilterBankGraph(log_mel).mean_spectrum(recording[None])[0],
            torch.from_numpy(log_mel(recording[None].numpy())[0].mean(0)),
        )
        torch.testing.assert_close(given, expected, atol=1e-4, rtol=0)
