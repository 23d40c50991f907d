"""Which cycles train, choose the epoch and are tested: the published protocol, and the strict one.

Published: all of the training part trains. Strict: validation patients are held out of the training part, and patients
that the test has too leave it, so that nobody is on two sides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lungsound.data.corpus import Corpus, Cycle
from lungsound.data.holdout import hold_out_patients
from lungsound.errors import CorpusError

VALIDATION = "validation"  # the part of held-out rows in a predictions file


@dataclass(frozen=True)
class Parts:
    """Rows of the corpus's cycles that train, choose the epoch, and are evaluated.

    `left_out` are patients whose training cycles take no part, since the test has them too.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    left_out: tuple[str, ...] = ()


def divide(
    corpus: Corpus,
    *,
    test_parts: Sequence[str] = (),
    is_strict: bool = True,
    are_shared_patients_kept: bool = False,
    validation_share: float,
    generator: torch.Generator,
    is_tested: bool = True,
) -> Parts:
    """The parts of a corpus under the strict or the published protocol.

    With `is_tested` false a corpus may lack a test part under the strict one, which holds out validation patients.

    Parts that a corpus declares to hold known patients (`Corpus.known_patient_parts`) take no patient out of the
    training part. CorpusError when nothing trains or nothing is tested, SettingsError when there are too few patients
    to hold any out.
    """
    is_untested = is_strict and not is_tested and corpus.parts == ("train",)
    train, test = corpus.part("train"), () if is_untested else rows_to_test(corpus, test_parts)
    if not train:
        raise CorpusError(f"{corpus.root} has no training cycles; the parts there are {list(corpus.parts)}")
    if not is_strict:
        return Parts(_rows(corpus, train), (), test)
    left_out = () if are_shared_patients_kept else shared_patients(corpus, train, [corpus.cycles[row] for row in test])
    staying = [cycle for cycle in train if cycle.recording.patient not in left_out]
    if not staying:
        raise CorpusError(
            f"{corpus.root}: the test has every training patient too, so the strict protocol leaves none to train; "
            "split by patient, or set data.protocol=published"
        )
    held = hold_out_patients(staying, validation_share, generator=generator)
    return Parts(
        train=_rows(corpus, [cycle for cycle in staying if cycle.recording.patient not in held]),
        validation=_rows(corpus, [cycle for cycle in staying if cycle.recording.patient in held]),
        test=test,
        left_out=left_out,
    )


def shared_patients(corpus: Corpus, train: Sequence[Cycle], test: Sequence[Cycle]) -> tuple[str, ...]:
    """Patients in both, but for those in test parts that hold known patients by design; sorted."""
    tested = {c.recording.patient for c in test if corpus.split[c.recording.name] not in corpus.known_patient_parts}
    return tuple(sorted(tested & {cycle.recording.patient for cycle in train}))


def rows_to_test(corpus: Corpus, parts: Sequence[str] = ()) -> tuple[int, ...]:
    """Rows of the cycles of the test parts: those named, else every part but "train". CorpusError without cycles."""
    names = tuple(parts) or tuple(part for part in corpus.parts if part != "train")
    test = corpus.part(*names)
    if not test or not set(names) <= set(corpus.parts):
        raise CorpusError(
            f"{corpus.root} has {len(test)} cycles in the test parts {list(names)}; its parts are {list(corpus.parts)}"
        )
    return _rows(corpus, test)


def leave_device_out(corpus: Corpus, device: str) -> Corpus:
    """The corpus with another split: recordings of `device` are "test", all others "train".

    CorpusError when one of the two would be empty.
    """
    split = {r.name: "test" if r.device == device else "train" for r in corpus.recordings}
    if len(set(split.values())) < 2:
        found = sorted({recording.device or "unknown" for recording in corpus.recordings})
        raise CorpusError(f"{corpus.root} cannot leave the device {device!r} out; its devices are {', '.join(found)}")
    return replace(corpus, split=split)


def _rows(corpus: Corpus, cycles: Sequence[Cycle]) -> tuple[int, ...]:
    row_of = {cycle.key: row for row, cycle in enumerate(corpus.cycles)}
    return tuple(row_of[cycle.key] for cycle in cycles)
