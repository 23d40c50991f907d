"""What predicting costs, counted and not timed: a slower way to the same answers breaks these, on any machine."""

from collections import Counter
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lungsound.inference.parallel import Asked, predict_group
from lungsound.inference.predictor import Predictor
from tests.unit.inference.models import AUDIO, saved_model

RATE_HZ = 8000
DURATIONS_S = (9.0, 6.5, 12.0)
NORMALIZED = AUDIO.model_copy(
    update={
        "is_padding_encoded": False,
        "is_recording_normalized": True,
        "statistics": "corpus",
        "duration_s": 4.0,
    }
)
# Samples that are transformed for each sample of a recording; each of these takes one spectrogram of it.
MOST_TRANSFORMED = {"breathing": 2, "quality": 1, "hum": 1, "speech": 4, "heart": 2}
OF_FILTER_BANK = 512 / 160  # for each sample at the model's rate: of the recording for its own spectrum, of the cycles


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    """Noise that swells like breathing."""
    paths, rng = [], np.random.default_rng(0)
    for duration_s in DURATIONS_S:
        time_s = np.arange(int(RATE_HZ * duration_s)) / RATE_HZ
        paths.append(tmp_path / f"{duration_s}.wav")
        swelling = 0.1 * (1.05 - np.cos(2 * np.pi * time_s / 2.5)) * rng.standard_normal(len(time_s))
        soundfile.write(paths[-1], swelling, RATE_HZ, "PCM_24")
    return paths


def test_predicting_recordings_costs(
    recordings: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_model(tmp_path / "run", audio=NORMALIZED)
    predictor = Predictor.load(tmp_path / "run", engine="torch")
    transformed, decoded, sizes = Counter[str](), Counter[str](), []
    rfft, read, run_batch = np.fft.rfft, soundfile.SoundFile.read, predictor.engine.run_batch

    def counted_rfft(values: Any, n: int | None = None, axis: int = -1) -> Any:
        size = np.shape(values)[axis]
        transformed["samples"] += np.size(values) // size * (n or size)
        return rfft(values, n, axis)

    def counted_read(file: soundfile.SoundFile, *arguments: Any, **more: Any) -> Any:
        samples = read(file, *arguments, **more)
        decoded["samples"] += samples.size
        return samples

    def counted_batch(*inputs: Any) -> Any:
        sizes.append(inputs[0].shape)
        return run_batch(*inputs)

    monkeypatch.setattr(np.fft, "rfft", counted_rfft)
    monkeypatch.setattr(soundfile.SoundFile, "read", counted_read)
    monkeypatch.setattr(predictor.engine, "run_batch", counted_batch)
    found = predict_group(predictor, [Asked(path) for path in recordings])
    num_samples = sum(int(RATE_HZ * duration_s) for duration_s in DURATIONS_S)
    assert decoded["samples"] == num_samples
    num_cycles = Counter[int]()
    for batch, length in sizes:
        num_cycles[length] += batch
    assert num_cycles.total() == sum(len(each.cycles) for each in found if not isinstance(each, str)) > 6
    assert len(sizes) == sum(ceil(number / predictor.engine.batch_size) for number in num_cycles.values())
    of_recordings = num_samples * NORMALIZED.sample_rate_hz / RATE_HZ
    of_cycles = sum(batch * length for batch, length in sizes)
    expected = num_samples * sum(MOST_TRANSFORMED.values()) + OF_FILTER_BANK * (of_recordings + of_cycles)
    assert 0.97 * expected < transformed["samples"] <= expected
