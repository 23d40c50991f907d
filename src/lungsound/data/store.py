"""Filter banks and waveforms of the cycles of a corpus: made once on all cores, kept on disk, shared by runs.

A store is a folder of two files. `values` holds a row of float32 for each cycle, one after the other, and is read
through a memory map. `facts` holds of each row its checksum, its sums and the samples of its cycle, under a checksum
of their own: a row without valid facts is not written yet. So a store that was broken off is taken up where it
stopped, and a damaged one is never taken for a sound one.

Of a packed corpus, which may be larger than the disk, such stores are made shard by shard when they are read, in a
folder of this process alone; of these only the facts are kept.
"""

import hashlib
import inspect
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
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
from lungsound.data.shards import sound_file
from lungsound.errors import DataError, LungsoundError
from lungsound.files import cache_root, private_folder, written_whole
from lungsound.processor import map_ahead, num_threads
from lungsound.progress import OnProgress, track

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
        with sound_file(group[0].recording) as path:
            recording = front_end.read(path)
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

    def __len__(self) -> int:
        return len(self.facts)

    def expect(self, rows: NDArray[np.int64], num_together: int) -> None:
        """Nothing to do: all rows are there."""

    def load_facts(self) -> None:
        """Read the facts of the rows that are written; all zero for the others, and for all without their values."""
        self.facts[:] = 0
        values, facts = self.folder / "values", self.folder / "facts"
        if not values.is_file() or values.stat().st_size != 4 * self.starts[-1] or not facts.is_file():
            return
        _load_valid(facts, self.facts)

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


def _load_valid(file: Path, facts: NDArray[np.void]) -> None:
    """Set the facts of those rows that are whole in the file; none where it is of another number of rows."""
    content = file.read_bytes()
    if len(content) == facts.nbytes:
        stored = np.frombuffer(content, FACTS)
        valid = [zlib.crc32(row.tobytes()[:-4]) == row["own_crc32"] for row in stored]
        facts[valid] = stored[valid]


