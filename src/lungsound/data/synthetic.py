"""A synthetic corpus in ICBHI's own layout with true annotations; the same seed gives the same bytes.

First the plan (patients with their habits and voices, sessions), then the sound of each session, breath by breath.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.random import Generator, SeedSequence, default_rng

from lungsound.data import synthetic_sounds as sounds
from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE
from lungsound.data.synthetic_sounds import STETHOSCOPES, Stethoscope, Waveform, add, shaped_noise
from lungsound.errors import CorpusError, SettingsError
from lungsound.files import written_folder
from lungsound.labels import LungSound

FIRST_PATIENT = 501
MIN_PATIENTS = 4
TRAIN_SHARE = 0.6
MARGIN_S = 0.03  # no event starts earlier in its cycle; at the other end the pause keeps them from the border
LOCATIONS = ("Tc", "Al", "Ar", "Pl", "Pr", "Ll", "Lr")
AGES_YEARS = {"COPD": (48.0, 85.0), "Bronchiolitis": (0.25, 2.0)}

NORMAL, CRACKLE, WHEEZE, BOTH = LungSound


class Habit(NamedTuple):
    """Sounds of a kind of patient: those in every recording, then shares of the other cycles by class."""

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
    def name(self) -> str:
        return f"{self.patient.number}_1b{self.index}_{self.location}_{self.mode}_{self.device.name}"


class Event(NamedTuple):
    """One crackle or wheeze, at its true time in the recording.

    `frequency_hz` is a wheeze's mean fundamental; for a crackle, that of a cycle of twice its first deflection.
    """

    kind: str
    start_s: float
    end_s: float
    frequency_hz: float


class Breath(NamedTuple):
    """One cycle: inspiration from `start_s`, expiration from `turn_s` to `rest_s`, a pause to `end_s`."""

    start_s: float
    turn_s: float
    rest_s: float
    end_s: float
    sound: LungSound


def synthesize(
    root: str | Path, *, num_patients: int = 40, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a synthetic corpus into the new or empty folder `root` and return it.

    ICBHI's layout, split by patient (about 60 : 40; each part has every class and every device), and beside it
    `synthetic_events.tsv` with the true time and frequency of every crackle and wheeze. `on_progress` is called
    with the recordings done and in all. The folder appears only when it is whole. The same seed gives the same
    bytes for as long as numpy's random streams stay as they are.

    Raises SettingsError for fewer than 4 patients, a negative seed, or a `root` that is not empty, CorpusError when it
    cannot be written.
    """
    if num_patients < MIN_PATIENTS:
        raise SettingsError(
            f"{num_patients} patients asked for; a synthetic corpus needs at least {MIN_PATIENTS}: ask for more"
        )
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; a seed must be 0 or larger: choose another")
    # One random stream for the plan, then one for each recording.
    plan_seed = SeedSequence(seed)
    sessions = plan_sessions(num_patients, default_rng(plan_seed))
    events = ["recording\tkind\tstart_s\tend_s\tfrequency_hz"]
    try:
        with written_folder(Path(root)) as folder:
            for done, (session, own_seed) in enumerate(zip(sessions, plan_seed.spawn(len(sessions)), strict=True), 1):
                waveform, breaths, own_events = record(session, default_rng(own_seed))
                samples, rate_hz = np.rint(waveform * 32767).astype(np.int16), session.device.chest_rate_hz
                soundfile.write(folder / f"{session.name}.wav", samples, rate_hz * session.oversampling)
                annotation = []
                for start_s, _, _, end_s, sound in breaths:
                    annotation.append(f"{start_s:.3f}\t{end_s:.3f}\t{sound.has_crackle:d}\t{sound.has_wheeze:d}")
                _write_lines(folder / f"{session.name}.txt", annotation)
                for kind, start_s, end_s, frequency_hz in own_events:
                    events.append(f"{session.name}\t{kind}\t{start_s:.4f}\t{end_s:.4f}\t{frequency_hz:.1f}")
                if on_progress is not None:
                    on_progress(done, len(sessions))
            firsts = [(s.patient, s.location) for s in sessions if s.index == 1]
            _write_lines(folder / SYNTHETIC_EVENTS_FILE, events)
            _write_lines(folder / "official_split.txt", [f"{s.name}\t{s.patient.part}" for s in sessions])
            _write_lines(folder / "patient_diagnosis.txt", [f"{p.number}\t{p.diagnosis}" for p, _ in firsts])
            _write_lines(folder / "metadata.txt", [_metadata_line(*first) for first in firsts])
    except (OSError, soundfile.LibsndfileError) as error:
        raise CorpusError(
            f"cannot write a synthetic corpus into {root} ({error}); choose a folder that can be written"
        ) from error
    return Path(root)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\n" for line in lines).encode("ascii"))


