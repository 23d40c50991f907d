"""What a reader must know before the numbers of a file are set beside others."""

import math

from lungsound.evaluation.columns import TEST, VALIDATION
from lungsound.evaluation.metrics import ALWAYS_NORMAL_SCORE, fold_to_two_classes, macro_mean_score, mean_score
from lungsound.evaluation.rescoring.class_names import plain
from lungsound.evaluation.rescoring.metric_list import ICBHI
from lungsound.evaluation.rescoring.published import KnownTestSet
from lungsound.evaluation.rescoring.tally import RECORDING, Tally
from lungsound.evaluation.uncertainty import FEW_PATIENTS

FEW_CYCLES = 10
ICBHI_TEST = (1579, 649, 385, 143)
# Names of parts of a split, as `plain` gives them; any other is of the test.
PARTS = {"train": "train", "training": "train"} | dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION)
EPOCH_REMARKS = {
    TEST: "The epoch was chosen on the test part itself: this score is optimistic (Patch-Mix contrastive learning: "
    "61.49 with the epoch chosen on test, 59.59 for the same five runs at their last epoch).",
    VALIDATION: "The epoch was chosen on the validation part itself: this score is optimistic.",
    "unknown": "How the epoch was chosen is not stated (--epoch last, validation or test): chosen on the test part it "
    "is worth about 1.9 points.",
}


def reader_warnings(
    tally: Tally, exact_set: KnownTestSet | None, folded_set: KnownTestSet | None, epoch: str
) -> list[str]:
    """What a reader must know before the numbers are set beside others."""
    return [
        *_test_set_warnings(tally, exact_set, folded_set),
        *_epoch_warnings(tally, epoch),
        *_unit_warnings(tally),
        *_class_warnings(tally),
        *_mix_up_warnings(tally),
    ]


def _test_set_warnings(tally: Tally, exact_set: KnownTestSet | None, folded_set: KnownTestSet | None) -> list[str]:
    totals = " / ".join(str(count) for count in tally.confusion.sum(axis=1).tolist())
    counted = f"{int(tally.confusion.sum())} cycles ({totals})"
    also = []
    if folded_set is not None and folded_set is not exact_set and folded_set.not_comparable is None:
        also = [f"Read as 2 classes they are {folded_set.name}, {folded_set.task}: those readings may stand there."]
    if exact_set is None:
        return [
            f"Not comparable with published ICBHI columns: {counted} are not those of the official test part "
            f"({sum(ICBHI_TEST)}: {' / '.join(map(str, ICBHI_TEST))}), nor of another test set that is known here.",
            *also,
        ]
    if exact_set.not_comparable is not None:
        return [
            f"Not comparable with published columns: {counted} are {exact_set.name}, {exact_set.task}, and "
            f"{exact_set.not_comparable}.",
            *also,
        ]
    if exact_set.name.startswith(ICBHI):
        return [
            "Patients 156 and 218 are on both sides of ICBHI's official split: 57 of the 143 test cycles with both "
            "sounds are theirs."
        ]
    return []


def _epoch_warnings(tally: Tally, epoch: str) -> list[str]:
    """A score is optimistic where the epoch was chosen by it: on that part of the split, not on the others."""
    parts = {PARTS.get(plain(part), TEST) for part in tally.parts or (TEST,)}
    is_said = epoch in EPOCH_REMARKS and (epoch in parts or epoch not in (TEST, VALIDATION))
    return [EPOCH_REMARKS[epoch]] if is_said else []


def _unit_warnings(tally: Tally) -> list[str]:
    if not tally.unit:
        return [f"No intervals: {tally.no_unit}."]
    lines = []
    if tally.unit == RECORDING:
        lines.append(
            "Intervals are over recordings, since no patients are named: recordings of one patient resemble each "
            "other, so they are too narrow. Name the patients' column with --patient-column."
        )
    num_units = len(tally.confusions)
    if num_units == 1:
        lines.append(f"No intervals: one {tally.unit} cannot show how {tally.unit}s differ.")
    elif num_units < FEW_PATIENTS:
        lines.append(f"The intervals are too narrow: there are only {num_units} {tally.unit}s.")
    return lines


def _class_warnings(tally: Tally) -> list[str]:
    support = tally.confusion.sum(axis=1)
    few = [
        f"{name} ({count})"
        for name, count in zip(tally.classes, support.tolist(), strict=True)
        if 0 < count < FEW_CYCLES
    ]
    absent = [name for name, count in zip(tally.classes, support.tolist(), strict=True) if count == 0]
    lines = []
    if few:
        lines.append(
            f"Classes with fewer than {FEW_CYCLES} cycles weigh as much as any other in macro means: {', '.join(few)}."
        )
    if absent:
        lines.append(f"Without a cycle, and left out of macro means: {', '.join(absent)}.")
    return lines


def _mix_up_warnings(tally: Tally) -> list[str]:
    score, macro = float(mean_score(tally.confusion)), float(macro_mean_score(tally.confusion))
    lines = []
    if len(tally.classes) > 2 and not math.isnan(score):
        two = float(mean_score(fold_to_two_classes(tally.confusion)))
        lines.append(
            f"Three numbers that are printed as a Score, of these same answers: {100 * score:.1f} asks for the exact "
            f"class, {100 * two:.1f} is read as 2 classes ({100 * (two - score):+.1f}), {100 * macro:.1f} is the mean "
            f"of macro recall and macro specificity ({100 * (macro - score):+.1f}). Only like stands beside like."
        )
    if not math.isnan(score) and score <= ALWAYS_NORMAL_SCORE:
        lines.append("The Score is not above the 50.0 of always answering normal.")
    return lines
