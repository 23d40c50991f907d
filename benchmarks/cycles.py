"""The cycles of the lines on real ones: drawn from a corpus, or noise of the lengths of ICBHI's cycles."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks import ours
from benchmarks.plan import Plan
from benchmarks.stand_in import durations_s
from lungsound.audio.front_end import FrontEnd
from lungsound.config import DataSettings
from lungsound.data.corpus import Corpus
from lungsound.data.splits import load_corpus
from lungsound.data.store import waveforms_of
from lungsound.errors import SettingsError
from lungsound.inference.engines import Parity

NUM_TIMED, NUM_FOR_RANGES = 64, 16
NOISE = "noise of the lengths of ICBHI's cycles"
NUM_OF_NOISE = 6898


@dataclass(frozen=True)
class Cycles:
    """Waveforms (samples,) as cycles are cut: to be timed, to compare engines on, for the ranges of int8."""

    timed: list[Tensor]
    compared: list[Tensor]
    for_ranges: list[Tensor]
    source: str


def draw(plan: Plan, front_end: FrontEnd) -> Cycles:
    """Different ones for each purpose, drawn at random, the same at every call."""
    parts = (plan.batch_size if plan.is_quick else NUM_TIMED, Parity.LEAST_CYCLES, NUM_FOR_RANGES)
    if plan.data is None:
        made, source = ours.waveforms(front_end, durations_s(sum(parts))), NOISE
    else:
        corpus = _corpus(plan.data)
        if len(corpus.cycles) < sum(parts):
            raise SettingsError(f"bench needs {sum(parts)} cycles, and {plan.data} has {len(corpus.cycles)}")
        rows = np.random.default_rng(0).permutation(len(corpus.cycles))[: sum(parts)]
        # Cut recording by recording, each of which is read once, and put back into the order of the draw.
        cut = waveforms_of([corpus.cycles[row] for row in np.sort(rows)], front_end)
        made, source = [cut[place] for place in rows.argsort().argsort()], f"real cycles of {corpus.name}-SC"
    first, second = parts[0], parts[0] + parts[1]
    return Cycles(made[:first], made[first:second], made[second:], source)


def lengths(plan: Plan) -> tuple[list[float], str]:
    """Seconds of a batch of cycles that stands for all of them, at evenly spaced quantiles; whose they are."""
    if plan.data is None:
        found, source = durations_s(NUM_OF_NOISE), "lengths like ICBHI's"
    else:
        corpus = _corpus(plan.data)
        found, source = [each.end_s - each.start_s for each in corpus.cycles], f"lengths of {corpus.name}-SC's cycles"
    return _quantiles(found, plan.batch_size), source


def _quantiles(values: Sequence[float], count: int) -> list[float]:
    return [float(each) for each in np.quantile(values, (np.arange(count) + 0.5) / count)]


def _corpus(data: Path) -> Corpus:
    return load_corpus(DataSettings(root=str(data), modes=("sc",), is_strict=False))
