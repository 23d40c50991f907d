"""One line of the table of speed: what was wanted, what was measured, and what else is worth keeping of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.measure import Comparison, Spread, spread

DIGITS = {"x": 2, "%": 0, "s": 2, "MiB": 0}


@dataclass(frozen=True)
class Line:
    """A measured line.

    unit      x (how many times as fast as the peer), %, s or MiB
    wanted    at least so much for x and a share of a ceiling, at most for the others (`is_most`)
    measured  median and quartiles; None when it was not measured, and `note` says why
    numbers   what goes with it: seconds, GFLOP/s, shares; kept in the JSON file
    """

    key: str
    what: str
    unit: str
    wanted: float
    measured: Spread | None
    is_most: bool = False
    note: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool | None:
        """Whether the median is as good as wanted; None when nothing was measured."""
        if self.measured is None:
            return None
        return self.measured.median <= self.wanted if self.is_most else self.measured.median >= self.wanted

    def cells(self) -> tuple[str, ...]:
        """For a table: what, wanted, measured, quartiles, verdict, note."""
        limit = f"{'at most' if self.is_most else 'at least'} {self.wanted:g} {self.unit}"
        if self.measured is None:
            return (self.what, limit, "not measured", "", "", self.note)
        digits = DIGITS[self.unit]
        low, median, high = (
            f"{each:.{digits}f}" for each in (self.measured.low, self.measured.median, self.measured.high)
        )
        verdict = "reached" if self.is_reached else "not reached"
        return (self.what, limit, f"{median} {self.unit}", f"{low} to {high}", verdict, self.note)

    def to_plain(self) -> dict[str, Any]:
        return asdict(self) | {"numbers": dict(self.numbers), "is_reached": self.is_reached}


HEAD = ("what", "wanted", "measured", "quartiles", "", "how")
NOTE = HEAD.index("how")


def single(value: float) -> Spread:
    """A value that was measured once."""
    return Spread(value, value, value)


def seconds_in_numbers(found: Comparison) -> dict[str, float]:
    """Medians of both sides and the number of pairs."""
    ours_s, peer_s = spread(found.ours_s).median, spread(found.peer_s).median
    return {"ours_s": ours_s, "peer_s": peer_s, "num_pairs": found.num_pairs}
