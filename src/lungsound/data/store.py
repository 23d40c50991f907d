"""Filter banks and waveforms of the cycles of a corpus: made once on all cores, kept on disk, shared by runs.

A store is a folder of two files. `values` holds a row of float32 for each cycle, one after the other, and is read
through a memory map. `facts` holds of each row its checksum, its sums and the samples of its cycle, under a checksum
of their own: a row without valid facts is not written yet. So a store that was broken off is taken up where it
stopped, and a damaged one is never taken for a sound one.
"""

import hashlib
import inspect
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, groupby, pairwise
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.console import Console

from lungsound.audio import containers, filter_bank, io
from lungsound.audio import front_end as front_ends
from lungsound.audio.filter_bank import fbank_statistics, fbank_sums
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.data.corpus import Corpus, Cycle
from lungsound.errors import DataError, LungsoundError
from lungsound.files import cache_root
from lungsound.processor import map_ahead, num_threads
from lungsound.progress import track

FACTS = np.dtype(
    [("num_samples", "<i8"), ("total", "<f8"), ("total_squares", "<f8"), ("values_crc32", "<u4"), ("own_crc32", "<u4")]
)
WAIT_S = 0.5
# Their source defines what a row is, beside the settings of the front end.
DEFINITION = (containers, io, filter_bank, front_ends)
Made = TypeVar("Made")


def cut_cycles(
    cycles: Sequence[Cycle],
    front_end: FrontEnd,
    use: Callable[[range, list[Sound]], Made],
    *,
    is_wanted: Callable[[range], bool] = lambda _: True,
) -> Iterator[Made]:
    """Results of `use` for each recording's rows and the sounds of its cycles, in order.

    Recordings of which no row is wanted are left out. The others are read, and `use` is called, in `num_threads`
    threads: the numbers do not depend on how many there are.
    """

    def work(rows: range) -> Made:
        group = cycles[rows.start : rows.stop]
        recording = front_end.read(group[0].recording.path)
        return use(rows, [front_end.cut(recording, start_s=cycle.start_s, end_s=cycle.end_s) for cycle in group])

    sizes = (len(list(group)) for _, group in groupby(cycles, key=lambda cycle: cycle.recording))
    ends = list(accumulate(sizes, initial=0))
    wanted = filter(is_wanted, (range(first, end) for first, end in pairwise(ends)))
    pool = ThreadPoolExecutor(num_threads())
    try:
        yield from map_ahead(pool, work, wanted, num_ahead=2 * num_threads())
    finally:
        pool.shutdown(cancel_futures=True)


def sounds_of(cycles: Sequence[Cycle], front_end: FrontEnd) -> list[Sound]:
    """Sounds of cycles, in their order; no recording is kept as a whole."""
    parts = cut_cycles(cycles, front_end, lambda _, own: [replace(each, waveform=each.waveform.copy()) for each in own])
    return [sound for part in parts for sound in part]


