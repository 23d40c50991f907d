"""The predictor: a recording in, labelled cycles out."""

from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from itertools import compress
from pathlib import Path

from lungsound.inference.engines import AUTO, Engine, select
from lungsound.inference.prediction import CyclePrediction, Provenance, RecordingPrediction, aggregate_cycles
from lungsound.inference.recording import FindBy, LoadedRecording, load_recording
from lungsound.inference.withholding import HIGHEST_SCORE, is_withheld, remark_on_device, remark_on_score, score_of
from lungsound.models.classifier import find_device
from lungsound.models.hub import OWN_FILE, download_model, is_hub_name
from lungsound.training.checkpoint import TrainedModel, load_model


def find_model(model: str | Path) -> Path:
    """File of a model: in a run folder or an export to hf, the file itself, or downloaded (hf://OWNER/NAME)."""
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
        self.device = find_device(device)
        self.path = path
        self.find_by = find_by
        if isinstance(engine, str):
            engine = select(engine, trained, folder=None if path is None else path.parent, device=self.device)
        self.engine = engine

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "cpu", engine: str = AUTO, find_by: FindBy = "auto"
    ) -> "Predictor":
        """Load from a run folder, the folder of an export to hf, a model file, or a name on the Hub (hf://OWNER/NAME)."""
        file = find_model(model)
        return cls(load_model(file), device=device, engine=engine, path=file, find_by=find_by)

    def __repr__(self) -> str:
        probabilities = "calibrated" if self.is_calibrated else "not calibrated"
        return (
            f"<Predictor {self._name}: {', '.join(self.classes)}; {self.engine.name} on {self.device}, {probabilities}>"
        )

    @property
    def _name(self) -> str:
        return "a model in memory" if self.path is None else str(self.path)

    @property
    def is_calibrated(self) -> bool:
        """True when the model file holds a calibration."""
        return self.trained.calibration is not None

    @property
    def scaling(self) -> str | None:
        """Effect of the calibration on the model's probabilities, in words; None without a calibration."""
        return None if self.trained.calibration is None else self.trained.calibration.scaling

    @property
    def classes(self) -> tuple[str, ...]:
        return self.trained.label_set.classes

    def predict(
        self,
        recording: str | Path,
        *,
        spans_s: Sequence[tuple[float, float]] | None = None,
        patient: str | None = None,
        device: str | None = None,
    ) -> RecordingPrediction:
        """Predict the cycles of a recording, and the recording as their aggregate.

        Cycles with too little sound are left out: any prediction for them would be a guess. With `spans_s` (start, end)
        all of these are predicted in place of the cycles, those without sound as uncertain. `patient` is a pseudonym,
        `device` is what recorded it. For what else is withheld or remarked on see `lungsound.inference.withholding`.
        Raises AudioError or AnnotationError.
        """
        loaded = load_recording(Path(recording), self.trained.front_end, find_by=self.find_by, spans_s=spans_s)
        return self.predict_loaded(loaded, patient, device)

    def load_recording(self, path: Path) -> LoadedRecording:
        """Load the cycles with sound for `predict_loaded`; several threads may do it at once."""
        return load_recording(path, self.trained.front_end, find_by=self.find_by)

    def predict_loaded(
        self, loaded: LoadedRecording, patient: str | None = None, device: str | None = None
    ) -> RecordingPrediction:
        """Predict each stretch of a loaded recording, and the recording as the aggregate of those with sound."""
        stretches, domain, calibration = loaded.stretches, self.trained.domain, self.trained.calibration
        outputs, features = self.engine.predict([stretch.waveform for stretch in stretches])
        scores = domain.scores(features).tolist() if domain is not None and stretches else []
        is_recording_withheld = is_withheld(loaded.quality)
        cycles = []
        for place, (stretch, row) in enumerate(zip(stretches, outputs.astype(float), strict=True)):
            is_unlike = bool(scores) and scores[place] == HIGHEST_SCORE
            is_uncertain = is_recording_withheld or stretch.is_silent or is_unlike
            possible: tuple[str, ...] = ()
            probabilities, best_guess = row, self.classes[int(row.argmax())]
            if calibration is not None:
                probabilities = calibration.apply(row)
                is_uncertain = is_uncertain or bool(calibration.is_abstaining(row))
                possible = tuple(compress(self.classes, calibration.prediction_set(row)))
            shares = dict(zip(self.classes, probabilities.tolist(), strict=True))
            cycles.append(CyclePrediction(stretch.start_s, stretch.end_s, best_guess, shares, is_uncertain, possible))
        is_sounding = [not stretch.is_silent for stretch in stretches]
        score = score_of(list(compress(scores, is_sounding)))
        return RecordingPrediction(
            path=loaded.path,
            duration_s=loaded.duration_s,
            sample_rate_hz=loaded.sample_rate_hz,
            cycles_from=loaded.cycles_from,
            cycles=tuple(cycles),
            aggregate=aggregate_cycles(list(compress(cycles, is_sounding)), duration_s=loaded.duration_s),
            patient=patient,
            device=device,
            quality=(*loaded.quality, *remark_on_score(score), *remark_on_device(device, self.trained.devices)),
            out_of_domain=score,
        )

    def provenance(self, created: datetime) -> Provenance:
        """Provenance of predictions made at `created`, which needs a time zone."""
        front_end, calibration, domain = self.trained.front_end, self.trained.calibration, self.trained.domain
        return Provenance(
            model_sha256=self.trained.sha256,
            model=self._name,
            label_set=self.trained.label_set,
            band_hz=(0.0, front_end.sample_rate_hz / 2),
            settings={
                "engine": self.engine.name,
                "device": str(self.device),
                "cycles": self.find_by,
                "domain": None if domain is None else domain.id,
            },
            calibration=None if calibration is None else calibration.id,
            lungsound_version=version("lungsound"),
            created=created,
        )
