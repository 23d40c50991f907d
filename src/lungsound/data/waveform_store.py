"""Waveforms of the cycles of a corpus, as they were cut, in one memory-mapped file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Cycle
from lungsound.data.cut_cycles import cut_cycles
from lungsound.data.filter_bank_store import OnProgress, key_of
from lungsound.files import written_whole


class Waveforms:
    """Waveforms of cycles, as cut and not yet fitted to the input's length, in one memory-mapped file.

    The file holds the samples of all cycles as float32, one after the other, then where each begins and the last
    ends, as int64.
    """

    def __init__(self, path: Path, num_cycles: int) -> None:
        self._samples = np.memmap(path, dtype=np.float32, mode="r")
        num_places = 2 * (num_cycles + 1)  # an int64 takes two places of float32
        self._starts = np.frombuffer(self._samples[-num_places:].tobytes(), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> Tensor:
        """A copy (samples,) of the waveform of a cycle."""
        return torch.from_numpy(np.array(self._samples[self._starts[row] : self._starts[row + 1]]))


def open_waveforms(
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    *,
    cache_dir: Path,
    fingerprint: str,
    on_progress: OnProgress | None = None,
) -> Waveforms:
    """Waveforms of `cycles`, in their order, read once and kept beside its filter banks.

    The file is written under a name of its own process and renamed when it is whole: two runs that start at once do
    the work twice and disturb nothing.
    """
    path = cache_dir / f"{key_of(cycles, front_end, fingerprint)}.waveforms"
    if not path.exists():
        with written_whole(path, is_shared=True) as partial:
            _write_waveforms(partial, cycles, front_end, on_progress)
    return Waveforms(path, len(cycles))


def _write_waveforms(path: Path, cycles: Sequence[Cycle], front_end: FrontEnd, on_progress: OnProgress | None) -> None:
    starts = [0]
    with path.open("wb") as file:
        for cut in cut_cycles(cycles, front_end, lambda cut: cut, num_workers=torch.get_num_threads()):
            for part in cut.waveforms:
                file.write(part.numpy().tobytes())
                starts.append(starts[-1] + len(part))
            if on_progress is not None:
                on_progress(len(starts) - 1, len(cycles))
        file.write(np.array(starts, dtype=np.int64).tobytes())
