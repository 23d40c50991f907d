"""Two things measured in turn in one run: medians, and how far the ratio spreads."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of some values."""

    median: float
    low: float
    high: float


def spread(values: tuple[float, ...]) -> Spread:
    """Median and quartiles, interpolated linearly between values."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(median), float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """Seconds that ours and the peer took, pair by pair."""

    ours_s: tuple[float, ...]
    peer_s: tuple[float, ...]

    @property
    def num_pairs(self) -> int:
        return len(self.ours_s)

    @property
    def ratio(self) -> Spread:
        """How many times as long the peer takes, of the ratios of the pairs: what slows both down cancels."""
        return spread(tuple(peer / ours for ours, peer in zip(self.ours_s, self.peer_s, strict=True)))


def seconds_of(work: Work, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call. On a GPU the work has to end with waiting for it."""
    began = clock()
    work()
    return clock() - began


def compare(
    ours: Work,
    peer: Work,
    *,
    least_pairs: int,
    most_pairs: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Comparison:
    """Call both once to warm up, then in turn: ours, peer, ours, peer.

    It ends after `most_pairs`, or when `budget_s` is spent and there are `least_pairs`.
    """
    ours()
    peer()
    ours_s: list[float] = []
    peer_s: list[float] = []
    began = clock()
    while len(ours_s) < least_pairs or (len(ours_s) < most_pairs and clock() - began < budget_s):
        ours_s.append(seconds_of(ours, clock=clock))
        peer_s.append(seconds_of(peer, clock=clock))
    return Comparison(tuple(ours_s), tuple(peer_s))


def seconds_each(
    work: Work, *, least: int, most: int, budget_s: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, ...]:
    """Seconds of each call of one thing alone, after one to warm up; for what has no peer."""
    work()
    found: list[float] = []
    began = clock()
    while len(found) < least or (len(found) < most and clock() - began < budget_s):
        found.append(seconds_of(work, clock=clock))
    return tuple(found)