class ShardRows:
    """Rows of a packed corpus. Those of a shard are made when one of them is read, and are gone some shards later.

    Who reads many says which (`expect`): the shards are then made ahead in a thread, in the order of their first rows,
    and go after their last. Twice as many as are mixed are there at once.
    """

    def __init__(
        self,
        cycles: Sequence[Cycle],
        make: Callable[[Rows, range, NDArray[np.bool_]], Rows],
        sizes: Sequence[int],
        *,
        kept_facts: Path,
        report: Callable[[], AbstractContextManager[OnProgress]],
    ) -> None:
        self._sizes, self._make, self._kept_facts, self._report = sizes, make, kept_facts, report
        lengths = [len(list(group)) for _, group in groupby(cycles, key=lambda cycle: cycle.recording.shard)]
        self._firsts = np.cumsum([0, *lengths])
        self._held: dict[int, Future[Rows]] = {}  # by shard, that which was read last at the end
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shard")
        folder = ExitStack()
        with _written(cache_root()):
            self._folder = folder.enter_context(private_folder(cache_root()))
        weakref.finalize(self, folder.close)
        self.expect(np.arange(len(sizes)), 1)

    def __len__(self) -> int:
        return len(self._sizes)

    @cached_property
    def facts(self) -> NDArray[np.void]:
        """Facts of all rows, from the cache or by one pass through the corpus."""
        facts = np.zeros(len(self), FACTS)
        if self._kept_facts.is_file():
            _load_valid(self._kept_facts, facts)
        missing = np.unique(self._shard_of(np.flatnonzero(facts["own_crc32"] == 0))).tolist()
        if missing:
            places = [np.arange(*self._firsts[shard : shard + 2]) for shard in missing]
            self.expect(np.concatenate(places), 1)
            with self._report() as on_progress:
                for shard, own in zip(missing, places, strict=True):
                    facts[own] = self._read(shard).facts
                    with written_whole(self._kept_facts) as partial:
                        partial.write_bytes(facts.tobytes())
                    on_progress(int(own[-1]) + 1, len(self))
        return facts

    def row(self, row: int, size: int | None = None) -> NDArray[np.float32]:
        """As that of `Rows`; CorpusError too where the shard is not reached, or is not what was packed."""
        shard = int(self._shard_of(row))
        rows, place = self._read(shard), row - int(self._firsts[shard])
        if not rows.is_written[place]:  # it was announced after the shard was made, or not at all
            self._is_wanted[row] = True
            self._held[shard] = self._begin(shard)
            rows = self._held[shard].result()
        return rows.row(place, size)

    def expect(self, rows: NDArray[np.int64], num_together: int) -> None:
        """Announce rows that are read next, in this order, those of so many shards mixed."""
        shards = self._shard_of(rows).tolist()
        self._num_together, self._latest, self._reached = num_together, 0, 0
        self._coming = list(dict.fromkeys(shards))
        self._place = {shard: place for place, shard in enumerate(self._coming)}
        self._last = {shard: n for n, shard in enumerate(shards)}
        self._first = {shard: n for n, shard in reversed(list(enumerate(shards)))}
        self._is_wanted = np.zeros(len(self), dtype=np.bool_)
        self._is_wanted[rows] = True

    def _shard_of(self, row: NDArray[np.int64] | int) -> NDArray[np.int64]:
        return np.searchsorted(self._firsts, row, side="right") - 1

    def _read(self, shard: int) -> Rows:
        """Rows of a shard; one that comes after it is begun meanwhile."""
        self._latest = max(self._latest, self._place.get(shard, 0))
        self._reached = max(self._reached, self._first.get(shard, 0))
        making = self._held.pop(shard, None) or self._begin(shard)
        rows = making.result()
        self._held[shard] = making
        ahead = self._coming[self._latest + 1 : self._latest + 1 + self._num_together]
        # One at a time, so that a run that ends waits for one at the most.
        if all(each.done() for each in self._held.values()):
            for coming in [each for each in ahead if each not in self._held][:1]:
                self._held[coming] = self._begin(coming)
        return rows

    def _begin(self, shard: int) -> Future[Rows]:
        """Have a shard made in the thread, in the place of one whose rows were read, or what it lacks."""
        if shard not in self._held and len(self._held) >= 2 * self._num_together:
            read = (each for each in self._held if self._last.get(each, -1) < self._reached)
            gone = next(read, next(iter(self._held)))
            wait([self._held.pop(gone)])
            shutil.rmtree(self._folder / str(gone), ignore_errors=True)
        first, end = self._firsts[shard : shard + 2]
        return self._pool.submit(self._made, shard, self._is_wanted[first:end])

    def _made(self, shard: int, is_wanted: NDArray[np.bool_]) -> Rows:
        places = range(*self._firsts[shard : shard + 2].tolist())
        folder = self._folder / str(shard)
        with _written(folder):
            folder.mkdir(exist_ok=True)
            return self._make(Rows(folder, self._sizes[places.start : places.stop]), places, is_wanted)


