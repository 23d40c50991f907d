"""The predictor: a recording in, labelled cycles out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import accumulate, compress
from pathlib import Path
from typing import Literal

import numpy as np

from lungsound.audio import quality
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.audio.io import Samples, read_channels
from lungsound.audio.segmentation import segment_cycles, sliding_windows
from lungsound.data.icbhi import annotations_beside, read_annotation
from lungsound.data.tree import cycle_faults
from lungsound.errors import AnnotationError
from lungsound.evaluation.evidence import statement
from lungsound.evaluation.out_of_domain import HIGHEST_SCORE, Gate
from lungsound.extras import BOX, BOX_DISTRIBUTION, BOX_PACKAGE, box_file
from lungsound.inference.engines import AUTO, Engine, Outputs, select
from lungsound.inference.prediction import (
    CyclePrediction,
    CyclesFrom,
    Provenance,
    Reason,
    RecordingPrediction,
    aggregate_cycles,
)
from lungsound.inference.withholding import reasons_of_model, reasons_of_remarks
from lungsound.models.hub import OWN_FILE, download_model, is_hub_name
from lungsound.training.model_file import TrainedModel, load_model

FindBy = Literal["auto", "annotation", "segmentation", "windows"]
WINDOW_OVERLAP = 0.5
IN_MEMORY = "a model in memory"
HIGH_SCORE, UNLIKE = 0.95, "unlike the training set"  # remarked on; the highest score withholds a cycle
STETHOSCOPE_NOT_STATED, OTHER_STETHOSCOPE = "stethoscope not stated", "stethoscope not trained on"
AGE_NOT_STATED = "age not stated"
SILENT_CYCLES = "silent cycles"
Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Stretch:
    """A stretch of a recording and its sound at the model's rate."""

    start_s: float
    end_s: float
    sound: Sound
    is_silent: bool


@dataclass(frozen=True)
class LoadedRecording:
    """A recording cut into stretches; `quality` are remarks on file and sound, and why no cycles were detected.

    `is_steady`: nothing in it rises as breathing does (`Segmentation`).
    """

    path: Path
    duration_s: float
    sample_rate_hz: int
    cycles_from: CyclesFrom
    stretches: tuple[Stretch, ...]
    quality: tuple[str, ...]
    is_steady: bool = False


def load_recording(
    path: Path, front_end: FrontEnd, *, find_by: FindBy, spans_s: Spans | None = None, is_silence_kept: bool = False
) -> LoadedRecording:
    """Read a recording and cut it into its cycles, or at `spans_s` (start, end).

    "auto" takes the cycles of the annotation beside it (`annotated_spans`), else looks for breathing, else takes
    windows of the model's input that overlap by half; "annotation" takes none but annotated ones, "segmentation"
    windows where there is no breathing. Cycles with too little sound are left out, with a remark, unless
    `is_silence_kept`; spans never are. Raises AudioError for a recording that cannot be read, AnnotationError for an
    annotation that is needed and missing, or that cannot be read.
    """
    channels, info = read_channels(path)
    rate_hz = info.sample_rate_hz
    mono = quality.mono_of(channels)
    duration_s, remarks = len(mono) / rate_hz, []
    cycles_from: CyclesFrom = "annotation"
    is_silence_kept = is_silence_kept or spans_s is not None
    if spans_s is None and find_by in ("auto", "annotation"):
        spans_s = annotated_spans(path, duration_s)
        if spans_s is None and find_by == "annotation":
            raise AnnotationError(
                f"no annotation {path.stem}.txt beside it (but for one that was predicted); take another --cycles, in "
                "Python find_by",
                path=path,
            )
    segmentation = segment_cycles(mono, rate_hz)  # where cycles are given too: is there breathing at all
    is_sought = spans_s is None and find_by in ("auto", "segmentation")
    if is_sought and segmentation.problem is None:
        cycles_from, spans_s = "segmentation", segmentation.cycles
    elif is_sought or segmentation.is_steady:
        remarks = [f"no breathing found: {segmentation.problem}"]
    if spans_s is None:
        window_s = front_end.audio.duration_s
        cycles_from = "windows"
        spans_s = sliding_windows(duration_s, length_s=window_s, hop_s=(1 - WINDOW_OVERLAP) * window_s)
    prepared = front_end.prepare(mono, rate_hz)
    stretches = [
        Stretch(
            start_s,
            end_s,
            front_end.cut(prepared, start_s=start_s, end_s=end_s),
            _is_silent(mono[int(start_s * rate_hz) : int(end_s * rate_hz)], rate_hz),
        )
        for start_s, end_s in spans_s
    ]
    sounding = [stretch for stretch in stretches if not stretch.is_silent]
    if not is_silence_kept:
        remarks += [SILENT_CYCLES] if 0 < len(sounding) < len(stretches) else []
        stretches = sounding
    measured = quality.measure_quality(channels, rate_hz)
    too_little = quality.find_too_little_sound(measured)
    if cycles_from == "annotation":  # somebody has marked a cycle in it, however short it is
        too_little = tuple(each for each in too_little if each.kind != quality.TOO_SHORT)
    other_sounds = quality.measure_other_sounds(mono, rate_hz)
    defects = (*quality.find_defects(measured), *too_little, *quality.find_other_sounds(other_sounds))
    remarks = [*info.remarks, *(defect.kind for defect in defects), *remarks]
    return LoadedRecording(
        path, duration_s, rate_hz, cycles_from, tuple(stretches), tuple(remarks), segmentation.is_steady
    )