class Rows:
    """Rows of float32 of given sizes in a folder; each is checked when it is read first, and made again when wrong."""

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self.folder = folder
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.facts = np.zeros(len(sizes), FACTS)
        self.load_facts()

    def load_facts(self) -> None:
        """Read the facts of the rows that are written; all zero for the others, and for all without their values."""
        self.facts[:] = 0
        values, facts = self.folder / "values", self.folder / "facts"
        if not values.is_file() or values.stat().st_size != 4 * self.starts[-1] or not facts.is_file():
            return
        content = facts.read_bytes()
        if len(content) == self.facts.nbytes:
            stored = np.frombuffer(content, FACTS)
            valid = [zlib.crc32(row.tobytes()[:-4]) == row["own_crc32"] for row in stored]
            self.facts[valid] = stored[valid]

    @property
    def is_written(self) -> NDArray[np.bool_]:
        return np.asarray(self.facts["own_crc32"] != 0)

    def open(self, make: Callable[[int], NDArray[np.float32]]) -> "Rows":
        """Map the values of a complete store; `make` makes the values of a row."""
        self._make = make
        self._values = np.memmap(self.folder / "values", dtype=np.float32, mode="r")
        self._is_checked = np.zeros(len(self.facts), dtype=np.bool_)
        return self

    def row(self, row: int, size: int | None = None) -> NDArray[np.float32]:
        """View of the first values of a row, by default all; DataError for damaged ones that cannot be made again."""
        start = int(self.starts[row])
        values = self._values[start : int(self.starts[row + 1]) if size is None else start + size]
        if not self._is_checked[row]:
            checksum = self.facts["values_crc32"][row]
            if zlib.crc32(values.data) != checksum:
                made = self._make(row)
                if zlib.crc32(made.data) != checksum:
                    with _writable(self.folder / "facts") as file:
                        _write_at(file, bytes(FACTS.itemsize), row * FACTS.itemsize)
                    raise DataError(
                        f"{self.folder} is damaged in row {row} (a failing disk?): start again to make it anew"
                    )
                with _writable(self.folder / "values") as file:
                    _write_at(file, made.data, 4 * start)
            self._is_checked[row] = True
        return values

    @contextmanager
    def writer(self) -> Iterator[Callable[[int, NDArray[np.float32], int], None]]:
        """Function that writes a row and the samples of its cycle; several threads may call it at once."""
        self.load_facts()
        with _writable(self.folder / "values") as values_file, _writable(self.folder / "facts") as facts_file:
            values_file.truncate(4 * int(self.starts[-1]))
            facts_file.write(self.facts.tobytes())
            facts_file.truncate()
            facts_file.flush()

            def write(row: int, values: NDArray[np.float32], num_samples: int) -> None:
                _, total, total_squares = fbank_sums(values)
                facts = np.array((num_samples, total, total_squares, zlib.crc32(values.data), 0), FACTS)
                facts["own_crc32"] = zlib.crc32(facts.tobytes()[:-4])
                _write_at(values_file, values.data, 4 * int(self.starts[row]))
                _write_at(facts_file, facts.data, row * FACTS.itemsize)
                self.facts[row] = facts

            yield write


def _writable(path: Path) -> BinaryIO:
    """The file, made where it is not there, to be changed in place. OSError for a link, which may lead anywhere."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")


def _write_at(file: BinaryIO, content: bytes | memoryview, offset: int) -> None:
    if os.pwrite(file.fileno(), content, offset) != memoryview(content).nbytes:
        raise OSError("the disk is full")


class JoinedRows:
    """Rows of several stores as one, one store after the other."""

    def __init__(self, stores: "Sequence[Rows | JoinedRows]") -> None:
        self.facts: NDArray[np.void] = np.concatenate([store.facts for store in stores])
        self._stores, self._firsts = stores, np.cumsum([0, *(len(store.facts) for store in stores)])

    def row(self, row: int, size: int | None = None) -> NDArray[np.float32]:
        store = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return self._stores[store].row(row - int(self._firsts[store]), size)


class FilterBanks:
    """Filter banks (cycle, time, mel), before normalisation, of the cycles of a corpus."""

    def __init__(self, rows: Rows | JoinedRows, num_frames: int, num_mels: int) -> None:
        self.shape = (len(rows.facts), num_frames, num_mels)
        self._rows = rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy (row, time, mel) of some rows."""
        return np.stack([self._rows.row(int(row)) for row in rows]).reshape(-1, *self.shape[1:])

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Samples (cycle,) of each cycle as it was cut, before it was fitted to the input's length."""
        return np.asarray(self._rows.facts["num_samples"], dtype=np.int64)

    def statistics(self, rows: Sequence[int]) -> tuple[float, float]:
        """Mean and standard deviation of all values of some rows; no row is read for them."""
        count = self.shape[1] * self.shape[2]
        facts = self._rows.facts
        return fbank_statistics((count, float(facts["total"][row]), float(facts["total_squares"][row])) for row in rows)


class Waveforms:
    """Waveforms of cycles as they were cut, each behind the spectrum of its recording, where that is needed."""

    def __init__(self, rows: Rows | JoinedRows, num_mels: int) -> None:
        self._rows, self._num_mels = rows, num_mels

    def __len__(self) -> int:
        return len(self._rows.facts)

    def __getitem__(self, row: int) -> Sound:
        """A copy of a cycle's sound."""
        size = self._num_mels + int(self._rows.facts["num_samples"][row])
        values = self._rows.row(row, size).copy()
        return Sound(values[self._num_mels :], values[: self._num_mels] if self._num_mels else None)


