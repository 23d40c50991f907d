"""Planted copies and channels of one sound are found and named by kind; recordings that share nothing are not."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.audio.io import Samples
from lungsound.data.corpus import Recording
from lungsound.data.duplicates import (
    MAX_RECORDINGS_OF_PATIENT,
    Measured,
    SharedAudio,
    crowded_patients,
    find_shared_audio,
    measure_recordings,
)

RATE = 4000


def noise(seed: int, *, seconds: float = 12.0) -> Samples:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def shared(folder: Path, sounds: dict[str, Samples], *, patients: dict[str, str] | None = None, **options: int):
    """What is shared among sounds by name; each of its own patient but for those that `patients` names."""
    recordings = []
    for name, sound in sounds.items():
        path = folder / f"{name}.wav"
        soundfile.write(path, sound, RATE, subtype="PCM_16")
        patient = (patients or {}).get(name, name)
        recordings.append(Recording(name, patient, path, duration_s=len(sound) / RATE, sample_rate_hz=RATE))
    measured = [one for one in measure_recordings(recordings) if isinstance(one, Measured)]
    return find_shared_audio(recordings, measured, **options)


def summary(found: list[SharedAudio]) -> list[tuple[str, str, str]]:
    return [(one.kind, one.one, one.other) for one in found]


def test_equal_samples_are_found_even_when_short_and_silence_is_not(tmp_path: Path) -> None:
    short, silent = noise(1, seconds=0.5), np.zeros(RATE, np.float32)
    found = shared(tmp_path, {"a": short, "b": short, "c": noise(2), "s": silent, "t": silent})
    assert summary(found) == [("same samples", "a", "b")]


@pytest.mark.parametrize(("start_s", "gain"), [(0.0, 0.3), (0.7, 1.0), (4.1, -0.5)])
def test_a_copy_that_is_cut_and_turned_down_is_a_near_duplicate_with_its_offset(
    start_s: float, gain: float, tmp_path: Path
) -> None:
    whole = noise(1)
    found = shared(tmp_path, {"a": whole, "b": gain * whole[int(start_s * RATE) :], "c": noise(2)})
    assert summary(found) == [("near-duplicate", "a", "b")]
    assert found[0].offset_s == pytest.approx(start_s, abs=1e-3)
    assert found[0].correlation > 0.95


def test_the_offset_has_the_sign_of_the_order_of_names(tmp_path: Path) -> None:
    whole = noise(1)
    (found,) = shared(tmp_path, {"a": whole[2 * RATE :], "b": whole})
    assert found.offset_s == pytest.approx(-2.0, abs=1e-3)


def channels(seed: int) -> tuple[Samples, Samples]:
    """Two places of one chest: a sound that both hear, the second 5 ms later, under more noise of each place."""
    both = noise(seed)
    late = RATE // 200
    return both + noise(seed + 100), np.roll(both, late) + noise(seed + 200)


def test_simultaneous_channels_of_a_patient_are_found(tmp_path: Path) -> None:
    one, other = channels(1)
    (found,) = shared(tmp_path, {"a": one, "b": other, "c": noise(2)}, patients={"a": "p", "b": "p", "c": "p"})
    assert (found.kind, found.one, found.other) == ("simultaneous channels", "a", "b")
    assert found.offset_s == pytest.approx(-0.005, abs=1e-3)
    assert 0.3 < found.correlation < 0.75


def test_recordings_that_share_nothing_are_not_found(tmp_path: Path) -> None:
    sounds = {str(seed): noise(seed) for seed in range(12)}
    assert shared(tmp_path, sounds, patients=dict.fromkeys(sounds, "p")) == []


def test_pairs_come_by_kind_and_name_whatever_the_number_of_workers(tmp_path: Path) -> None:
    one, other = channels(1)
    copy = noise(5)
    sounds = {"a": one, "b": other, "c": copy, "d": 0.5 * copy, "e": noise(6), "f": noise(6)}
    patients = {"a": "p", "b": "p"}
    first = shared(tmp_path, sounds, patients=patients)
    assert summary(first) == [
        ("same samples", "e", "f"),
        ("near-duplicate", "c", "d"),
        ("simultaneous channels", "a", "b"),
    ]
    assert shared(tmp_path, sounds, patients=patients, num_workers=3) == first


def test_a_patient_with_too_many_recordings_is_named() -> None:
    def recordings(number: int) -> list[Recording]:
        return [Recording(str(i), "p", Path("x.wav"), duration_s=1.0, sample_rate_hz=RATE) for i in range(number)]

    assert crowded_patients(recordings(MAX_RECORDINGS_OF_PATIENT)) == []
    assert crowded_patients(recordings(MAX_RECORDINGS_OF_PATIENT + 1)) == ["p"]
