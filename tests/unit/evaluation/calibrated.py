"""Predictions of made-up patients, as sure of themselves as a test wants."""

import numpy as np

from lungsound.evaluation.calibration import softmax
from lungsound.evaluation.evidence import Ages, Evidence, Measured, Trained
from lungsound.evaluation.predictions import Predictions

CLASSES = ("normal", "crackle", "wheeze")


def drawn_predictions(
    seed: int,
    *,
    num_patients: int = 30,
    temperature: float = 1.0,
    devices: tuple[str, ...] = ("Meditron", "Litt3200"),
    name: str = "p",
) -> Predictions:
    """12 cycles a patient; the model is too sure by `temperature`. Patients take the devices in turn."""
    generator = np.random.default_rng(seed)
    num_cycles = 12 * num_patients
    probabilities = softmax(generator.normal(0.0, 2.0, (num_cycles, 3)) + np.array([1.0, 0.0, 0.0]))
    honest = softmax(np.log(probabilities) / temperature)
    labels = np.array([generator.choice(3, p=row) for row in honest])
    return Predictions(
        keys=tuple(f"{name}{i // 12:02}#{i % 12}-{i % 12 + 1}" for i in range(num_cycles)),
        patients=tuple(f"{name}{i // 12:02}" for i in range(num_cycles)),
        devices=tuple(devices[i // 12 % len(devices)] for i in range(num_cycles)),
        parts=("test",) * num_cycles,
        labels=labels,
        probabilities=probabilities,
        classes=CLASSES,
    )


def group(
    name: str = "patients held out",
    *,
    score_interval: tuple[float, float] | None = (0.6, 0.8),
    ages_years: Ages = (),
    devices: tuple[str, ...] = (),
) -> Measured:
    """Forty patients on whom a model reached 70 %."""
    return Measured(
        name=name,
        ages_years=ages_years,
        devices=devices,
        num_patients=40,
        num_cycles=400,
        score=0.7,
        score_interval=score_interval,
        auc=0.75,
    )


# Of a model that is known to be better than always normal.
GOOD_EVIDENCE = Evidence(trained=(Trained(name="x", num_patients=7),), is_synthetic=False, held_out=group())