def annotated_spans(recording: Path, duration_s: float) -> tuple[tuple[float, float], ...] | None:
    """Start and end (s) of the cycles in `<name>.txt` beside a recording, checked as by `data check`; None without."""
    annotations = annotations_beside(recording)
    if not annotations:
        return None
    if len(annotations) > 1:
        names = " and ".join(path.name for path in annotations)
        raise AnnotationError(f"has the annotations {names} beside it: remove all but one", path=recording)
    annotation = annotations[0]
    lines, cycles = zip(*read_annotation(annotation), strict=True)
    spans_s = [(start_s, end_s) for start_s, end_s, _, _ in cycles]
    for line, fault in zip(lines, cycle_faults(spans_s, duration_s), strict=True):
        if fault is not None:
            raise AnnotationError(": ".join(fault), path=annotation, line=line)
    return tuple(sorted(spans_s))


def _is_silent(samples: Samples, rate_hz: int) -> bool:
    if len(samples) < 2 or quality.rms_dbfs(samples) < quality.MIN_RMS_DBFS:
        return True
    num_silent = sum(end - start for start, end in quality.silent_stretches(samples, rate_hz))
    return num_silent > quality.MAX_SILENT_SHARE * len(samples)


def _device(name: str) -> str:
    if name == "cpu":
        return name
    from lungsound.models.classifier import find_device  # late: it needs torch

    return str(find_device(name))


def find_model(model: str | Path) -> Path:
    """File of a model: "box"; in a run folder or an export to hf; the file itself; or downloaded (hf://OWNER/NAME)."""
    if model == BOX:
        return box_file()
    path = download_model(model) if isinstance(model, str) and is_hub_name(model) else Path(model)
    own = path / OWN_FILE
    return (own if own.is_file() else path / "model.safetensors") if path.is_dir() else path


