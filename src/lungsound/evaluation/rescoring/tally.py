"""What a file of answers holds once it is read: rows with classes and patients, and the counts made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lungsound.evaluation.metrics import Counts
from lungsound.evaluation.rescoring.ranking import Rankings

PATIENT, RECORDING = "patient", "recording"


@dataclass(frozen=True)
class Reading:
    """How a file is to be read, where its own words do not say it.

    `columns` are names of columns by role ("label", "answer", "patient", "recording", "part"), `classes` the classes in
    the order of the file's indices or rows, `normal` the one that is normal; `is_transposed` says that the rows of a
    matrix are the answers, `are_counts` that numbers which look like percentages are counts all the same.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    normal: str | None = None
    is_transposed: bool = False
    are_counts: bool = False


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts `(unit, true class, answered class)` of some parts of a file; class 0 is the normal one.

    `parts` are the parts of the split, none where the file has none. `unit` is "patient" or "recording", "" when
    neither is known: there is then one unit, `no_unit` says why, and no interval can be given. `rankings` are None
    without probabilities.
    """

    parts: tuple[str, ...]
    classes: tuple[str, ...]
    confusions: Counts
    unit: str
    no_unit: str = ""
    rankings: Rankings | None = None
    notes: tuple[str, ...] = ()

    @property
    def part(self) -> str:
        """The parts in words; "" without any."""
        return ", ".join(self.parts)

    @property
    def confusion(self) -> Counts:
        """All units together."""
        return np.asarray(self.confusions.sum(axis=0))


@dataclass(frozen=True, eq=False)
class Answers:
    """The rows of a predictions file: class indices `(row,)`, probabilities `(row, class)` or None.

    `units` has the patient or recording of each row, and is empty when neither is known; `parts` has the part of the
    split of each row.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64] | None
    parts: tuple[str, ...]
    unit: str
    units: tuple[str, ...]
    no_unit: str
    notes: tuple[str, ...]

    def part_names(self) -> tuple[str, ...]:
        """The parts of the split, in the order in which they first come."""
        return tuple(dict.fromkeys(self.parts))

    def tally(self, parts: Sequence[str]) -> Tally:
        """The counts of the rows of these parts of the split."""
        rows = np.flatnonzero([part in parts for part in self.parts])
        names = [self.units[row] for row in rows] if self.units else [""] * len(rows)
        _, place = np.unique(np.array(names), return_inverse=True)
        units = place.astype(np.int64)
        labels, answers, num_classes = self.labels[rows], self.answers[rows], len(self.classes)
        counts = np.zeros((int(units.max()) + 1, num_classes, num_classes), dtype=np.int64)
        np.add.at(counts, (units, labels, answers), 1)
        rankings = None
        if self.probabilities is not None:
            rankings = Rankings.of(self.probabilities[rows], labels, units)
        return Tally(tuple(filter(None, parts)), self.classes, counts, self.unit, self.no_unit, rankings, self.notes)
