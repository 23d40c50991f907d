"""A recording in, labelled cycles out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lungsound.build import training
from lungsound.checkpoint import TrainedModel, load_model
from lungsound.data.icbhi import read_annotation
from lungsound.engines.choice import AUTO, choose
from lungsound.engines.engine import Engine

LEAST_WINDOW_S = 0.5  # a shorter rest at the end of a recording is left out


@dataclass(frozen=True)
class CycleAnswer:
    """What the model says of one stretch of a recording; probabilities by class name.

    When the model keeps a calibration (`Predictor.is_calibrated`), `is_uncertain` says that the answer is better
    withheld, `possible` holds the classes that cannot be ruled out at 90 %, and the probabilities are scaled by it,
    if at all (`Predictor.is_scaled`).
    """

    start_s: float
    end_s: float
    answer: str
    probabilities: dict[str, float]
    is_uncertain: bool = False
    possible: tuple[str, ...] = ()


class Predictor:
    """A trained model that answers for recordings. Research software, not a medical device.

    `engine` is what computes: a name, of which "exact" and "auto" choose (`lungsound.engines.choice`), or an engine.
    `folder`, that of the model file, holds what `lungsound export` measured, by which "auto" may take more than
    exact ones.
    """

    def __init__(
        self, trained: TrainedModel, *, device: str = "cpu", engine: str | Engine = AUTO, folder: Path | None = None
    ) -> None:
        self.trained = trained
        self.device = training.device(device)
        if isinstance(engine, str):
            engine = choose(engine, trained, folder=folder, device=self.device)
        self.engine = engine

    @classmethod
    def load(cls, run: str | Path, *, device: str = "cpu", engine: str = AUTO) -> "Predictor":
        """From the folder of a run, or from its model.safetensors."""
        path = Path(run)
        file = path / "model.safetensors" if path.is_dir() else path
        return cls(load_model(file), device=device, engine=engine, folder=file.parent)

    @property
    def is_calibrated(self) -> bool:
        """Whether the model keeps what was learnt on validation patients."""
        return self.trained.calibration is not None

    @property
    def is_scaled(self) -> bool:
        """Whether that changes the model's probabilities; few patients, or honest probabilities, give no scaling."""
        return self.trained.calibration is not None and self.trained.calibration.scaling.method != "none"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.trained.label_set.classes

    def predict(
        self, recording: str | Path, *, spans_s: Sequence[tuple[float, float]] | None = None
    ) -> list[CycleAnswer]:
        """An answer for each stretch of a recording, in time order.

        `spans_s` are the stretches as (start, end) in seconds. By default they are the cycles of the annotation
        beside the recording (`<name>.txt`; its labels are not looked at), or, when there is none, windows of the
        model's input length one after the other. Raises AudioError or AnnotationError.
        """
        path = Path(recording)
        front_end = self.trained.front_end
        waveform = front_end.read(path)
        if spans_s is None:
            spans_s = self.annotated_spans(path)
        if spans_s is None:
            spans_s = windows(len(waveform) / front_end.sample_rate_hz, front_end.duration_s)
        if not spans_s:
            return []
        cycles = [front_end.cut(waveform, start_s=start_s, end_s=end_s) for start_s, end_s in spans_s]
        probabilities = self.engine.answer(cycles)
        return [self._answer(start_s, end_s, row) for (start_s, end_s), row in zip(spans_s, probabilities, strict=True)]

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

    @staticmethod
    def annotated_spans(recording: Path) -> list[tuple[float, float]] | None:
        """Start and end (s) of the cycles in the annotation beside a recording; None when there is none."""
        annotation = recording.with_suffix(".txt")
        if not annotation.is_file():
            return None
        return sorted((start_s, end_s) for _, (start_s, end_s, _, _) in read_annotation(annotation))


def windows(duration_s: float, window_s: float) -> list[tuple[float, float]]:
    """Windows of `window_s` one after the other; the last is what is left, unless that is under half a second."""
    spans: list[tuple[float, float]] = []
    start_s = 0.0
    while not spans or duration_s - start_s >= LEAST_WINDOW_S:
        spans.append((start_s, min(start_s + window_s, duration_s)))
        start_s += window_s
    return spans
