"""Predictions and results of runs that were never trained, and a small tree of SPRSound."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lungsound.evaluation.metrics import Counts
from lungsound.evaluation.predictions import Predictions
from lungsound.experiments.results import RunResult
from tests.unit.data.trees import write_event_file, write_sound

EVENTS = ("Normal", "Wheeze", "Fine Crackle", "Normal", "Coarse Crackle", "Rhonchi")
RECORDINGS = ("Normal", "CAS", "DAS", "Normal", "Poor Quality", "CAS & DAS")


def counted(confusions: Mapping[str, Counts]) -> Predictions:
    """Predictions with these counts `(patient, true class, predicted class)` in each part."""
    rows = [
        (part, patient, true, predicted)
        for part, counts in confusions.items()
        for (patient, true, predicted), number in np.ndenumerate(counts)
        for _ in range(number)
    ]
    num_classes = len(next(iter(confusions.values()))[0])
    parts, patients, labels, predicted = zip(*rows, strict=True)
    return Predictions(
        keys=tuple(f"r#{row}-{row + 1}" for row in range(len(rows))),
        patients=tuple(f"{part}{patient:03}" for part, patient in zip(parts, patients, strict=True)),
        devices=("",) * len(rows),
        parts=parts,
        labels=np.array(labels),
        probabilities=np.eye(num_classes)[list(predicted)],
        classes=tuple("abcdefgh"[:num_classes]),
    )


def answered(
    skill: float, classes: Sequence[str], *, seed: int = 0, num_patients: Mapping[str, int] | None = None
) -> Predictions:
    """Six cycles of each patient of inter and of intra, right with this probability; the same but for the answers."""
    generator = np.random.default_rng(seed)
    of_parts = num_patients or {"inter": 12, "intra": 15}
    patients = [f"{part}{n:02}" for part, number in of_parts.items() for n in range(number) for _ in range(6)]
    labels = np.random.default_rng(1).integers(0, len(classes), len(patients))
    others = generator.integers(0, len(classes), len(patients))
    chosen = np.where(generator.random(len(patients)) < skill, labels, others)
    return Predictions(
        keys=tuple(f"r#{row}-{row + 1}" for row in range(len(patients))),
        patients=tuple(patients),
        devices=("",) * len(patients),
        parts=tuple(patient[:5] for patient in patients),
        labels=labels,
        probabilities=0.5 * np.eye(len(classes))[chosen] + 0.5 / len(classes),
        classes=tuple(classes),
    )


FACTS = {
    "epochs": {"last": 6},
    "num_cycles": {"train": 4990},
    "patients": {"train": ["p0"]},
    "corpus": {"fingerprint": "0123456789abcdef0123"},
    "revision": "c0ffee0c0ffee0",
    "processor": "x86_64 A Processor",
}


def result_of(predictions: Predictions, *, seed: int = 0, selection: str = "last") -> RunResult:
    return RunResult(seed, predictions, "sprsound", 2683, 6, selection, 6, "random", FACTS)


def write_sprsound_tree(root: Path) -> Path:
    """Fourteen patients of training, six new ones and six known ones of the test; sounds of 2 s, two events each."""
    people = {"train": range(14), "inter": range(50, 56), "intra": range(6)}
    number = 1000
    for part, patients in people.items():
        folder = "train" if part == "train" else "test"
        for patient in patients:
            for _ in range(3):
                number += 1
                name = f"{65000000 + patient}_4.2_0_p{1 + number % 4}_{number}"
                write_sound(root / f"{folder}_wav" / f"{name}.wav")
                kinds = (EVENTS[number % 6], EVENTS[(number + patient) % 6])
                events = [(100, 900, kinds[0]), (1000, 1900, kinds[1])]
                json_folder = root / ("train_json" if part == "train" else f"test_json/{part}_test_json")
                write_event_file(json_folder / f"{name}.json", events, record=RECORDINGS[number % 6])
    return root
