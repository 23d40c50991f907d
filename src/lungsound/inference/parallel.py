"""Many recordings predicted: the cycles of a group of them together, and groups in processes of their own."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from lungsound.errors import AudioError, DataError, LungsoundError
from lungsound.inference.prediction import RecordingPrediction
from lungsound.inference.predictor import FindBy, Predictor
from lungsound.processor import map_ahead

GROUP_SIZE = 16
LEAST_FOR_PROCESSES = 32  # recordings; fewer are done before processes have started

_predictor: Predictor | None = None  # of a process that `predict_all` started


@dataclass(frozen=True)
class Asked:
    """A recording, and what is stated of it."""

    path: Path
    patient: str | None = None
    stethoscope: str | None = None
    age_years: float | None = None


Result = RecordingPrediction | str  # a prediction, or the line of `failure`
Group = Sequence[Asked]


def predict_all(predictor: Predictor, asked: Group, *, num_workers: int) -> Iterator[tuple[Asked, Result]]:
    """Predict recordings, each with its prediction or the line on why there is none, in their order.

    Where there are enough, each of `num_workers` processes reads and predicts with one thread; a few, those for a GPU
    and those of a model in memory are predicted in this process. One that ends its process costs no other.
    """
    groups = [asked[first : first + GROUP_SIZE] for first in range(0, len(asked), GROUP_SIZE)]
    if len(asked) < LEAST_FOR_PROCESSES or predictor.path is None or predictor.device != "cpu":
        for group in groups:
            yield from zip(group, predict_group(predictor, group), strict=True)
        return
    start = (predictor.path, predictor.engine.name, predictor.find_by)
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


def _in_processes(
    groups: Sequence[Group], start: tuple[Path, str, FindBy], num_workers: int
) -> Iterator[tuple[Group, list[Result]]]:
    """Results of groups in their order, until a process ends by itself."""
    pool = ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_start, initargs=start)
    try:
        yield from zip(groups, map_ahead(pool, _predict, groups, num_ahead=2 * num_workers - 1), strict=True)
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(cancel_futures=True)


def _start(file: Path, engine: str, find_by: FindBy) -> None:
    global _predictor
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this process ends it
    os.environ["OMP_NUM_THREADS"] = "1"
    _predictor = Predictor.load(file, engine=engine, find_by=find_by)


def _predict(group: Group) -> list[Result]:
    assert _predictor is not None
    return predict_group(_predictor, group)


def predict_group(predictor: Predictor, group: Group) -> list[Result]:
    """Predict recordings, their cycles together; in place of one that fails the line of `failure`."""
    results: dict[int, Result] = {}
    loaded = {}
    for place, each in enumerate(group):
        try:
            loaded[place] = predictor.load_recording(each.path)
        except Exception as error:  # a bug that one recording meets must not lose the others
            results[place] = failure(each.path, error)
    try:
        outputs = dict(zip(loaded, predictor.predict_together(list(loaded.values())), strict=True))
    except Exception:  # of one of them, which is found when each is predicted alone
        outputs = {}
    for place, recording in loaded.items():
        each = group[place]
        try:
            results[place] = predictor.predict_loaded(
                recording, each.patient, each.stethoscope, each.age_years, outputs=outputs.get(place)
            )
        except Exception as error:  # as above
            results[place] = failure(each.path, error)
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