class Predictor:
    """A trained model that predicts recordings. Research software, not a medical device.

    `engine` is an inference engine or its name; "exact" and "auto" select one (`lungsound.inference.engines`). `path`
    is the model file; the measurements of `lungsound export` lie beside it, by which "auto" may select more than exact
    engines. `find_by` tells where cycles come from: the "annotation" beside the file, "segmentation" into breathing
    cycles, sliding "windows", or "auto": the first of them that there is.
    """

    def __init__(
        self,
        trained: TrainedModel,
        *,
        device: str = "cpu",
        engine: str | Engine = AUTO,
        path: Path | None = None,
        find_by: FindBy = "auto",
    ) -> None:
        self.trained = trained
        self.device = _device(device)
        self.path = path
        self.find_by = find_by
        if isinstance(engine, str):
            engine = select(engine, trained, folder=None if path is None else path.parent, device=self.device)
        self.engine = engine

    @classmethod
    def load(
        cls, model: str | Path = BOX, *, device: str = "cpu", engine: str = AUTO, find_by: FindBy = "auto"
    ) -> "Predictor":
        """Load the model in the box, or from a run folder, an export to hf, a model file, or the Hub (hf://OWNER/NAME)."""
        file = find_model(model)
        return cls(load_model(file), device=device, engine=engine, path=file, find_by=find_by)

    def __repr__(self) -> str:
        probabilities = "calibrated" if self.is_calibrated else "not calibrated"
        return (
            f"<Predictor {self.name}: {', '.join(self.classes)}; {self.engine.name} on {self.device}, {probabilities}>"
        )

    @property
    def name(self) -> str:
        """Path of the model file, or the distribution of the model in the box."""
        if self.path is None:
            return IN_MEMORY
        return BOX_DISTRIBUTION if self.path.parent.name == BOX_PACKAGE else str(self.path)

    @property
    def is_calibrated(self) -> bool:
        """True when the model file holds a calibration."""
        return self.trained.calibration is not None

    @property
    def scaling(self) -> str | None:
        """Effect of the calibration on the model's probabilities, in words; None without a calibration."""
        return None if self.trained.calibration is None else self.trained.calibration.scaling

    @property
    def evidence(self) -> str:
        """One line on whom the model was trained and measured, to stand before its predictions."""
        return statement(self.trained.evidence)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.trained.label_set.classes

    def predict(
        self,
        recording: str | Path,
        *,
        spans_s: Sequence[tuple[float, float]] | None = None,
        patient: str | None = None,
        stethoscope: str | None = None,
        age_years: float | None = None,
    ) -> RecordingPrediction:
        """Predict the cycles of a recording, and the recording as their aggregate.

        Cycles with too little sound are left out: any prediction for them would be a guess. With `spans_s` (start, end)
        all of these are predicted in place of the cycles, those without sound as uncertain. `patient` is a pseudonym,
        `stethoscope` is what recorded it, `age_years` the patient's age: outside of what the model was measured on a
        prediction is withheld. Raises AudioError or AnnotationError.
        """
        loaded = load_recording(Path(recording), self.trained.front_end, find_by=self.find_by, spans_s=spans_s)
        return self.predict_loaded(loaded, patient, stethoscope, age_years)

    def load_recording(self, path: Path) -> LoadedRecording:
        """Load the cycles with sound for `predict_loaded`; several threads may do it at once."""
        return load_recording(path, self.trained.front_end, find_by=self.find_by)

    def predict_together(self, recordings: Sequence[LoadedRecording]) -> list[Outputs]:
        """The engine's outputs for the stretches of each recording, computed together with all of like length."""
        sounds = [stretch.sound for each in recordings for stretch in each.stretches]
        probabilities, features = self.engine.predict(sounds)
        ends = list(accumulate(len(each.stretches) for each in recordings))
        spans = [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]
        return [(probabilities[span], features[span]) for span in spans]

    def predict_loaded(
        self,
        loaded: LoadedRecording,
        patient: str | None = None,
        stethoscope: str | None = None,
        age_years: float | None = None,
        *,
        outputs: Outputs | None = None,
    ) -> RecordingPrediction:
        """Predict each stretch of a loaded recording, and the recording as the aggregate of those with sound.

        outputs: those of `predict_together`, where this recording was among several.
        """
        stretches, domain, calibration = loaded.stretches, self.trained.domain, self.trained.calibration
        computed, features = outputs or self.predict_together([loaded])[0]
        spectral = features[:, -2 * self.trained.front_end.audio.num_mels :]
        scores = domain.scores(spectral).tolist() if domain is not None and stretches else []

        def stopped(gate: Gate | None) -> list[bool]:
            return gate.stops(features).tolist() if gate is not None and stretches else [False] * len(stretches)

        is_other = stopped(self.trained.gate)
        threshold, abstain = self.trained.normal_threshold, None if calibration is None else calibration.abstain
        least_confidence = None if abstain is None else abstain.threshold
        for_all = reasons_of_model(self.trained, age_years=age_years, stethoscope=stethoscope)
        for_all |= reasons_of_remarks(loaded.quality) | ({Reason.NO_BREATHING} if loaded.is_steady else set())
        # One stethoscope made all of a recording: half its cycles tell. Where it is stated, its own evidence counts.
        is_sounding = [not stretch.is_silent for stretch in stretches]
        is_doubted = list(compress(stopped(self.trained.doubted), is_sounding))
        if stethoscope is None and is_doubted and 2 * sum(is_doubted) >= len(is_doubted):
            for_all.add(Reason.NOT_BETTER_THAN_NORMAL)
        given = computed.astype(float)
        probabilities, predicted = given, given.argmax(axis=1)
        sets, is_abstained = np.zeros(given.shape, np.bool_), np.zeros(len(given), np.bool_)
        if calibration is not None:
            probabilities, predicted = calibration.apply(given), calibration.predicted(given)
            sets, is_abstained = calibration.prediction_set(given), calibration.is_abstaining(given)
        cycles = []
        for place, stretch in enumerate(stretches):
            possible = tuple(compress(self.classes, sets[place]))
            own = {
                Reason.SILENT_CYCLE: stretch.is_silent,
                Reason.NO_BREATHING: is_other[place],
                Reason.OUT_OF_DOMAIN: bool(scores) and scores[place] == HIGHEST_SCORE,
                Reason.ALL_CLASSES_POSSIBLE: possible == self.classes,
                Reason.LOW_CONFIDENCE: is_abstained[place],
            }
            reasons = Reason.in_order([*for_all, *(reason for reason, is_so in own.items() if is_so)])
            best_guess, times_s = self.classes[int(predicted[place])], (stretch.start_s, stretch.end_s)
            shares = dict(zip(self.classes, probabilities[place].tolist(), strict=True))
            cycle = CyclePrediction(*times_s, best_guess, shares, reasons, possible, threshold, least_confidence)
            cycles.append(cycle)
        sounding_scores, remarks = list(compress(scores, is_sounding)), list(loaded.quality)
        score = float(np.median(sounding_scores)) if sounding_scores else None
        if score is not None and score >= HIGH_SCORE:
            remarks.append(UNLIKE)
        trained_on = {name.casefold() for name in self.trained.devices}
        if trained_on and (stethoscope is None or stethoscope.casefold() not in trained_on):
            remarks.append(STETHOSCOPE_NOT_STATED if stethoscope is None else OTHER_STETHOSCOPE)
        if age_years is None and any(group.ages_years for group in self.trained.groups):
            remarks.append(AGE_NOT_STATED)
        return RecordingPrediction(
            path=loaded.path,
            duration_s=loaded.duration_s,
            sample_rate_hz=loaded.sample_rate_hz,
            cycles_from=loaded.cycles_from,
            cycles=tuple(cycles),
            aggregate=aggregate_cycles(list(compress(cycles, is_sounding)), duration_s=loaded.duration_s),
            patient=patient,
            stethoscope=stethoscope,
            age_years=age_years,
            quality=tuple(remarks),
            out_of_domain=score,
        )

    def provenance(self, created: datetime) -> Provenance:
        """Provenance of predictions made at `created`, which needs a time zone."""
        front_end, calibration = self.trained.front_end, self.trained.calibration
        kept = {"domain": self.trained.domain, "gate": self.trained.gate, "doubted": self.trained.doubted}
        return Provenance(
            model_sha256=self.trained.sha256,
            model=self.name,
            evidence=self.evidence,
            label_set=self.trained.label_set,
            band_hz=(0.0, front_end.sample_rate_hz / 2),
            settings={
                "engine": self.engine.name,
                "device": self.device,
                "cycles": self.find_by,
                **{name: None if each is None else each.id for name, each in kept.items()},
            },
            calibration=None if calibration is None else calibration.id,
            lungsound_version=version("lungsound"),
            created=created,
        )