def open_filter_banks(corpus: Corpus, front_end: FrontEnd, *, console: Console) -> FilterBanks:
    """Filter banks of the corpus's cycles, in their order, from the cache or computed with a progress bar.

    Of runs that start at once one computes and the others wait; what was broken off is taken up where it stopped.
    """
    # One at a time: what is made on the way stays in the processor's cache.
    rows = _open(
        "filter banks",
        corpus,
        front_end,
        [front_end.num_frames * front_end.audio.num_mels] * len(corpus.cycles),
        lambda sound: front_end.filter_banks_of([sound])[0],
        console=console,
    )
    return FilterBanks(rows, front_end.num_frames, front_end.audio.num_mels)


def open_waveforms(corpus: Corpus, front_end: FrontEnd, *, console: Console) -> Waveforms:
    """Waveforms of the corpus's cycles, in their order, kept beside their filter banks as these are."""
    # A cycle that ends after its recording is cut shorter: its row is not filled.
    rate, audio = front_end.sample_rate_hz, front_end.audio
    num_mels = audio.num_mels if audio.is_recording_normalized else 0
    sizes = [num_mels + int(cycle.end_s * rate) - int(cycle.start_s * rate) for cycle in corpus.cycles]

    def values_of(sound: Sound) -> NDArray[np.float32]:
        waveform = np.ascontiguousarray(sound.waveform)
        return waveform if sound.spectrum is None else np.concatenate([sound.spectrum, waveform])

    return Waveforms(_open("waveforms", corpus, front_end, sizes, values_of, console=console), num_mels)


def key_of(corpus: Corpus, front_end: FrontEnd) -> str:
    """Name of what is kept of a corpus's cycles: another one whenever it would be something else."""
    sources, settings = [inspect.getsource(module) for module in DEFINITION], str(front_end.definition)
    identity = [*sources, str(FACTS), settings, corpus.fingerprint, *(cycle.key for cycle in corpus.cycles)]
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:24]


def _open(
    what: str,
    corpus: Corpus,
    front_end: FrontEnd,
    sizes: Sequence[int],
    values_of: Callable[[Sound], NDArray[np.float32]],
    *,
    console: Console,
) -> Rows | JoinedRows:
    """Rows of the corpus's cycles, missing ones written first; of several corpora from the store of each."""
    if corpus.members:
        rest, made = iter(sizes), []
        for member in corpus.members.values():
            own = [next(rest) for _ in member.cycles]
            made.append(_open(what, member, front_end, own, values_of, console=console))
        return JoinedRows(made)
    kind = what.replace(" ", "-")
    rows = Rows(cache_root() / "filter-banks" / f"{key_of(corpus, front_end)}.{kind}", sizes)

    def make(row: int) -> NDArray[np.float32]:
        (values,) = cut_cycles([corpus.cycles[row]], front_end, lambda _, sounds: values_of(sounds[0]))
        return values

    if rows.is_written.all():
        return rows.open(make)
    try:
        rows.folder.mkdir(parents=True, exist_ok=True)
        if rows.folder.is_symlink():
            raise OSError("it is a link")
        with track(console, what) as on_progress, _alone(rows, on_progress), rows.writer() as write:

            def write_all(places: range, sounds: list[Sound]) -> None:
                for row, sound in zip(places, sounds, strict=True):
                    write(row, values_of(sound), len(sound.waveform))

            def is_missing(places: range) -> bool:
                return not rows.is_written[places].all()

            for _ in cut_cycles(corpus.cycles, front_end, write_all, is_wanted=is_missing):
                on_progress(int(rows.is_written.sum()), len(sizes))
    except LungsoundError:
        for name in ("facts", "values"):
            (rows.folder / name).unlink()
        raise
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror or error}); make room, or set LUNGSOUND_CACHE to another folder",
            path=rows.folder,
        ) from error
    return rows.open(make)


@contextmanager
def _alone(rows: Rows, on_progress: Callable[[int, int], None]) -> Iterator[None]:
    """Hold the lock of the folder; until it is free, report how far the process that holds it has come."""
    lock = FileLock(rows.folder / "lock")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=WAIT_S)
        except Timeout:
            rows.load_facts()
            if rows.is_written.any():
                on_progress(int(rows.is_written.sum()), len(rows.facts))
    try:
        yield
    finally:
        lock.release()
