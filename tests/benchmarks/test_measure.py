"""Two things in turn: order, warm-up, budget, median and quartiles."""

from collections.abc import Iterator

import pytest
from benchmarks.measure import Comparison, Spread, compare, seconds_each, spread
from benchmarks.speed import Line


class Clock:
    """A clock that only moves when work is done on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: Iterator[float]) -> None:
        self.done.append(name)
        self.now += next(seconds)


def test_they_take_turns_and_the_first_of_each_is_not_counted() -> None:
    clock = Clock()
    ours, peer = iter([100.0, 1.0, 2.0, 4.0]), iter([100.0, 3.0, 8.0, 4.0])
    found = compare(
        lambda: clock.work("ours", ours),
        lambda: clock.work("peer", peer),
        least_pairs=3,
        most_pairs=3,
        budget_s=0.0,
        clock=clock,
    )
    assert clock.done == ["ours", "peer"] * 4
    assert found == Comparison((1.0, 2.0, 4.0), (3.0, 8.0, 4.0))
    # Ratios 3, 4, 1: by hand the quartiles of three values lie halfway to the middle one.
    assert found.ratio == Spread(median=3.0, low=2.0, high=3.5)


@pytest.mark.parametrize(("budget_s", "num_pairs"), [(0.0, 2), (7.0, 4), (100.0, 5)])
def test_the_budget_ends_it_between_the_least_and_the_most(budget_s: float, num_pairs: int) -> None:
    clock = Clock()
    one = iter([1.0] * 50)
    found = compare(
        lambda: clock.work("ours", one),
        lambda: clock.work("peer", one),
        least_pairs=2,
        most_pairs=5,
        budget_s=budget_s,
        clock=clock,
    )
    assert found.num_pairs == num_pairs


def test_what_has_no_peer_is_measured_alone() -> None:
    clock = Clock()
    taken = iter([9.0, 1.0, 2.0, 3.0])
    assert seconds_each(lambda: clock.work("", taken), least=3, most=3, budget_s=0.0, clock=clock) == (1.0, 2.0, 3.0)


def test_quartiles_of_four_values_by_hand() -> None:
    assert spread((4.0, 1.0, 2.0, 3.0)) == Spread(median=2.5, low=1.75, high=3.25)


@pytest.mark.parametrize(
    ("median", "is_most", "is_reached"),
    [(3.0, False, True), (2.9, False, False), (3.0, True, True), (3.1, True, False)],
)
def test_at_least_and_at_most(median: float, is_most: bool, is_reached: bool) -> None:
    line = Line("key", "what", "x", 3.0, Spread(median, median, median), "how", is_most=is_most)
    assert line.is_reached is is_reached
    assert line.cells()[4] == ("reached" if is_reached else "not reached")
