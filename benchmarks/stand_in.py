"""A corpus of noise in ICBHI's layout and size, written in seconds: only its lengths are like the real one's."""

from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 44100  # of 824 of ICBHI's 920 recordings
NUM_RECORDINGS, NUM_CYCLES = 920, 6898
PLACES = ("Al", "Ar", "Ll", "Lr", "Pl", "Pr", "Tc")
RECORDINGS_OF_A_PATIENT = 7
TEST_PATIENTS = (1, 3)  # of every five
NOISE_S = 40


def durations_s(num_cycles: int, *, seed: int = 0) -> list[float]:
    """Durations of cycles, log-normal: as in ICBHI their mean is 2.7 s, and few are under 1 s or over 8 s."""
    drawn = np.random.default_rng(seed).lognormal(mean=0.9, sigma=0.45, size=num_cycles)
    return [round(float(each), 3) for each in drawn.clip(0.2, 16.0)]


def write_stand_in(
    folder: Path, *, num_recordings: int = NUM_RECORDINGS, num_cycles: int = NUM_CYCLES, rate_hz: int = RATE_HZ
) -> Path:
    """Write the recordings, their annotations and a split by patient into the new folder, and return it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3000, NOISE_S * rate_hz).astype(np.int16)
    split = []
    for number, lengths in enumerate(np.array_split(durations_s(num_cycles), num_recordings)):
        patient, place = divmod(number, RECORDINGS_OF_A_PATIENT)
        name = f"{patient + 101}_1b1_{PLACES[place]}_sc_Meditron"
        ends = np.cumsum(lengths)
        starts = ends - lengths
        flags = rng.integers(2, size=(len(lengths), 2))
        rows = [f"{start:.3f}\t{end:.3f}\t{c}\t{w}\n" for start, end, (c, w) in zip(starts, ends, flags, strict=True)]
        (folder / f"{name}.txt").write_text("".join(rows), encoding="utf-8")
        # Each recording begins elsewhere in the noise, so that no two are the same.
        sound = np.resize(np.roll(noise, -7 * number), int(np.ceil((ends[-1] + 0.01) * rate_hz)))
        soundfile.write(folder / f"{name}.wav", sound, rate_hz, subtype="PCM_16")
        is_test = patient % 5 in TEST_PATIENTS
        split.append(f"{name}\t{'test' if is_test else 'train'}\n")
    (folder / "official_split.txt").write_text("".join(split), encoding="utf-8")
    return folder
