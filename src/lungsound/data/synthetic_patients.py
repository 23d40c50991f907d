"""The patients of a synthetic corpus: who they are, what their lungs sound like, how and where they are recorded."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from lungsound.data.synthetic_sounds import STETHOSCOPES, Stethoscope
from lungsound.labels import LungSound

FIRST_PATIENT = 501
MIN_PATIENTS = 4
TRAIN_SHARE = 0.6
LOCATIONS = ("Tc", "Al", "Ar", "Pl", "Pr", "Ll", "Lr")

NORMAL, CRACKLE, WHEEZE, BOTH = LungSound


@dataclass(frozen=True)
class Habit:
    """What a kind of patient sounds like: sounds in every recording, then shares of the other cycles by class."""

    diagnoses: tuple[str, ...]
    always: tuple[LungSound, ...]
    shares: tuple[float, float, float, float]


# Dealt in turn, so that the first patient of each part brings all four classes. Over all cycles they give
# about 47 % normal, 20 % crackle, 20 % wheeze and 13 % both.
HABITS = (
    Habit(("COPD", "Bronchiolitis"), (NORMAL, CRACKLE, WHEEZE, BOTH), (0.10, 0.05, 0.05, 0.80)),
    Habit(("Pneumonia", "Bronchiectasis", "LRTI"), (NORMAL, CRACKLE), (0.28, 0.66, 0.00, 0.06)),
    Habit(("Asthma", "COPD"), (NORMAL, WHEEZE), (0.28, 0.00, 0.66, 0.06)),
    Habit(("Healthy", "URTI"), (NORMAL,), (1.00, 0.00, 0.00, 0.00)),
)
AGES_YEARS = {"COPD": (48.0, 85.0), "Bronchiolitis": (0.25, 2.0)}


@dataclass(frozen=True)
class Patient:
    """One line of metadata.txt and patient_diagnosis.txt, the part of the split, and the voice of the lungs."""

    number: int
    part: str
    habit: Habit
    diagnosis: str
    age_years: float
    is_female: bool
    cycle_s: float
    wheeze_hz: float
    fine_share: float


@dataclass(frozen=True)
class Session:
    """One recording to be made."""

    patient: Patient
    index: int
    location: str
    mode: str
    device: Stethoscope
    oversampling: int

    @property
    def sample_rate_hz(self) -> int:
        return self.device.chest_rate_hz * self.oversampling

    @property
    def name(self) -> str:
        return f"{self.patient.number}_1b{self.index}_{self.location}_{self.mode}_{self.device.name}"


def plan_sessions(num_patients: int, rng: Generator) -> list[Session]:
    """Who is recorded, where and with what, sorted by name.

    Every patient is recorded two to four times, each time elsewhere on the chest. Within a part the habits are
    dealt in turn and the devices in shuffled rounds, so that two patients already bring all classes and devices.
    """
    num_train = min(max(round(TRAIN_SHARE * num_patients), 2), num_patients - 2)
    parts = rng.permutation(["train"] * num_train + ["test"] * (num_patients - num_train)).tolist()
    seen = {"train": 0, "test": 0}
    devices: dict[str, list[Stethoscope]] = {"train": [], "test": []}
    sessions = []
    for number, part in enumerate(parts, start=FIRST_PATIENT):
        patient = _draw_patient(number, part, HABITS[seen[part] % len(HABITS)], rng)
        num_recordings = int(rng.integers(2, 5))
        seen[part] += 1
        for index, location in enumerate(rng.permutation(LOCATIONS)[:num_recordings].tolist(), start=1):
            if not devices[part]:
                devices[part] = [STETHOSCOPES[i] for i in rng.permutation(len(STETHOSCOPES))]
            device = devices[part].pop()
            mode, oversampling = str(rng.choice(device.modes)), int(rng.choice(device.oversamplings))
            sessions.append(Session(patient, index, location, mode, device, oversampling))
    return sorted(sessions, key=lambda session: session.name)


def _draw_patient(number: int, part: str, habit: Habit, rng: Generator) -> Patient:
    diagnosis = str(rng.choice(habit.diagnoses))
    age = float(rng.uniform(*AGES_YEARS.get(diagnosis, (2.0, 80.0))))
    return Patient(
        number=number,
        part=part,
        habit=habit,
        diagnosis=diagnosis,
        age_years=round(age, 0 if age >= 3 else 2),
        is_female=bool(rng.random() < 0.45),
        cycle_s=float(rng.uniform(2.0, 3.2)),
        wheeze_hz=float(2 ** rng.uniform(np.log2(180), np.log2(700))),
        fine_share=float(rng.choice((0.2, 0.6, 0.9))),
    )


def metadata_line(patient: Patient, location: str) -> str:
    """Patient, age, sex, then the BMI of an adult or the weight in kg and the height in cm of a child."""
    age = patient.age_years
    sex = "F" if patient.is_female else "M"
    adult, child = (f"{20 + age / 8:.1f}", "NA", "NA"), ("NA", f"{4 + 2.7 * age:.1f}", f"{56 + 6.2 * age:.1f}")
    return "\t".join((str(patient.number), str(age), sex, *(child if age < 18 else adult), location))
