"""Many recordings through one model: the cycles of a group of them together, and groups in processes of their own."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from lungsound.errors import AudioError, DataError, LungsoundError
from lungsound.inference.engines import Outputs
from lungsound.inference.prediction import RecordingPrediction
from lungsound.inference.predictor import FindBy, LoadedRecording, Predictor
from lungsound.processor import map_ahead

GROUP_SIZE = 16
LEAST_FOR_PROCESSES = 32  # recordings; fewer are done before processes have started

_do_group: Callable[[Sequence["Asked"]], list[Any]] | None = None  # of a process that `for_each` started


@dataclass(frozen=True)
class Asked:
    """A recording, and what is stated of it."""

    path: Path
    patient: str | None = None
    stethoscope: str | None = None
    age_years: float | None = None


T = TypeVar("T")
Group = Sequence[Asked]
Work = Callable[[Predictor, Group], list[T | str]]  # the result of each recording, or the line of `failure`
Start = tuple[Work[T], Path, str, FindBy]  # of a process: the model's file, its engine, where cycles come from


def for_each(predictor: Predictor, asked: Group, work: Work[T], *, num_workers: int) -> Iterator[tuple[Asked, T | str]]:
    """Do `work` for recordings, each with its result or the line on why there is none, in their order.

    Where there are enough, each of `num_workers` processes reads and predicts with one thread; a few, those for a GPU
    and those of a model in memory are predicted in this process. One that ends its process costs no other. `work` is a
    function of a module.
    """
    groups = [asked[first : first + GROUP_SIZE] for first in range(0, len(asked), GROUP_SIZE)]
    if len(asked) < LEAST_FOR_PROCESSES or predictor.path is None or predictor.device != "cpu":
        for group in groups:
            yield from zip(group, work(predictor, group), strict=True)
        return
    yield from for_groups(groups, (work, predictor.path, predictor.engine.name, predictor.find_by), num_workers)


def for_groups(groups: Sequence[Group], start: Start[T], num_workers: int) -> Iterator[tuple[Asked, T | str]]:
    """Do as `for_each` in processes, however few the recordings are."""
    while groups:
        done = 0
        for group, results in _in_processes(groups, start, num_workers):
            yield from zip(group, results, strict=True)
            done += 1
        rest, groups = groups[done:], []
        if rest:  # a process has ended; which recording did it is known when each has a process to itself
            suspects, groups = [[each] for group in rest[: 2 * num_workers] for each in group], rest[2 * num_workers :]
            for (one,) in suspects:
                found = [results for _, results in _in_processes([[one]], start, 1)]
                yield one, found[0][0] if found else f"{one.path}: ended the process that read and predicted it"


def _in_processes(groups: Sequence[Group], start: Start[T], num_workers: int) -> Iterator[tuple[Group, list[T | str]]]:
    """Results of groups in their order, until a process ends by itself."""
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_start, initargs=start)
    try:
        yield from zip(groups, map_ahead(pool, _do, groups, num_ahead=2 * num_workers - 1), strict=True)
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(cancel_futures=True)


def _start(work: Work[T], file: Path, engine: str, find_by: FindBy) -> None:
    global _do_group
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    os.environ["OMP_NUM_THREADS"] = "1"
    _do_group = partial(work, Predictor.load(file, engine=engine, find_by=find_by))


def _do(group: Group) -> list[T | str]:
    assert _do_group is not None
    return _do_group(group)


def predict_group(predictor: Predictor, group: Group) -> list[RecordingPrediction | str]:
    """Predict recordings, their cycles together; in place of one that fails the line of `failure`."""

    def finish(each: Asked, loaded: LoadedRecording, outputs: Outputs) -> RecordingPrediction:
        return predictor.predict_loaded(loaded, each.patient, each.stethoscope, each.age_years, outputs=outputs)

    return of_group(predictor, group, predictor.load_recording, finish)


def of_group(
    predictor: Predictor,
    group: Group,
    load: Callable[[Path], LoadedRecording],
    finish: Callable[[Asked, LoadedRecording, Outputs], T],
) -> list[T | str]:
    """Load recordings, compute their cycles together, and make of each what is wanted, or the line of `failure`."""
    results: dict[int, T | str] = {}
    loaded = {}
    for place, each in enumerate(group):
        try:
            loaded[place] = load(each.path)
        except Exception as error:  # a bug that one recording meets must not lose the others
            results[place] = failure(each.path, error)
    try:
        outputs = dict(zip(loaded, predictor.predict_together(list(loaded.values())), strict=True))
    except Exception:  # of one of them, which is found when each is predicted alone
        outputs = {}
    for place, recording in loaded.items():
        try:
            own = outputs.get(place) or predictor.predict_together([recording])[0]
            results[place] = finish(group[place], recording, own)
        except Exception as error:  # as above
            results[place] = failure(group[place].path, error)
    return [results[place] for place in range(len(group))]


def failure(path: Path, error: Exception) -> str:
    """One line that names the recording and its error; with LUNGSOUND_DEBUG=1 our own bugs are raised."""
    message = " ".join(str(error).splitlines())
    if not isinstance(error, LungsoundError):
        if os.environ.get("LUNGSOUND_DEBUG") == "1":
            raise error
        message = f"internal error (bug): {type(error).__name__}: {message}; LUNGSOUND_DEBUG=1 shows where"
    if isinstance(error, DataError) and error.path == path:
        return message if isinstance(error, AudioError) else f"{path}: {error.detail}"
    return f"{path}: {message}"
