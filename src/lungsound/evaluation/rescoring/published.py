"""Known test sets and published numbers (`published_scores.toml`): which column a number may stand beside."""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

FILE = "published_scores.toml"
EPOCH_CHOICES = ("last", "validation", "test", "unknown", "none")


@dataclass(frozen=True)
class KnownTestSet:
    """A test set and task that a file is recognised by: the cycles of each true class, the normal one first."""

    name: str
    task: str
    totals: tuple[int, ...]
    not_comparable: str | None = None
    """Why no published column belongs to it; None when one does."""

    @property
    def short(self) -> str:
        """Name and task in a few words: "ICBHI, 4 classes", "SPRSound inter, task 1-2"."""
        corpus, _, part = self.name.partition(", ")
        number = re.search(r"task \d-\d", self.task)
        where = corpus.split()[0] + (f" {part}" if number else "")
        return f"{where}, {number[0] if number else self.task}"

    def has_totals(self, totals: Sequence[int]) -> bool:
        """Whether these are its totals; the abnormal classes may come in any order, empty ones may be missing."""
        ours, theirs = (sorted(filter(None, counts[1:])) for counts in (self.totals, totals))
        return self.totals[0] == totals[0] and ours == theirs


@dataclass(frozen=True)
class PublishedScore:
    """What was published for a method, in percent."""

    name: str
    paper: str
    test_set: str
    task: str
    epoch: str
    """How its epoch was chosen, one of `EPOCH_CHOICES`; "none" where nothing was trained."""
    source: str
    year: int | None = None
    specificity: float | None = None
    sensitivity: float | None = None
    score: float | None = None
    score_sd: float | None = None
    not_comparable: str | None = None
    """Why it may not stand beside a score of the official test part; None when it may."""


@cache
def known_test_sets() -> tuple[KnownTestSet, ...]:
    """Every test set of the data file."""
    return tuple(KnownTestSet(**{**entry, "totals": tuple(entry["totals"])}) for entry in _data()["test_sets"])


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """Every published number of the data file."""
    return tuple(PublishedScore(**entry) for entry in _data()["scores"])


def find_test_set(totals: Sequence[int]) -> KnownTestSet | None:
    """The test set with these cycles of each true class (normal first), if it is a known one."""
    return next((known for known in known_test_sets() if known.has_totals(totals)), None)


def scores_of(test_set: KnownTestSet) -> list[PublishedScore]:
    """What was published for the set and its task."""
    return [score for score in published_scores() if (score.test_set, score.task) == (test_set.name, test_set.task)]


def _data() -> dict[str, list[dict[str, Any]]]:
    text = resources.files("lungsound.evaluation.rescoring").joinpath(FILE).read_text(encoding="utf-8")
    return tomllib.loads(text)