class JoinedRows:
    """Rows of several stores as one, one store after the other."""

    def __init__(self, stores: "Sequence[Stored]") -> None:
        self._stores, self._firsts = stores, np.cumsum([0, *map(len, stores)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @cached_property
    def facts(self) -> NDArray[np.void]:
        facts: NDArray[np.void] = np.concatenate([store.facts for store in self._stores])
        return facts

    def expect(self, rows: NDArray[np.int64], num_together: int) -> None:
        """As that of `ShardRows`, for each store."""
        for store, first, end in zip(self._stores, self._firsts, self._firsts[1:], strict=False):
            store.expect(rows[(first <= rows) & (rows < end)] - first, num_together)

    def row(self, row: int, size: int | None = None) -> NDArray[np.float32]:
        store = int(np.searchsorted(self._firsts, row, side="right")) - 1
        return self._stores[store].row(row - int(self._firsts[store]), size)


Stored = Rows | ShardRows | JoinedRows


class FilterBanks:
    """Filter banks (cycle, time, mel), before normalisation, of the cycles of a corpus."""

    def __init__(self, rows: Stored, num_frames: int, num_mels: int) -> None:
        self.shape = (len(rows), num_frames, num_mels)
        self._rows = rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy (row, time, mel) of some rows."""
        return np.stack([self._rows.row(int(row)) for row in rows]).reshape(-1, *self.shape[1:])

    def expect(self, rows: NDArray[np.int64], num_together: int = 1) -> None:
        """Announce rows that are read next, in this order, those of so many shards mixed."""
        self._rows.expect(rows, num_together)

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

    def __init__(self, rows: Stored, num_mels: int) -> None:
        self._rows, self._num_mels, self._num_samples = rows, num_mels, rows.facts["num_samples"]

    def __len__(self) -> int:
        return len(self._rows)

    def expect(self, rows: NDArray[np.int64], num_together: int = 1) -> None:
        """As that of `FilterBanks`."""
        self._rows.expect(rows, num_together)

    def __getitem__(self, row: int) -> Sound:
        """A copy of a cycle's sound."""
        size = self._num_mels + int(self._num_samples[row])
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
) -> Stored:
    """Rows of the corpus's cycles, missing ones written first; of several corpora from the store of each."""
    if corpus.members:
        rest, made = iter(sizes), []
        for member in corpus.members.values():
            own = [next(rest) for _ in member.cycles]
            made.append(_open(what, member, front_end, own, values_of, console=console))
        return JoinedRows(made)
    kind = what.replace(" ", "-")
    folder = cache_root() / "filter-banks" / f"{key_of(corpus, front_end)}.{kind}"

    def make(row: int) -> NDArray[np.float32]:
        (values,) = cut_cycles([corpus.cycles[row]], front_end, lambda _, sounds: values_of(sounds[0]))
        return values

    def fill(rows: Rows, cycles: Sequence[Cycle], is_wanted: NDArray[np.bool_], on_progress: OnProgress) -> None:
        with rows.writer() as write:

            def write_all(places: range, sounds: list[Sound]) -> None:
                for row, sound in zip(places, sounds, strict=True):
                    write(row, values_of(sound), len(sound.waveform))

            def is_missing(places: range) -> bool:
                return bool((is_wanted[places] & ~rows.is_written[places]).any())

            for _ in cut_cycles(cycles, front_end, write_all, is_wanted=is_missing):
                on_progress(int(rows.is_written.sum()), len(cycles))

    if any(cycle.recording.packed for cycle in corpus.cycles):

        def fill_shard(rows: Rows, places: range, is_wanted: NDArray[np.bool_]) -> Rows:
            fill(rows, corpus.cycles[places.start : places.stop], is_wanted, lambda *_: None)
            return rows.open(lambda row: make(places[row]))

        kept_facts = folder.with_suffix(f".{kind}-facts")
        return ShardRows(corpus.cycles, fill_shard, sizes, kept_facts=kept_facts, report=lambda: track(console, what))
    rows = Rows(folder, sizes)
    if rows.is_written.all():
        return rows.open(make)
    with _written(rows.folder):
        rows.folder.mkdir(parents=True, exist_ok=True)
        if rows.folder.is_symlink():
            raise OSError("it is a link")
        try:
            with track(console, what) as on_progress, _alone(rows, on_progress):
                fill(rows, corpus.cycles, np.ones(len(sizes), dtype=np.bool_), on_progress)
        except LungsoundError:
            for name in ("facts", "values"):
                (rows.folder / name).unlink()
            raise
    return rows.open(make)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """DataError with advice where the folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror or error}); make room, or set LUNGSOUND_CACHE to another folder",
            path=folder,
        ) from error


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