def _metadata_line(patient: Patient, location: str) -> str:
    """Patient, age, sex, then the BMI of an adult or the weight in kg and the height in cm of a child."""
    age, sex = patient.age_years, "F" if patient.is_female else "M"
    adult, child = (f"{20 + age / 8:.1f}", "NA", "NA"), ("NA", f"{4 + 2.7 * age:.1f}", f"{56 + 6.2 * age:.1f}")
    return "\t".join((str(patient.number), str(age), sex, *(child if age < 18 else adult), location))


def plan_sessions(num_patients: int, rng: Generator) -> list[Session]:
    """Recordings to be made, sorted by name: two to four of each patient, each elsewhere on the chest.

    Within a part the habits are dealt in turn and the devices in shuffled rounds, so that two patients already bring
    all classes and devices.
    """
    num_train = min(max(round(TRAIN_SHARE * num_patients), 2), num_patients - 2)
    parts = rng.permutation(["train"] * num_train + ["test"] * (num_patients - num_train)).tolist()
    num_in_part = {"train": 0, "test": 0}
    devices: dict[str, list[Stethoscope]] = {"train": [], "test": []}
    sessions = []
    for number, part in enumerate(parts, start=FIRST_PATIENT):
        habit = HABITS[num_in_part[part] % len(HABITS)]
        num_in_part[part] += 1
        diagnosis = str(rng.choice(habit.diagnoses))
        age = float(rng.uniform(*AGES_YEARS.get(diagnosis, (2.0, 80.0))))
        patient = Patient(
            number,
            part,
            habit,
            diagnosis,
            age_years=round(age, 0 if age >= 3 else 2),
            is_female=bool(rng.random() < 0.45),
            cycle_s=float(rng.uniform(2.0, 3.2)),
            wheeze_hz=float(2 ** rng.uniform(np.log2(180), np.log2(700))),
            fine_share=float(rng.choice((0.2, 0.6, 0.9))),
        )
        num_recordings = int(rng.integers(2, 5))
        for index, location in enumerate(rng.permutation(LOCATIONS)[:num_recordings].tolist(), start=1):
            if not devices[part]:
                devices[part] = [STETHOSCOPES[i] for i in rng.permutation(len(STETHOSCOPES))]
            device = devices[part].pop()
            mode, oversampling = str(rng.choice(device.modes)), int(rng.choice(device.oversamplings))
            sessions.append(Session(patient, index, location, mode, device, oversampling))
    return sorted(sessions, key=lambda session: session.name)


def record(session: Session, rng: Generator) -> tuple[Waveform, list[Breath], list[Event]]:
    """Waveform `(samples,)` within -1..1 of one recording, its breaths in order, and its events by start."""
    breaths = draw_breaths(session.patient, rng)
    rate = session.device.chest_rate_hz
    sound = np.zeros(round((breaths[-1].end_s + rng.uniform(0.1, 0.8)) * rate))

    # Breath noise: inspiration of RMS 1 at its height, expiration weaker and darker (over the trachea as strong).
    is_tracheal = session.location == "Tc"
    curve, tilt = (sounds.TRACHEAL if is_tracheal else sounds.VESICULAR), rng.uniform(0.92, 1.08)
    expiration = rng.uniform(0.8, 1.1) if is_tracheal else rng.uniform(0.3, 0.6)
    in_phases = np.array([(b.start_s, b.turn_s) for b in breaths])
    out_phases = np.array([(b.turn_s, b.rest_s) for b in breaths])
    for phases, level, phase_tilt in ((in_phases, 1.0, tilt), (out_phases, expiration, 1.15 * tilt)):
        noise = shaped_noise(len(sound), rate, curve, rng, tilt=phase_tilt)
        sound += level * sounds.breath_envelope(len(sound), rate, phases, rng.uniform(0.6, 1.2)) * noise

    # Rumble of the room, the heart (louder on the left), and none to three rustles anywhere.
    sound += rng.uniform(0.3, 1.0) * shaped_noise(len(sound), rate, sounds.ROOM, rng)
    beats_per_minute = rng.uniform(95, 130) if session.patient.age_years < 6 else rng.uniform(60, 100)
    heart = sounds.heart_sounds(len(sound), rate, rng, beats_per_minute=beats_per_minute)
    sound += rng.uniform(0.2, 3.0 if session.location.endswith("l") else 1.2) * heart
    for _ in range(int(rng.integers(0, 4))):
        swell = sounds.rustle(rate, rng, duration_s=rng.uniform(0.1, 0.4))
        add(sound, rng.uniform(0.5, 2.0) * swell, int(rng.integers(0, len(sound))))

    events = []
    crackle_level, wheeze_level = rng.uniform(6.0, 11.0), rng.uniform(1.0, 2.0)
    for breath in breaths:
        if breath.sound.has_crackle:
            events += _add_crackles(sound, breath, session, rng, level=crackle_level)
        if breath.sound.has_wheeze:
            events += _add_wheezes(sound, breath, session, rng, level=wheeze_level)
    recorded = session.device.record(sound, rng, oversampling=session.oversampling)
    recorded *= 10 ** (rng.uniform(-27, -20) / 20) / np.sqrt(np.mean(recorded**2))
    recorded /= max(1.0, np.abs(recorded).max() / 0.98)
    return recorded, breaths, sorted(events, key=lambda event: event.start_s)


