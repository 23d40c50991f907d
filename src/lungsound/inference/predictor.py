"""A recording in, labelled cycles out."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

from lungsound.evaluation.out_of_domain import Floats, spectral_features
from lungsound.inference.engines import AUTO, Engine, choose
from lungsound.inference.prediction import CycleAnswer, Provenance, RecordingAnswer, whole_recording
from lungsound.inference.recording import FindBy, Heard, listen
from lungsound.inference.withholding import (
    HIGHEST_SCORE,
    SILENT_CYCLES,
    is_withheld,
    remark_on_device,
    remark_on_score,
    score_of,
)
from lungsound.models.hub import OWN_FILE, download_model, is_hub_name
from lungsound.training import trainer as training
from lungsound.training.checkpoint import TrainedModel, load_model


class Predictor:
    """A trained model that answers for recordings. Research software, not a medical device.

    `engine` is what computes: a name, of which "exact" and "auto" choose (`lungsound.inference.engines`), or an engine.
    `path`, that of the model file, names it; what `lungsound export` measured lies beside it, by which "auto" may take
    more than exact engines. `find_by` says how cycles are found: by the "annotation" beside the file, by "segmentation"
    into breathing cycles, as "windows", or "auto": the first of them that there is.
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
        self.device = training.device(device)
        self.path = path
        self.find_by = find_by
        if isinstance(engine, str):
            engine = choose(engine, trained, folder=None if path is None else path.parent, device=self.device)
        self.engine = engine

    @classmethod
    def load(cls, run: str | Path, *, device: str = "cpu", engine: str = AUTO, find_by: FindBy = "auto") -> "Predictor":
        """From the folder of a run or of an export to hf, a model file, or a name on the Hub (hf://OWNER/NAME)."""
        path = download_model(run) if isinstance(run, str) and is_hub_name(run) else Path(run)
        own = path / OWN_FILE
        file = (own if own.is_file() else path / "model.safetensors") if path.is_dir() else path
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
        """Whether the model keeps what was learnt on validation patients."""
        return self.trained.calibration is not None

    @property
    def is_scaled(self) -> bool:
        """Whether that changes the model's probabilities; few patients, or honest probabilities, give no scaling."""
        return self.trained.calibration is not None and self.trained.calibration.scaling.method != "none"

    @property
    def scaling(self) -> str | None:
        """What calibration does to the model's probabilities, in words; None for a model without any."""
        return None if self.trained.calibration is None else self.trained.calibration.scaling.in_words

    @property
    def classes(self) -> tuple[str, ...]:
        return self.trained.label_set.classes

    def predict(
        self, recording: str | Path, *, spans_s: Sequence[tuple[float, float]] | None = None
    ) -> list[CycleAnswer]:
        """An answer for each stretch of a recording: `spans_s` (start, end) in their order, by default its cycles.

        `said` is what an answer says, "uncertain" included; `answer` the class alone. Raises AudioError or
        AnnotationError.
        """
        heard = listen(Path(recording), self.trained.front_end, find_by=self.find_by, spans_s=spans_s)
        return self._cycles(heard, self._scores(heard))

    def answer(
        self, recording: str | Path, *, patient: str | None = None, device: str | None = None
    ) -> RecordingAnswer:
        """The answer for a recording, with its cycles and what is wrong with it; errors as `predict`."""
        return self.answer_heard(self.listen(recording), patient=patient, device=device)

    def listen(self, recording: str | Path) -> Heard:
        """What `answer` does before the model is asked; several threads may do it at once."""
        return listen(Path(recording), self.trained.front_end, find_by=self.find_by)

    def answer_heard(self, heard: Heard, *, patient: str | None = None, device: str | None = None) -> RecordingAnswer:
        """The answer for what was heard; `device` is what it was recorded with.

        Cycles with too little sound are left out: nothing said of them could be more than a guess. For what else
        answers are withheld, and what is remarked on: `lungsound.inference.withholding`.
        """
        sounding = heard.sounding()
        scores = self._scores(sounding)
        cycles = self._cycles(sounding, scores)
        score = score_of([each for each in scores if each is not None])
        is_partly_silent = 0 < len(cycles) < len(heard.spans_s)
        return RecordingAnswer(
            path=heard.path,
            duration_s=heard.duration_s,
            sample_rate_hz=heard.sample_rate_hz,
            cycles_from=heard.cycles_from,
            cycles=tuple(cycles),
            whole=whole_recording(cycles, duration_s=heard.duration_s),
            patient=patient,
            device=device,
            quality=(
                *heard.quality,
                *([SILENT_CYCLES] if is_partly_silent else []),
                *remark_on_score(score),
                *remark_on_device(device, self.trained.devices),
            ),
            out_of_domain=score,
        )

    def provenance(self, created: datetime) -> Provenance:
        """What made the answers; `created` needs a time zone."""
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

    def _scores(self, heard: Heard) -> list[float | None]:
        """Out-of-domain score of each cycle; None without sound, and when the model keeps nothing to compare with."""
        domain, front_end = self.trained.domain, self.trained.front_end
        if domain is None or not heard.waveforms:
            return [None] * len(heard.waveforms)
        fbanks = (front_end.filter_banks_of([waveform]).numpy() for waveform in heard.waveforms)
        features: Floats = np.concatenate([spectral_features(fbank) for fbank in fbanks])
        scores = domain.scores(features).tolist()
        return [None if is_silent else each for each, is_silent in zip(scores, heard.is_silent, strict=True)]

    def _cycles(self, heard: Heard, scores: Sequence[float | None]) -> list[CycleAnswer]:
        if not heard.spans_s:
            return []
        is_doubtful = is_withheld(heard.quality)
        answers = [
            self._answer(start_s, end_s, row)
            for (start_s, end_s), row in zip(heard.spans_s, self.engine.answer(heard.waveforms), strict=True)
        ]
        return [
            replace(answer, is_uncertain=True) if is_doubtful or is_silent or score == HIGHEST_SCORE else answer
            for answer, is_silent, score in zip(answers, heard.is_silent, scores, strict=True)
        ]

    def _answer(self, start_s: float, end_s: float, probabilities: Tensor) -> CycleAnswer:
        answer = self.classes[int(probabilities.argmax())]
        calibration, given = self.trained.calibration, probabilities.double().numpy()
        if calibration is None:
            return CycleAnswer(start_s, end_s, answer, dict(zip(self.classes, given.tolist(), strict=True)))
        possible = zip(self.classes, calibration.prediction_set(given), strict=True)
        return CycleAnswer(
            start_s,
            end_s,
            answer,
            dict(zip(self.classes, calibration.apply(given).tolist(), strict=True)),
            is_uncertain=bool(calibration.is_abstaining(given)),
            possible=tuple(name for name, is_in in possible if is_in),
        )
