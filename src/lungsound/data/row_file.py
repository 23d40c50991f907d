"""Filter banks as rows of one file, with facts of each row in another: written in any order, taken up again, checked.

filter-banks.npy    (row, time, mel) float32, as numpy reads it; `.partial` until every row is written
rows.facts          of each row: whether it is written, its checksum, its sums, the samples of its cycle

Rows are read and written by place, not mapped: the memory of a process does not grow with the file, and a full disk is
an error that says so.
"""

import io
import math
import os
import weakref
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from lungsound.audio.fbank import FbankSums, fbank_sums
from lungsound.errors import DataError

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
