"""The permutation test of a comparison: the answers of A and B swapped for whole patients.

Sp and Se are sums of what single patients contribute, over numbers of cycles that no method changes. To swap the
answers of A and B for one patient is thus to turn the sign of what that patient adds to the difference.

The predictions of one method: a run folder, a predictions file, or a folder of runs with different seeds.

Two methods on the same test cycles: the difference of their scores, and whether it can be told from chance.

The rule of the verdict: A and B differ when the interval of the difference of Scores (over patients, and over seeds
where there are several) leaves out 0 and the permutation test's p is below 1 - level as well. In every other case they
are not distinguishable (`tests/unit/evaluation/comparison/test_simulated.py`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.errors import DataError
from lungsound.evaluation.bootstrap import (
    LEVEL,
    NUM_DRAWS,
    Estimate,
    Spread,
    estimate_over_seeds,
    patient_confusions,
    spread_over_patients,
    value_of_runs,
)
from lungsound.evaluation.metrics import (
    Counts,
    Fractions,
    Statistic,
    fold_to_two_classes,
    mean_score,
    sensitivity,
    specificity,
)
from lungsound.evaluation.predictions import Predictions, read_predictions
from lungsound.evaluation.selection import LAST, NAMES, TEST, VALIDATION

NUM_SWAPS = 9999
MAX_EXACT_PATIENTS = 14  # all 2^14 ways to swap are gone through; with more, NUM_SWAPS are drawn
NORMAL, ABNORMAL = 0, 1


@dataclass(frozen=True, eq=False)
class PatientParts:
    """What each patient adds to a difference A minus B, in the reading of normal and in that of abnormal cycles.

    `parts` `(reading, patient)` sum to the difference; `shares` `(reading, patient)` are the patient's share of the
    cycles that are read. Both are NaN in a reading that has no cycle.
    """

    parts: Fractions
    shares: Fractions

    @property
    def by_patient(self) -> Fractions:
        """What each patient adds in all readings together `(patient,)`."""
        return np.asarray(self.parts.sum(axis=0))


def patient_parts(first: Counts, second: Counts, readings: Sequence[int]) -> PatientParts:
    """The parts of the mean over `readings`: (NORMAL,) of Sp, (ABNORMAL,) of Se, (NORMAL, ABNORMAL) of the Score.

    Both sides are `(seed, patient, true class, answered class)` on the same cycles; the mean over seeds is taken.
    """
    num_cycles = _normal_and_abnormal(first[0].sum(axis=-1))
    totals = num_cycles.sum(axis=1, keepdims=True)
    totals[totals == 0.0] = np.nan
    right = [_normal_and_abnormal(np.diagonal(runs, axis1=-2, axis2=-1).mean(axis=0)) for runs in (first, second)]
    rows = list(readings)
    return PatientParts(((right[0] - right[1]) / totals / len(rows))[rows], (num_cycles / totals)[rows])


def _normal_and_abnormal(by_class: Counts | Fractions) -> Fractions:
    """Sums `(2, patient)` over the normal class and over all others, from `(patient, class)`."""
    return np.stack([by_class[:, 0], by_class[:, 1:].sum(axis=1)]).astype(np.float64)


def swap_test(patients: PatientParts, *, generator: np.random.Generator, num_draws: int = NUM_SWAPS) -> float:
    """Two-sided p of the difference when A and B are swapped for whole patients; NaN when there is no difference.

    Exact, over all ways to swap, when at most `MAX_EXACT_PATIENTS` patients have parts that are not 0; else by
    drawing. The size of a difference is taken over its standard error (Janssen, Statistics & Probability Letters 36,
    1997; Chung & Romano, Annals of Statistics 41, 2013). Its bare size would be a weak measure for methods that trade
    Sp for Se: swapped at random, they scatter by the whole trade.
    """
    if np.isnan(patients.parts).any():
        return float("nan")
    is_moved = (patients.parts != 0.0).any(axis=0)
    num_moved = int(is_moved.sum())
    if num_moved <= MAX_EXACT_PATIENTS:
        chosen = 1 - 2 * (np.arange(2**num_moved)[:, None] >> np.arange(num_moved) & 1)
    else:
        drawn = 1 - 2 * generator.integers(0, 2, (num_draws, num_moved))
        chosen = np.concatenate([np.ones((1, num_moved), dtype=np.int64), drawn])
    signs = np.ones((len(chosen), patients.parts.shape[1]))
    signs[:, is_moved] = chosen
    sizes = studentised(patients, signs)
    # The first is the way it is; equal sizes may differ in their last bits.
    return float((sizes >= sizes[0] * (1.0 - 1e-9)).mean())


def studentised(patients: PatientParts, signs: Fractions) -> Fractions:
    """Size of the difference over its standard error `(draw,)`, when each part has its sign `(draw, patient)`.

    The standard error is that of a ratio of sums over patients. Infinite for a difference without one, 0 for none.
    """
    by_reading = signs @ patients.parts.T
    influences = signs * patients.by_patient - by_reading @ patients.shares
    size, variance = np.abs(by_reading.sum(axis=1)), (influences**2).sum(axis=1)
    is_certain = variance < 1e-24
    return np.where(is_certain, np.where(size < 1e-12, 0.0, np.inf), size / np.sqrt(variance + is_certain))


KEPT = "kept"
VALIDATION_PART = "validation"  # as data.protocol calls it, whose import takes seconds
EPOCHS = (KEPT, LAST, VALIDATION, TEST)
UNKNOWN = "unknown"
SUFFIXES = (".csv", ".csv.gz")
_SEED = re.compile(r"seed(\d+)(\.csv|\.csv\.gz)?")


# As settings and reports call them; what another corpus's test chose was, as by validation, chosen on other cycles.
_CHOICES = {LAST: LAST, VALIDATION: VALIDATION, "best_on_test": TEST, "best_on_other_test": VALIDATION}


@dataclass(frozen=True)
class MethodRuns:
    """The answers of one method's runs to the test, by seed; how their epochs were chosen (see `epoch_of_file`).

    `unfinished` are folders of runs whose training did not come to its report.
    """

    runs: tuple[Predictions, ...]
    choices: frozenset[str]
    unfinished: tuple[Path, ...] = ()


def read_runs(path: Path, epoch: str = KEPT) -> MethodRuns:
    """The test rows of every run under `path`, one for each seed, in the order of the seeds.

    `path` is a run folder, a predictions file, or a folder with `seed0`, `seed1`, ... (run folders) or `seed0.csv`, ...
    in it. `epoch` says which epoch's answers: "kept" (predictions.csv), or the last, that chosen on validation or that
    chosen on test (epochs/<name>.csv). DataError when there is no such file, or runs differ in more than the seed.
    """
    if epoch not in EPOCHS:
        raise DataError(f"there is no epoch {epoch!r}: {', '.join(EPOCHS)} are known")
    files = files_of(path, epoch)
    runs = [_test_rows(file, read_predictions(file)) for file in files]
    for run in runs[1:]:
        if run.classes != runs[0].classes or set(run.keys) != set(runs[0].keys):
            raise DataError(f"the runs in {path} were not tested on the same cycles and classes: give them one by one")
    folders = {file.parent.parent if file.parent.name == "epochs" else file.parent for file in files}
    unfinished = tuple(sorted(folder for folder in folders if is_unfinished(folder)))
    return MethodRuns(tuple(runs), frozenset(map(epoch_of_file, files)), unfinished)


def epoch_of_file(file: Path) -> str:
    """How a run of ours chose the epoch of a predictions file: "last", "validation", "test"; else "unknown".

    From the name of a file in `epochs`, else from the report beside the file, else from the settings beside it.
    """
    name = file.name.partition(".")[0]
    if file.parent.name == "epochs" and name in NAMES:
        return name
    if (report := file.parent / "report.json").is_file():
        selection = _read_json(report).get("context", {}).get("epoch selection")
    elif (config := file.parent / "config.json").is_file():
        selection = _read_json(config).get("train", {}).get("selection")
    else:
        return UNKNOWN
    return _CHOICES.get(str(selection), UNKNOWN)


def epoch_warnings(first: MethodRuns, second: MethodRuns) -> list[str]:
    """Why the Scores of A and B are not alike, or too high: how their epochs were chosen, and runs not at their end."""
    sides = {"A": first, "B": second}
    found = [
        f"{name} is not finished: {folder} has no report. These are the answers of an epoch on the way."
        for name, side in sides.items()
        for folder in side.unfinished
    ]
    told = {name: " or ".join(_said(choice) for choice in sorted(side.choices)) for name, side in sides.items()}
    by_test = [name for name, side in sides.items() if TEST in side.choices]
    advice = "compare epochs that were chosen alike, and not on the test (--epoch last)"
    if first.choices != second.choices:
        found.append(f"The epoch of A {told['A']}, that of B {told['B']}: {advice}.")
    if by_test:
        whose = "epochs of A and B were" if len(by_test) > 1 else f"epoch of {by_test[0]} was"
        found.append(f"The {whose} chosen by the Score on these cycles, which may be too high: {advice}.")
    return found


def _said(choice: str) -> str:
    return {
        LAST: "is the last",
        VALIDATION: "was chosen on other cycles",
        TEST: "was chosen on the test itself",
        UNKNOWN: "was chosen in a way that is not known",
    }[choice]


def is_unfinished(folder: Path) -> bool:
    """Whether it is the folder of a run that was not trained to its end and evaluated."""
    is_of_transformers = (folder / "preprocessor_config.json").is_file()  # an export, which has a config.json too
    return (folder / "config.json").is_file() and not (folder / "report.json").is_file() and not is_of_transformers


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): it says how the epoch was chosen") from None
    return values if isinstance(values, dict) else {}


def files_of(path: Path, epoch: str) -> list[Path]:
    """The predictions files that `read_runs` reads; raises as it does for what is not there."""
    if path.is_file():
        if epoch != KEPT:
            raise DataError(f"{path} is one file of answers: --epoch {epoch} needs a run folder")
        return [path]
    if not path.is_dir():
        raise DataError(f"no {path}: give a run folder, a predictions file, or a folder of runs seed0, seed1, ...")
    if _existing(path, "predictions") or (path / "epochs").is_dir():
        return [_file_of_run(path, epoch)]
    by_seed = {int(found[1]): child for child in path.iterdir() if (found := _SEED.fullmatch(child.name))}
    if not by_seed:
        raise DataError(f"{path} holds no predictions.csv and no runs seed0, seed1, ...: give the folder of a run")
    return [file for seed in sorted(by_seed) for file in files_of(by_seed[seed], epoch)]


def _file_of_run(folder: Path, epoch: str) -> Path:
    name = "predictions" if epoch == KEPT else f"epochs/{epoch}"
    file = _existing(folder, name)
    if file is None:
        if is_unfinished(folder):
            raise DataError(f"{folder} is not finished: no {name}.csv yet; 'lungsound train' with --resume goes on")
        there = [other for other in EPOCHS[1:] if _existing(folder, f"epochs/{other}")]
        told = (
            f"it has the epochs {', '.join(there)}: choose one with --epoch"
            if there
            else "it was not trained by the strict protocol: give its predictions.csv"
        )
        raise DataError(f"{folder} has no {name}.csv; {told}")
    return file


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _test_rows(file: Path, predictions: Predictions) -> Predictions:
    """All but the rows of validation patients."""
    rows = [row for row, part in enumerate(predictions.parts) if part != VALIDATION_PART]
    if not rows:
        raise DataError(f"{file} has rows of validation patients only: there is no test row to compare")
    return predictions.of_rows(rows)


SCORE, SPECIFICITY, SENSITIVITY, FOLDED_SCORE = "Score", "Sp", "Se", "Score, 2 classes"
STATISTICS: dict[str, Statistic] = {
    SCORE: mean_score,
    SPECIFICITY: specificity,
    SENSITIVITY: sensitivity,
    FOLDED_SCORE: lambda counts: mean_score(fold_to_two_classes(counts)),
}


@dataclass(frozen=True)
class Difference:
    """One value of A and of B (means over seeds), A minus B with its interval, and the permutation test's p.

    `standardised` is the difference over the deviation of what single patients contribute to it: Cohen's d of paired
    values, with the patient as the unit. `num_better` and `num_worse` count patients for whom A, or B, has more.
    """

    name: str
    first: float
    second: float
    difference: Estimate
    p_value: float
    standardised: float
    num_better: int
    num_worse: int

    @property
    def is_distinguishable(self) -> bool:
        """The rule of the verdict: the interval leaves out 0, and p is below 1 - level as well."""
        return self.excludes_zero and self.is_significant

    @property
    def excludes_zero(self) -> bool:
        interval = self.difference.interval
        return interval.problem is None and not interval.low <= 0.0 <= interval.high

    @property
    def is_significant(self) -> bool:
        return self.p_value < 1.0 - self.difference.interval.level


@dataclass(frozen=True, eq=False)
class Comparison:
    """A and B on one part of the test. `contributions` `(patient,)` are what each adds to the difference of Scores.

    `differences` are those of Score, Sp, Se and, where there are more than two classes, of the Score read as
    normal or not; the first decides. `num_seeds` are those of A and of B; `spread` is that of the difference of Scores.
    """

    names: tuple[str, str]
    part: str
    num_cycles: int
    num_seeds: tuple[int, int]
    patients: tuple[str, ...]
    contributions: Fractions
    differences: tuple[Difference, ...]
    spread: Spread | None

    @property
    def score(self) -> Difference:
        """The difference on which the verdict rests."""
        return self.differences[0]


def compare_runs(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    *,
    names: tuple[str, str] = ("A", "B"),
    is_common_only: bool = False,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    level: float = LEVEL,
) -> tuple[Comparison, ...]:
    """A comparison for each part of the test. Each side has a Predictions for each of its seeds.

    Raises DataError when A and B have other classes, patients or labels, or other cycles; with `is_common_only` the
    cycles that only one of them has are left out.
    """
    first, second = _on_same_cycles(first, second, names, is_common_only=is_common_only)
    comparisons = []
    for part in sorted(set(first[0].parts)):
        sides = [np.stack([patient_confusions(run.of_part(part)) for run in runs]) for runs in (first, second)]
        rows = first[0].of_part(part)
        comparisons.append(
            Comparison(
                names=names,
                part=part,
                num_cycles=len(rows.keys),
                num_seeds=(len(first), len(second)),
                patients=tuple(sorted(set(rows.patients))),
                contributions=parts_of(sides[0], sides[1], SCORE).by_patient,
                differences=differences(sides[0], sides[1], seed=seed, num_draws=num_draws, level=level),
                spread=difference_spread(sides[0], sides[1]),
            )
        )
    return tuple(comparisons)


def differences(
    first: Counts, second: Counts, *, seed: int = 0, num_draws: int = NUM_DRAWS, level: float = LEVEL
) -> tuple[Difference, ...]:
    """A minus B in every reading; both `(seed, patient, true class, answered class)`, the same patients and cycles."""
    found = []
    for name, statistic in STATISTICS.items():
        if name == FOLDED_SCORE and first.shape[-1] == 2:
            continue
        generator = np.random.default_rng(seed)
        difference = estimate_over_seeds(
            first, statistic, minus=second, generator=generator, num_draws=num_draws, level=level
        )
        patients = parts_of(first, second, name)
        found.append(
            Difference(
                name=name,
                first=float(statistic(first.sum(axis=1)).mean()),
                second=float(statistic(second.sum(axis=1)).mean()),
                difference=difference,
                p_value=swap_test(patients, generator=generator),
                standardised=_standardised(difference_spread(first, second, statistic)),
                num_better=int((patients.by_patient > 0).sum()),
                num_worse=int((patients.by_patient < 0).sum()),
            )
        )
    return tuple(found)


def parts_of(first: Counts, second: Counts, name: str) -> PatientParts:
    """What each patient adds to the difference in this value."""
    if name == FOLDED_SCORE:
        first, second = fold_to_two_classes(first), fold_to_two_classes(second)
    readings = {SPECIFICITY: (NORMAL,), SENSITIVITY: (ABNORMAL,)}.get(name, (NORMAL, ABNORMAL))
    return patient_parts(first, second, readings)


def difference_spread(first: Counts, second: Counts, statistic: Statistic = mean_score) -> Spread | None:
    """What the difference varies with; None for one patient."""
    num_patients = first.shape[1]
    if num_patients < 2:
        return None
    values = [value_of_runs(runs, statistic) for runs in (first, second)]
    return spread_over_patients(values[0], num_patients, minus=values[1])


def _standardised(spread: Spread | None) -> float:
    return float("nan") if spread is None or not spread.patient_sd > 0.0 else spread.value / spread.patient_sd


def _on_same_cycles(
    first: Sequence[Predictions], second: Sequence[Predictions], names: tuple[str, str], *, is_common_only: bool
) -> tuple[list[Predictions], list[Predictions]]:
    """All runs with the same cycles in the same order."""
    ours, theirs = first[0], second[0]
    if ours.classes != theirs.classes:
        raise DataError(
            f"{names[0]} has the classes {', '.join(ours.classes)}, {names[1]} {', '.join(theirs.classes)}: only "
            "answers to one question can be compared"
        )
    common = set(ours.keys) & set(theirs.keys)
    only_ours, only_theirs = len(ours.keys) - len(common), len(theirs.keys) - len(common)
    if not common:
        raise DataError(f"{names[0]} and {names[1]} have no cycle in common: test both on the same recordings")
    if (only_ours or only_theirs) and not is_common_only:
        raise DataError(
            f"{names[0]} and {names[1]} were not tested on the same cycles: {only_ours} of {len(ours.keys)} only in "
            f"{names[0]}, {only_theirs} of {len(theirs.keys)} only in {names[1]}; --common compares them on the "
            f"{len(common)} of both"
        )
    order = [key for key in ours.keys if key in common]
    sides = [[_in_order(run, order) for run in runs] for runs in (first, second)]
    reference = sides[0][0]
    for run in (*sides[0], *sides[1]):
        if (run.labels != reference.labels).any() or run.patients != reference.patients:
            row = _first_difference(run, reference)
            raise DataError(
                f"{order[row]} has another label or patient in {names[0]} than in {names[1]}: use one corpus"
            )
    return sides[0], sides[1]


def _in_order(predictions: Predictions, keys: Sequence[str]) -> Predictions:
    rows = {key: row for row, key in enumerate(predictions.keys)}
    return predictions.of_rows([rows[key] for key in keys])


def _first_difference(run: Predictions, reference: Predictions) -> int:
    pairs = zip(run.labels, reference.labels, run.patients, reference.patients, strict=True)
    return next(row for row, (a, b, c, d) in enumerate(pairs) if a != b or c != d)
