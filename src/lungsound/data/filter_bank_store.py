"""Filter banks of a corpus: made once on all cores, shared by runs, taken up where they stopped, read row by row."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from lungsound.audio.fbank import fbank_statistics
from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Cycle
from lungsound.data.cut_cycles import CutCycles, cut_cycles
from lungsound.data.row_file import RowFile, RowWriter, Shape, is_whole, read_facts
from lungsound.errors import LungsoundError

# Part of the key of what is kept: change it whenever the same settings give other numbers, or files another format.
VERSION = "3"
WAIT_S = 0.5
OnProgress = Callable[[int, int], None]


class FilterBanks:
    """Filter banks (cycle, time, mel), before normalisation, of the cycles of a corpus."""

    def __init__(self, file: RowFile) -> None:
        self.shape = file.shape
        self._file = file

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy (row, time, mel) of some rows."""
        found = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
        for into, row in zip(found, rows, strict=True):
            self._file.read(int(row), into)
        return found

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples (cycle,) of each cycle as it was cut, before it was fitted to the input's length."""
        return np.asarray(self._file.facts["num_samples"], dtype=np.int64)

    def statistics(self, rows: Sequence[int]) -> tuple[float, float]:
        """Mean and standard deviation of all values of some rows; no row is read for them."""
        return fbank_statistics(self._file.sums(row) for row in rows)


def open_filter_banks(
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    *,
    cache_dir: Path,
    fingerprint: str,
    num_workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> FilterBanks:
    """Filter banks of `cycles`, in their order.

    They are computed once for a corpus (`fingerprint`: its audio and annotations) and a front end, and kept under
    `cache_dir`. Of runs that start at once one computes and the others wait for it; what was broken off is taken up
    where it stopped. The numbers do not depend on `num_workers` (default: as many as torch has threads).
    """
    folder = cache_dir / key_of(cycles, front_end, fingerprint)
    shape = (len(cycles), front_end.num_frames, front_end.num_mels)
    if not is_whole(folder, shape):
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, on_progress):
            if not is_whole(folder, shape):
                _make(folder, shape, cycles, front_end, num_workers or torch.get_num_threads(), on_progress)
    return FilterBanks(RowFile(folder, shape))


def key_of(cycles: Sequence[Cycle], front_end: FrontEnd, fingerprint: str) -> str:
    """Name of what is kept of these cycles: another one whenever it would be something else."""
    identity = "\n".join([VERSION, repr(front_end), fingerprint, *(cycle.key for cycle in cycles)])
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


@contextmanager
def _alone(folder: Path, on_progress: OnProgress | None) -> Iterator[None]:
    """Hold the lock of the folder; until it is free, tell how far the process that holds it has come."""
    lock = FileLock(folder / "lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=WAIT_S)
        except Timeout:
            is_written = read_facts(folder)["is_written"]
            if on_progress is not None and len(is_written):
                on_progress(int(np.count_nonzero(is_written)), len(is_written))
    try:
        yield
    finally:
        lock.release()


def _make(
    folder: Path,
    shape: Shape,
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    num_workers: int,
    on_progress: OnProgress | None,
) -> None:
    """Write the missing rows. Nothing is kept after an error in the corpus, which is another one once it is mended."""
    with RowWriter(folder, shape) as rows:

        def write(cut: CutCycles) -> None:
            for row, waveform in enumerate(cut.waveforms, start=cut.first_row):
                # One at a time: what is made on the way stays in the processor's cache.
                rows.write(row, front_end.filter_banks_of([waveform])[0].numpy(), num_samples=len(waveform))

        try:
            for _ in cut_cycles(cycles, front_end, write, num_workers=num_workers, is_wanted=rows.is_missing):
                if on_progress is not None:
                    on_progress(rows.num_written, shape[0])
        except LungsoundError:
            rows.discard()
            raise
        rows.finish()
