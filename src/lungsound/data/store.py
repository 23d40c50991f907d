"""Sound files to the waveforms of their cycles, several files at a time.

Filter banks as rows of one file, with facts of each row in another: written in any order, taken up again, checked.

filter-banks.npy    (row, time, mel) float32, as numpy reads it; `.partial` until every row is written
rows.facts          of each row: whether it is written, its checksum, its sums, the samples of its cycle

Rows are read and written by place, not mapped: the memory of a process does not grow with the file, and a full disk is
an error that says so.

Filter banks of a corpus: made once on all cores, shared by runs, taken up where they stopped, read row by row.

Waveforms of the cycles of a corpus, as they were cut, in one memory-mapped file.
"""

import hashlib
import io
import math
import os
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from lungsound.audio.filter_bank import FbankSums, fbank_statistics, fbank_sums
from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Cycle, Recording
from lungsound.errors import DataError, LungsoundError
from lungsound.files import written_whole

Made = TypeVar("Made")


@dataclass(frozen=True)
class CutCycles:
    """The waveforms (samples,) of the cycles of one recording, the first of which is in row `first_row`."""

    first_row: int
    waveforms: list[Tensor]


def cut_cycles(
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    use: Callable[[CutCycles], Made],
    *,
    num_workers: int,
    is_wanted: Callable[[range], bool] = lambda _: True,
) -> Iterator[Made]:
    """What `use` makes of each recording's cycles, in order; recordings of which no row is wanted are left out.

    Recordings are read, and `use` is called, in `num_workers` threads, each with one thread of torch: the numbers do
    not depend on how many there are. Reading, the filter bank and writing leave Python's lock alone for nearly all of
    their time, so threads do as well as processes here and need no copies. At most two recordings a worker wait to
    be taken.
    """

    def work(recording: Recording, first_row: int, group: list[Cycle]) -> Made:
        waveform = front_end.read(recording.path)
        parts = [front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s) for cycle in group]
        return use(CutCycles(first_row, parts))

    num_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Made]] = deque()
    try:
        for recording, first_row, group in by_recording(cycles):
            if not is_wanted(range(first_row, first_row + len(group))):
                continue
            waiting.append(pool.submit(work, recording, first_row, group))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)


def waveforms_of(cycles: Sequence[Cycle], front_end: FrontEnd) -> list[Tensor]:
    """The waveforms (samples,) of cycles, in their order; no recording is kept whole."""

    def own(cut: CutCycles) -> list[Tensor]:
        return [waveform.clone() for waveform in cut.waveforms]

    parts = cut_cycles(cycles, front_end, own, num_workers=torch.get_num_threads())
    return [waveform for part in parts for waveform in part]


def by_recording(cycles: Sequence[Cycle]) -> Iterator[tuple[Recording, int, list[Cycle]]]:
    """Each recording with its first row and its cycles."""
    first_row = 0
    for recording, group in groupby(cycles, key=lambda cycle: cycle.recording):
        own = list(group)
        yield recording, first_row, own
        first_row += len(own)


Shape = tuple[int, int, int]
FACTS = np.dtype(
    [("is_written", "?"), ("crc32", "<u4"), ("num_samples", "<i8"), ("total", "<f8"), ("total_squares", "<f8")]
)
NUM_CHECKED_ROWS = 8


