"""The audit of a corpus: leakage between its parts, defects of its recordings, and outliers among those of a device.

A limit that a whole corpus has is one fact about its device, not a defect of each recording: all 2,683 recordings of
SPRSound end near 900 Hz at a rate that could hold 4000 Hz, since its stethoscope filters them so. Each recording is
therefore compared with the baseline of its device and rate.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lungsound.audio.quality import MIN_BAND_HZ, MIN_RMS_DBFS, Defect, Quality
from lungsound.data.corpus import Corpus, Problem, Recording
from lungsound.data.duplicates import Measured, SharedAudio, crowded_patients, find_shared_audio, measure_recordings
from lungsound.errors import CorpusError
from lungsound.progress import OnProgress

# Fewer recordings of one device and rate give no baseline.
MIN_GROUP = 10
# Of the median limit. SPRSound's lowest is 0.84; 2 recordings of ICBHI's Litt3200 have less than this. A
# low-pass filter of eighth order at 500 Hz, injected into recordings of every device, leaves 0.07 to 0.78.
MIN_BAND_SHARE = 0.75
# Of what the rate could hold, below which a whole group's limit is worth a sentence.
NARROW_BAND = 0.75
# Of a device's recordings, and how many of those it takes. ICBHI's rarest, 10 kHz of Meditron, has 4.7 %.
RARE_RATE_SHARE = 0.02
MIN_RECORDINGS_OF_DEVICE = 50


def compare_with_devices(
    devices: Sequence[str], qualities: Sequence[Quality]
) -> tuple[list[tuple[Defect, ...]], list[str]]:
    """Defects of each recording that show beside the others of its device, and a sentence on each narrow device.

    "band-limited": its spectrum ends far below those of its device and rate. "rare rate": hardly any other of its
    device has its rate, so that a wrong header shows.
    """
    places = [(device, quality.sample_rate_hz) for device, quality in zip(devices, qualities, strict=True)]
    num_of_place, num_of_device = Counter(places), Counter(devices)
    limits: dict[tuple[str, int], list[float]] = {}
    for place, quality in zip(places, qualities, strict=True):
        if quality.band is not None:
            limits.setdefault(place, []).append(quality.band.limit_hz)
    medians = {place: float(np.median(of_place)) for place, of_place in limits.items() if len(of_place) >= MIN_GROUP}
    outliers = []
    for place, quality in zip(places, qualities, strict=True):
        (device, rate_hz), defects = place, []
        is_told_apart = quality.upsampled_from_hz is None and quality.rms_dbfs >= MIN_RMS_DBFS
        if quality.band is not None and is_told_apart and place in medians:
            limit_hz, usual_hz = quality.band.limit_hz, medians[place]
            if MIN_BAND_HZ <= limit_hz < MIN_BAND_SHARE * usual_hz:
                usual = f"the {len(limits[place])} of its kind usually reach {usual_hz:.0f} Hz"
                defects.append(Defect("band-limited", f"nothing above {limit_hz:.0f} Hz; {usual}"))
        num, num_all = num_of_place[place], num_of_device[device]
        if num_all >= MIN_RECORDINGS_OF_DEVICE and num <= RARE_RATE_SHARE * num_all:
            num_common, common_hz = max((n, hz) for (other, hz), n in num_of_place.items() if other == device)
            detail = f"its header says {rate_hz} Hz, as {num} of this device do; {num_common} say {common_hz} Hz: if "
            defects.append(Defect("rare rate", f"{detail}the header is wrong, it plays too fast or too slow"))
        outliers.append(tuple(defects))
    sentences = [
        f"{len(limits[device, rate_hz]):,} recordings at {rate_hz} Hz (device: {device}): half of the spectra end "
        f"below {usual_hz:.0f} Hz, all between {min(limits[device, rate_hz]):.0f} and "
        f"{max(limits[device, rate_hz]):.0f} Hz, where the rate could hold {rate_hz // 2} Hz; that is how they were "
        "recorded, not a defect of some"
        for (device, rate_hz), usual_hz in sorted(medians.items())
        if usual_hz < NARROW_BAND * rate_hz / 2
    ]
    return outliers, sentences


UNKNOWN = "unknown"
NO_PART = "in no part"
TRAIN = "train"


@dataclass(frozen=True)
class SharedPatient:
    """A patient in several parts, with the recordings in each; `is_by_design` when the corpus says so of its parts."""

    patient: str
    num_recordings: Mapping[str, int]
    is_by_design: bool

    @property
    def is_leak(self) -> bool:
        return not self.is_by_design

    @property
    def waivers(self) -> frozenset[str]:
        """The waivers that would cover it."""
        return frozenset({self.patient})


@dataclass(frozen=True)
class SharedSound:
    """Two recordings that hold the same sound, with their parts (None: in no part) and patients."""

    audio: SharedAudio
    parts: tuple[str | None, str | None]
    patients: tuple[str, str]

    @property
    def is_leak(self) -> bool:
        """True when the recordings are in two parts."""
        return None not in self.parts and self.parts[0] != self.parts[1]

    @property
    def waivers(self) -> frozenset[str]:
        """The waivers that would cover it: one of the recordings, both ("A,B"), or their patient."""
        one, other = self.audio.one, self.audio.other
        names = {one, other, f"{one},{other}", f"{other},{one}"}
        return frozenset(names | set(self.patients) if self.patients[0] == self.patients[1] else names)


@dataclass(frozen=True)
class CountRow:
    """Numbers of cycles and recordings of one class, part and device; word None: recordings without cycles."""

    word: str | None
    part: str
    device: str
    num_cycles: int
    num_recordings: int


@dataclass(frozen=True)
class RecordingFinding:
    """Measurements of one recording. Quality None: no sound was read, or it is unreadable, as its defect says."""

    name: str
    part: str
    device: str
    quality: Quality | None
    defects: tuple[Defect, ...]


@dataclass(frozen=True)
class Audit:
    """Results of an audit, as plain data.

    Leakage is a patient in two parts (but by design), and the same sound in two parts, simultaneous channels included.
    """

    name: str
    root: Path | str
    parts: tuple[str, ...]
    num_recordings: int
    num_patients: int
    is_audio_read: bool
    shared_patients: tuple[SharedPatient, ...]
    shared_sounds: tuple[SharedSound, ...]
    tally: tuple[CountRow, ...]
    recordings: tuple[RecordingFinding, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    waived: tuple[str, ...]

    @property
    def leaks(self) -> tuple[SharedPatient | SharedSound, ...]:
        """All leakage, waived or not: patients first, then sounds."""
        every: tuple[SharedPatient | SharedSound, ...] = (*self.shared_patients, *self.shared_sounds)
        return tuple(shared for shared in every if shared.is_leak)

    def is_waived(self, shared: SharedPatient | SharedSound) -> bool:
        """True for leakage that a waiver names."""
        return shared.is_leak and not shared.waivers.isdisjoint(self.waived)

    @property
    def open_leaks(self) -> tuple[SharedPatient | SharedSound, ...]:
        return tuple(leak for leak in self.leaks if not self.is_waived(leak))

    @property
    def unused_waivers(self) -> tuple[str, ...]:
        """Waivers that name no leak: out of date, or misspelt."""
        needed = frozenset[str]().union(*(leak.waivers for leak in self.leaks))
        return tuple(name for name in self.waived if name not in needed)

    @property
    def is_clean(self) -> bool:
        return not self.open_leaks

    def to_json(self) -> dict[str, Any]:
        """The audit as plain values, with what follows from them."""
        return asdict(self) | {
            "root": str(self.root),
            "is_clean": self.is_clean,
            "open_leaks": [sorted(leak.waivers) for leak in self.open_leaks],
            "unused_waivers": self.unused_waivers,
        }


def audit_corpus(
    corpus: Corpus,
    *,
    waived: Sequence[str] = (),
    is_audio_read: bool = True,
    num_workers: int = 1,
    on_progress: OnProgress | None = None,
) -> Audit:
    """The audit of a corpus, which may have problems, but not no recordings (CorpusError).

    `waived` names patients, recordings, or pairs "A,B", whose leakage is accepted. Progress starts again for each of
    three stages.
    """
    if not corpus.recordings:
        problems = corpus.problems
        first = f"the first of {len(problems)} problem(s): {problems[0]}" if problems else "it is empty"
        raise CorpusError(f"no recordings in {corpus.root} that could be audited; {first}")
    patient_of = {recording.name: recording.patient for recording in corpus.recordings}
    qualities: dict[str, Quality] = {}
    defects: dict[str, tuple[Defect, ...]] = {}
    shared: list[SharedAudio] = []
    notes = list(corpus.notes)
    if is_audio_read:
        results = measure_recordings(corpus.recordings, num_workers=num_workers, on_progress=on_progress)
        recordings, measured = [], []
        for recording, result in zip(corpus.recordings, results, strict=True):
            if isinstance(result, Measured):
                recordings.append(recording)
                measured.append(result)
                qualities[recording.name] = result.quality
            else:
                defects[recording.name] = (Defect("unreadable", str(result)),)
        devices = [recording.device or UNKNOWN for recording in recordings]
        unusual, narrow = compare_with_devices(devices, [result.quality for result in measured])
        for recording, result, more in zip(recordings, measured, unusual, strict=True):
            defects[recording.name] = result.defects + more
        shared = find_shared_audio(recordings, measured, num_workers=num_workers, on_progress=on_progress)
        notes += narrow + [
            f"patient {patient} has too many recordings to look for simultaneous channels in all pairs"
            for patient in crowded_patients(recordings)
        ]
    return Audit(
        name=corpus.name,
        root=corpus.root,
        parts=corpus.parts,
        num_recordings=len(corpus.recordings),
        num_patients=len({recording.patient for recording in corpus.recordings}),
        is_audio_read=is_audio_read,
        shared_patients=tuple(_shared_patients(corpus)),
        shared_sounds=tuple(
            SharedSound(
                audio,
                (corpus.split.get(audio.one), corpus.split.get(audio.other)),
                (patient_of[audio.one], patient_of[audio.other]),
            )
            for audio in shared
        ),
        tally=tuple(_count_classes(corpus)),
        recordings=tuple(
            RecordingFinding(
                recording.name,
                corpus.split.get(recording.name, NO_PART),
                recording.device or UNKNOWN,
                qualities.get(recording.name),
                defects.get(recording.name, ()),
            )
            for recording in corpus.recordings
        ),
        problems=corpus.problems,
        notes=tuple(notes),
        waived=tuple(dict.fromkeys(waived)),
    )


def _shared_patients(corpus: Corpus) -> list[SharedPatient]:
    counts: dict[str, Counter[str]] = {}
    for recording in corpus.recordings:
        if recording.name in corpus.split:
            counts.setdefault(recording.patient, Counter())[corpus.split[recording.name]] += 1
    shared = []
    for patient, num_of_part in sorted(counts.items()):
        if len(num_of_part) > 1:
            parts = {part: num_of_part[part] for part in corpus.parts if part in num_of_part}
            # By design: every two of the parts are the training set and one that is said to hold its patients.
            known = corpus.known_patient_parts
            is_by_design = all(TRAIN in pair and {*pair} - {TRAIN} <= known for pair in combinations(parts, 2))
            shared.append(SharedPatient(patient, parts, is_by_design))
    return shared


def _count_classes(corpus: Corpus) -> list[CountRow]:
    def place(recording: Recording) -> tuple[str, str]:
        return corpus.split.get(recording.name, NO_PART), recording.device or UNKNOWN

    keys = [(cycle.word, *place(cycle.recording)) for cycle in corpus.cycles]
    names: dict[tuple[str | None, str, str], set[str]] = {}
    for key, cycle in zip(keys, corpus.cycles, strict=True):
        names.setdefault(key, set()).add(cycle.recording.name)
    with_cycles = {cycle.recording.name for cycle in corpus.cycles}
    for recording in corpus.recordings:
        if recording.name not in with_cycles:
            names.setdefault((None, *place(recording)), set()).add(recording.name)
    num_cycles: Counter[tuple[str | None, str, str]] = Counter(keys)
    words = [*dict.fromkeys(cycle.word for cycle in sorted(corpus.cycles, key=lambda cycle: cycle.sound)), None]
    parts = [*corpus.parts, NO_PART]
    rows = [CountRow(*key, num_cycles[key], len(recordings)) for key, recordings in names.items()]
    return sorted(rows, key=lambda row: (words.index(row.word), parts.index(row.part), row.device))
