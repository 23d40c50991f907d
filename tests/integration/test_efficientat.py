"""mn04 with its own front end, judged by its AudioSet classifier: in a stethoscope it hears a body."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import hardswish

from lungsound.audio.filter_bank import AUDIOSET_STATISTICS, EfficientATLogMel, FilterBank, LogMel, normalize
from lungsound.audio.io import read_waveform
from lungsound.config import ModelSettings
from lungsound.models.cnn import convolutional_encoder
from lungsound.models.weights import load_weights

# Breathing, wheeze, snoring, gasp, pant, snort, cough, throat clearing, sneeze, sniff; stomach rumble; heart sounds,
# heart murmur: places among AudioSet's 527 classes.
BODY = (*range(41, 51), 57, 64, 65)
NUM_RECORDINGS = 24
DURATION_S = 10


@pytest.fixture(scope="module")
def recordings(icbhi_dir: Path) -> list[Path]:
    """Every eighth of the 188 single-channel recordings."""
    return sorted(path for path in icbhi_dir.glob("*_sc_*") if path.suffix in (".flac", ".wav"))[::8][:NUM_RECORDINGS]


def share_of_bodies(
    recordings: list[Path], weights: Path, log_mel: LogMel | EfficientATLogMel, statistics: FilterBank, rate_hz: int
) -> float:
    """How often the likeliest AudioSet class of the first seconds of a recording is a sound of the body."""
    encoder = convolutional_encoder("mn04").eval()
    load_weights(encoder, weights, ModelSettings())
    classifier = torch.load(weights, weights_only=True)
    mean, std = AUDIOSET_STATISTICS[statistics]
    answers = []
    with torch.no_grad():
        for path in recordings:
            waveform = read_waveform(path, sample_rate_hz=rate_hz)[: DURATION_S * rate_hz]
            fbank = normalize(log_mel(waveform[np.newaxis]), mean=mean, std=std)
            features = encoder(torch.from_numpy(fbank))
            hidden = hardswish(features @ classifier["classifier.2.weight"].T + classifier["classifier.2.bias"])
            logits = hidden @ classifier["classifier.5.weight"].T + classifier["classifier.5.bias"]
            assert logits.shape == (1, 527)
            answers.append(int(logits.argmax()))
    return sum(answer in BODY for answer in answers) / len(answers)


def test_with_its_own_front_end_it_hears_a_body(recordings: list[Path], mn04_path: Path) -> None:
    assert len(recordings) == NUM_RECORDINGS
    assert share_of_bodies(recordings, mn04_path, EfficientATLogMel(), "efficientat", 32000) > 0.65  # measured: .75


@pytest.mark.parametrize(
    ("filter_bank", "statistics", "rate_hz"),
    [
        ("efficientat", "kaldi", 32000),  # measured: .42
        pytest.param("kaldi", "kaldi", 32000, marks=pytest.mark.slow),  # .50
        pytest.param("kaldi", "kaldi", 16000, marks=pytest.mark.slow),  # .25
        pytest.param("kaldi", "efficientat", 32000, marks=pytest.mark.slow),  # 0
        # .54: samples at 16 kHz taken for 32 kHz
        pytest.param("efficientat", "efficientat", 16000, marks=pytest.mark.slow),
    ],
)
def test_with_any_part_of_another_it_hears_it_less_often(
    recordings: list[Path], mn04_path: Path, filter_bank: str, statistics: FilterBank, rate_hz: int
) -> None:
    log_mel = EfficientATLogMel() if filter_bank == "efficientat" else LogMel(sample_rate_hz=rate_hz)
    assert share_of_bodies(recordings, mn04_path, log_mel, statistics, rate_hz) < 0.6
