"""Each recording is decoded once, in order; the hash is of the samples and not of the file; damage is an answer."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.data.corpus import Recording
from lungsound.data.duplicates import Measured, measure_recordings
from lungsound.errors import AudioError

RATE = 8000


def recording(path: Path) -> Recording:
    return Recording(path.name, "p", path, duration_s=2.0, sample_rate_hz=RATE)


def write(path: Path, seed: int = 0) -> Path:
    samples = np.random.default_rng(seed).integers(-3000, 3000, 2 * RATE).astype(np.int16)
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    return path


def test_equal_samples_have_one_hash_whatever_the_file(tmp_path: Path) -> None:
    paths = [write(tmp_path / name) for name in ("a.wav", "b.flac")] + [write(tmp_path / "c.wav", 1)]
    wav, flac, other = (one for one in measure_recordings([recording(path) for path in paths]))
    assert isinstance(wav, Measured)
    assert isinstance(flac, Measured)
    assert isinstance(other, Measured)
    assert wav.sha256 == flac.sha256 != other.sha256
    assert wav.sha256 == hashlib.sha256(soundfile.read(paths[0], dtype="float32")[0].tobytes()).hexdigest()
    np.testing.assert_array_equal(wav.signs, flac.signs)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_answers_come_in_order_and_damage_is_one_of_them(num_workers: int, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.wav", i) for i in range(4)]
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:1000])
    paths[2].write_bytes(b"no sound")
    seen: list[tuple[int, int]] = []
    found = measure_recordings(
        [recording(path) for path in paths],
        num_workers=num_workers,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [type(one) for one in found] == [Measured, AudioError, AudioError, Measured]
    assert "1.wav" in str(found[1])
    assert "\n" not in str(found[2])
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_fingerprint_is_of_the_sound_whatever_its_rate(tmp_path: Path) -> None:
    from lungsound.audio.fingerprint import RATE_HZ, fingerprint

    waveform = np.random.default_rng(0).integers(-3000, 3000, 4 * RATE_HZ).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", waveform, RATE_HZ, subtype="PCM_16")
    (one,) = measure_recordings([recording(tmp_path / "a.wav")])
    assert isinstance(one, Measured)
    np.testing.assert_array_equal(one.signs, fingerprint(waveform.astype(np.float32) / 32768))