class RowFile:
    """A whole file, for reading."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.shape = shape
        self.path = folder / "filter-banks.npy"
        self.facts = read_facts(folder)
        self._place = _Place(self.path, shape, os.O_RDONLY)

    def read(self, row: int, into: NDArray[np.float32]) -> None:
        self._place.read(row, into)

    def sums(self, row: int) -> FbankSums:
        """Sums of the values of a row, taken when it was made."""
        facts = self.facts[row]
        return FbankSums(math.prod(self.shape[1:]), float(facts["total"]), float(facts["total_squares"]))


def is_whole(folder: Path, shape: Shape) -> bool:
    """Whether the file is there and as long as it must be, every row written, and some of them as they were written."""
    path, facts = folder / "filter-banks.npy", read_facts(folder)
    if not path.is_file() or len(facts) != shape[0] or not facts["is_written"].all():
        return False
    place = _Place(path, shape, os.O_RDONLY)
    chosen = np.unique(np.linspace(0, shape[0] - 1, NUM_CHECKED_ROWS).astype(np.int64))
    return place.has_size() and not place.damaged(facts, chosen)


def read_facts(folder: Path) -> NDArray[np.void]:
    """Facts (row,); empty where nothing is written yet."""
    path = folder / "rows.facts"
    return np.fromfile(path, FACTS) if path.is_file() else np.zeros(0, FACTS)


class RowWriter:
    """The rows that are not written yet; several threads may write different ones. Only one process may have it.

    What an earlier one left is kept, but for rows that are not as they were written.
    """

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.path, self.partial, self.facts_path = (
            folder / name for name in ("filter-banks.npy", "filter-banks.npy.partial", "rows.facts")
        )
        if self.path.exists():
            self.path.replace(self.partial)
        self.facts = read_facts(folder)
        is_new = len(self.facts) != shape[0] or not self.partial.exists()
        self._rows = _Place(self.partial, shape, os.O_RDWR | os.O_CREAT)
        if is_new or not self._rows.has_size():
            self._rows.clear()
            self.facts = np.zeros(shape[0], FACTS)
        self.facts["is_written"][self._rows.damaged(self.facts, np.flatnonzero(self.facts["is_written"]))] = False
        self.facts_path.write_bytes(self.facts.tobytes())
        self._facts_file = os.open(self.facts_path, os.O_WRONLY)

    def is_missing(self, rows: range) -> bool:
        """Whether one of the rows is not written."""
        return not self.facts["is_written"][rows].all()

    @property
    def num_written(self) -> int:
        return int(np.count_nonzero(self.facts["is_written"]))

    def write(self, row: int, fbank: NDArray[np.float32], *, num_samples: int) -> None:
        """Write a row, then what is known of it: a row that says that it is written is."""
        sums = fbank_sums(torch.from_numpy(fbank))
        self._rows.write(row, fbank)
        self.facts[row] = (True, zlib.crc32(fbank.data), num_samples, sums.total, sums.total_squares)
        os.pwrite(self._facts_file, self.facts[row].tobytes(), row * FACTS.itemsize)

    def finish(self) -> None:
        """Give the file its name when all of it is on the disk."""
        self._rows.sync()
        os.fsync(self._facts_file)
        self.partial.replace(self.path)

    def discard(self) -> None:
        self.partial.unlink()
        self.facts_path.unlink()

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._facts_file)


class _Place:
    """Where rows lie in an open file in numpy's format."""

    def __init__(self, path: Path, shape: Shape, flags: int) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        self.path, self.shape, self.header = path, shape, header.getvalue()
        self.row_bytes = math.prod(shape[1:]) * 4
        self._file = os.open(path, flags, 0o666)
        weakref.finalize(self, os.close, self._file)

    def has_size(self) -> bool:
        return os.fstat(self._file).st_size == len(self.header) + self.shape[0] * self.row_bytes

    def clear(self) -> None:
        """The header, and rows that take no place on the disk yet."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, self.header, 0)
        os.ftruncate(self._file, len(self.header) + self.shape[0] * self.row_bytes)

    def read(self, row: int, into: NDArray[np.float32]) -> None:
        if os.preadv(self._file, [into.data.cast("B")], self._start(row)) != self.row_bytes:
            raise DataError(f"{self.path} ends within its row {row}; delete it, and it is made again")

    def write(self, row: int, fbank: NDArray[np.float32]) -> None:
        os.pwrite(self._file, fbank.data.cast("B"), self._start(row))

    def sync(self) -> None:
        os.fsync(self._file)

    def damaged(self, facts: NDArray[np.void], rows: Iterable[int]) -> list[int]:
        """Those of the rows that are not what was written."""
        fbank = np.empty(self.shape[1:], dtype=np.float32)
        found = []
        for row in rows:
            self.read(int(row), fbank)
            if zlib.crc32(fbank.data) != facts["crc32"][row]:
                found.append(int(row))
        return found

    def _start(self, row: int) -> int:
        return len(self.header) + row * self.row_bytes


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
