"""Callbacks of a training: the evaluation after each epoch with checkpoint selection, and the progress bar."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray

from lungsound.config import RunConfig, TrainSettings
from lungsound.data.batches import Inputs
from lungsound.data.corpus import Corpus
from lungsound.data.splits import VALIDATION, Parts
from lungsound.evaluation.calibration import fit_calibration
from lungsound.evaluation.evidence import Evidence
from lungsound.evaluation.metrics import IcbhiScore, confusion_matrix, icbhi_score
from lungsound.evaluation.out_of_domain import fit_domain, spectral_features
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.selection import COLUMN_OF, LAST, TEST
from lungsound.files import hash_file
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import LungSoundClassifier, predict_cycles
from lungsound.progress import OnProgress, ProgressDisplay, Stage
from lungsound.ranks import ALONE, Alone
from lungsound.training.model_file import Kept, add_to_model, save_model
from lungsound.training.run import RunFolder
from lungsound.training.trainer import Listener, Progress, TrainStep


@dataclass(eq=False)
class EpochEvaluation:
    """Evaluate after each epoch and keep the best checkpoint."""

    config: RunConfig
    run: RunFolder
    step: TrainStep
    corpus: Corpus
    inputs: Inputs
    parts: Parts
    display: ProgressDisplay

    def __post_init__(self) -> None:
        self.label_set = LABEL_SETS[self.config.data.label_set]
        self.column = COLUMN_OF[self.config.train.selection]
        is_test_watched = self.config.train.is_test_watched or self.column == TEST
        self.watched = {VALIDATION: self.parts.validation, TEST: self.parts.test if is_test_watched else ()}
        self.latest: Predictions | None = None

    def evaluate(self) -> dict[str, IcbhiScore]:
        """Scores of the watched parts by name, with the weights as they stand; the predictions are there for `keep`."""
        self.latest = None
        scores: dict[str, IcbhiScore] = {}
        if rows := [row for part in self.watched.values() for row in part]:
            self.latest, first = self._predict(rows), 0
            for name, part in self.watched.items():
                chosen, first = slice(first, first + len(part)), first + len(part)
                labels, predicted = self.latest.labels[chosen], self.latest.predicted[chosen]
                if part:
                    scores[name] = icbhi_score(confusion_matrix(labels, predicted, self.label_set.num_classes))
        return scores

    def keep(self, column: str) -> None:
        """Write the predictions as this column of the report; the model too, when the run selects by it."""
        predictions = self._predict_columns()
        if not self.step.ranks.is_first:
            return
        self.run.write_column(column, predictions)
        if column == self.column:
            self._save_model()

    def finish(self, progress: Progress) -> None:
        """Write the column of the last epoch, and complete the model file in one go, with all that it keeps."""
        predictions = self._predict_columns()
        if not self.step.ranks.is_first:
            return
        self.run.write_column(LAST, predictions)
        is_kept = self.column in progress.best_epochs  # else no epoch could be chosen, or the last one is
        kept, calibration, held_out = self.column if is_kept else LAST, None, None
        is_threshold_chosen = self.config.train.is_threshold_chosen
        for column, predictions in self.run.columns().items():
            # The scaling keeps the most probable class: the scores of the report are those of the calibrated model too.
            to_calibrate = predictions.to_calibrate()
            if to_calibrate is not None and (column == kept or is_threshold_chosen):
                validation = predictions.of_part(VALIDATION) if is_threshold_chosen else None
                fitted = fit_calibration(to_calibrate, threshold_on=validation)
                if column == kept:
                    calibration, held_out = fitted, fitted.decided(to_calibrate)
                if is_threshold_chosen:  # each column of the report by the threshold of its own epoch
                    self.run.write_column(column, fitted.decided(predictions))
        # The domain is that of the training cycles as they are, without augmentation.
        patients = [self.corpus.cycles[row].recording.patient for row in self.parts.train]
        others = self._spectral_features(self.parts.calibration) if self.parts.calibration else None
        generator = np.random.default_rng(0)
        domain = fit_domain(self._spectral_features(self.parts.train), patients, others, generator=generator)
        evidence = Evidence.of(self.corpus, self.parts.train, held_out)
        made = hash_file(self.run.column(kept))
        facts = Kept(calibration=calibration, domain=domain, evidence=evidence, predictions_sha256=made)
        if is_kept:
            add_to_model(self.run.model, **facts)
        else:
            self._save_model(**facts)

    def _spectral_features(self, rows: Sequence[int]) -> NDArray[np.float32]:
        own = self.inputs.num_frames
        num_frames = [None] * len(rows) if own is None else own[list(rows)].tolist()
        fbanks = (self.inputs.fbanks[np.array([row])] for row in rows)
        return np.concatenate([spectral_features(fbank, [num]) for fbank, num in zip(fbanks, num_frames, strict=True)])

    def _save_model(self, **kept: Unpack[Kept]) -> None:
        save_model(
            self.run.model,
            self.step.evaluated_model,
            audio=self.config.audio,
            architecture=self.config.model,
            mean=self.inputs.mean,
            std=self.inputs.std,
            label_set=self.label_set,
            devices=sorted({self.corpus.cycles[row].recording.device or "" for row in self.parts.train} - {""}),
            **kept,
        )

    def _predict_columns(self) -> Predictions:
        """Predictions of all held-out and test cycles, which the columns of the report hold."""
        rows = (*self.parts.validation, *self.parts.calibration, *self.parts.test)
        if self.latest is None or len(self.latest.keys) < len(rows):
            self.latest = self._predict(rows)
        return self.latest

    def _predict(self, rows: Sequence[int]) -> Predictions:
        with self.display.stage("evaluation") as stage:
            return predict_rows(
                self.step.evaluated_model,
                self.corpus,
                self.inputs,
                rows,
                batch_size=self.config.train.batch_size,
                device=self.step.device,
                on_progress=stage.update,
                held_out=self.parts.held_out,
                ranks=self.step.ranks,
            )


class ProgressBar(Listener):
    """Loss, score, speed and time left after each step, and a line for each epoch."""

    def __init__(self, display: ProgressDisplay, stage: Stage, train: TrainSettings) -> None:
        self.display, self.stage, self.train = display, stage, train

    def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
        del learning_rate
        done = (progress.epoch - 1) * num_steps + progress.step
        loss, score = progress.mean_losses()["loss"], 100 * progress.training_score().score
        text = f"epoch {progress.epoch}/{self.train.epochs}  loss {loss:.3f}  training Score {score:.1f}"
        cycles_per_second = self.stage.per_second(done) * self.train.batch_size * self.train.num_accumulated_batches
        self.stage.text = f"{text}  {cycles_per_second:.1f} cycles/s" if cycles_per_second else text
        self.stage.update(done, self.train.epochs * num_steps)

    def on_epoch(self, progress: Progress) -> None:
        row = progress.history[-1]
        scores = {name.removesuffix("_score"): value for name, value in row.items() if name.endswith("_score")}
        shown = "  ".join(
            f"{name} Score {'n/a' if math.isnan(value) else f'{100 * value:.2f}'}" for name, value in scores.items()
        )
        spent = ", ".join(f"{name} {row[f'{name}_seconds']:.1f}" for name in ("data", "compute", "host"))
        epoch = f"epoch {row['epoch']:>3}/{self.train.epochs}"
        self.display.print(f"{epoch}  loss {row['loss']:.4f}  {shown}  {row['seconds']:.1f} s ({spent})")


def predict_rows(
    model: LungSoundClassifier,
    corpus: Corpus,
    inputs: Inputs,
    rows: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    on_progress: OnProgress,
    held_out: Mapping[int, str] | None = None,
    ranks: Alone = ALONE,
) -> Predictions:
    """Predict cycles of a corpus in float32; the part of a row is that in `held_out`, else as the corpus is split."""
    own = rows[ranks.own(len(rows))]
    batches = inputs.to_predict(own, batch_size)
    given, _ = predict_cycles(model, batches, device=device, on_progress=lambda n: on_progress(n, len(own)))
    probabilities = ranks.gather(torch.from_numpy(given), len(rows)).numpy()
    cycles = [corpus.cycles[row] for row in rows]
    return Predictions(
        keys=tuple(cycle.key for cycle in cycles),
        patients=tuple(cycle.recording.patient for cycle in cycles),
        devices=tuple(cycle.recording.device or "" for cycle in cycles),
        parts=tuple(
            (held_out or {}).get(row, corpus.split.get(cycle.recording.name, ""))
            for row, cycle in zip(rows, cycles, strict=True)
        ),
        labels=inputs.labels[list(rows)].numpy(),
        probabilities=probabilities.astype(np.float64),
        classes=model.classes,
    )
