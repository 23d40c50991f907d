"""Every recording of a corpus decoded once: the hash of its samples, its measures and defects, its fingerprint."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lungsound.audio.fingerprint import RATE_HZ, Fingerprint, fingerprint
from lungsound.audio.quality import Defect, Quality, find_defects, measure_quality
from lungsound.audio.waveform import read_channels, resample
from lungsound.data.corpus import Recording
from lungsound.errors import AudioError

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """One decoded recording. `sha256` is that of its samples as 32-bit floats, whatever file they came from."""

    sha256: str
    quality: Quality
    defects: tuple[Defect, ...]
    signs: Fingerprint


def measure_recordings(
    recordings: Sequence[Recording], *, num_workers: int = 1, on_progress: OnProgress | None = None
) -> list[Measured | AudioError]:
    """Each recording measured, in their order; for one that cannot be decoded, the error that says why."""
    found: list[Measured | AudioError] = []
    with ThreadPoolExecutor(num_workers) as pool:
        for measured in pool.map(_measure, (recording.path for recording in recordings)):
            found.append(measured)
            if on_progress is not None:
                on_progress(len(found), len(recordings))
    return found


def _measure(path: Path) -> Measured | AudioError:
    try:
        channels, rate_hz = read_channels(path)
    except AudioError as error:
        return error
    quality = measure_quality(channels, rate_hz)
    mono = torch.from_numpy(channels.mean(axis=0, dtype=np.float32))
    return Measured(
        sha256=hashlib.sha256(channels.T.tobytes()).hexdigest(),
        quality=quality,
        defects=find_defects(quality),
        signs=fingerprint(resample(mono, rate_hz, RATE_HZ).numpy()),
    )