def draw_breaths(patient: Patient, rng: Generator) -> list[Breath]:
    """Five to eight cycles of 1.5-4 s, one after the other, on whole milliseconds; the classes in random order."""
    num_cycles = int(np.clip(round(rng.uniform(15, 19) / patient.cycle_s), 5, 8))
    always = list(patient.habit.always)
    others = rng.choice(4, size=num_cycles - len(always), p=patient.habit.shares).tolist()
    classes = rng.permutation([*always, *others]).tolist()
    start = int(rng.integers(20, 600))
    breaths = []
    for each in classes:
        length = int(1000 * np.clip(patient.cycle_s * rng.normal(1, 0.1), 1.5, 4.0))
        inspiration, expiration = rng.uniform(0.36, 0.44), rng.uniform(0.40, 0.50)
        turn, rest = start + length * inspiration, start + length * (inspiration + expiration)
        breaths.append(Breath(start / 1000, turn / 1000, rest / 1000, (start + length) / 1000, LungSound(each)))
        start += length
    return breaths


def _add_crackles(sound: Waveform, breath: Breath, session: Session, rng: Generator, *, level: float) -> list[Event]:
    """Fine crackles late in inspiration, or coarse ones from its beginning on and through the breath."""
    rate = session.device.chest_rate_hz
    if rng.random() < session.patient.fine_share:
        kind, count = sounds.FINE, int(rng.integers(6, 13))
        first, last = (breath.start_s + breath.turn_s) / 2, breath.turn_s
    else:
        first, last = breath.start_s + MARGIN_S, breath.turn_s if rng.random() < 0.5 else breath.rest_s
        kind, count = sounds.COARSE, int(rng.integers(6, 11))
    slot = (last - first) / count
    events = []
    for slot_start in first + slot * np.arange(count):
        idw_s, two_cycle_s = float(rng.uniform(*kind.idw_s)), float(rng.uniform(*kind.two_cycle_s))
        start = int(np.ceil(rng.uniform(slot_start, slot_start + slot - two_cycle_s) * rate))
        polarity = 1 if rng.random() < 0.8 else -1
        shape = sounds.crackle(rate, idw_s=idw_s, two_cycle_s=two_cycle_s)
        add(sound, polarity * level * rng.uniform(0.7, 1.3) * shape, start)
        events.append(Event(kind.name, start / rate, start / rate + two_cycle_s, 0.5 / idw_s))
    return events


def _add_wheezes(sound: Waveform, breath: Breath, session: Session, rng: Generator, *, level: float) -> list[Event]:
    """One or two wheezes, each in one phase of the breath, mostly the expiration; some are low (rhonchi)."""
    rate = session.device.chest_rate_hz
    events = []
    phases = [(breath.turn_s, breath.rest_s)]
    if rng.random() < 0.3:
        phases.insert(int(rng.integers(0, 2)), (breath.start_s + MARGIN_S, breath.turn_s))
    for phase_start, phase_end in phases[: int(rng.integers(1, 3))]:
        is_low = rng.random() < 0.15
        frequency_hz = float(rng.uniform(120, 180) if is_low else session.patient.wheeze_hz * rng.uniform(0.85, 1.15))
        duration_s = float((phase_end - phase_start) * rng.uniform(0.6, 0.95))
        start = int(np.ceil(rng.uniform(phase_start, phase_end - duration_s) * rate))
        harmonics = (rng.uniform(0.1, 0.5, size=int(rng.integers(1, 4))) * (1.5 if is_low else 1.0)).tolist()
        glide = float(rng.uniform(-0.2, 0.2))
        shape = sounds.wheeze(
            rate, frequency_hz=frequency_hz, duration_s=duration_s, glide=glide, harmonics=tuple(harmonics)
        )
        # Breath noise falls with frequency: a high wheeze needs less to stand out of it, a low one more.
        loudness = level * (300 / frequency_hz) ** 0.6 * rng.uniform(0.7, 1.3)
        add(sound, loudness * shape, start)
        events.append(Event("wheeze", start / rate, start / rate + duration_s, frequency_hz))
    return events
