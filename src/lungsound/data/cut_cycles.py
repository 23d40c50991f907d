"""Sound files to the waveforms of their cycles, several files at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import torch
from torch import Tensor

from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Cycle, Recording

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
