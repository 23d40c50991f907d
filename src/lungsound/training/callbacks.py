"""What a person sees while a run trains: a bar with loss, score, speed and time left; a line for each epoch.

What is answered after each epoch of a run, and what of it is kept: the three ways to choose the epoch.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lungsound.config import RunConfig
from lungsound.data.batches import Inputs
from lungsound.data.corpus import Corpus
from lungsound.data.splits import VALIDATION, Parts
from lungsound.evaluation.metrics import IcbhiScore, confusion_matrix, icbhi_score
from lungsound.evaluation.out_of_domain import Domain, fit_domain, spectral_features
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.selection import LAST, TEST
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import predict_cycles
from lungsound.training.run import RunFolder
from lungsound.training.trainer import Listener, Progress, TrainStep


class ProgressBar(Listener):
    """Draws on a terminal; elsewhere only the line for each epoch is printed."""

    def __init__(self, console: Console, *, epochs: int, cycles_per_step: int) -> None:
        self.console = console
        self.epochs = epochs
        self.cycles_per_step = cycles_per_step
        self.bars = Bars(
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            TextColumn(
                "{task.percentage:3.0f}%  loss {task.fields[loss]:.3f}  training Score {task.fields[score]:.1f}"
            ),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
        del learning_rate
        done = (progress.epoch - 1) * num_steps + progress.step
        fields: dict[str, Any] = {
            "epoch": progress.epoch,
            "loss": progress.mean_losses()["loss"],
            "score": 100 * progress.training_score().score,
        }
        if self.task is None:
            total = self.epochs * num_steps
            self.task = self.bars.add_task("train", total=total, completed=done, speed="", **fields)
            return
        speed = self.bars.tasks[0].speed
        text = f"{speed * self.cycles_per_step:.1f} cycles/s" if speed else ""
        self.bars.update(self.task, completed=done, speed=text, **fields)

    def on_epoch(self, progress: Progress) -> None:
        row = progress.history[-1]
        scores = {name.removesuffix("_score"): value for name, value in row.items() if name.endswith("_score")}
        shown = "  ".join(
            f"{name} Score {'n/a' if math.isnan(value) else f'{100 * value:.2f}'}" for name, value in scores.items()
        )
        spent = ", ".join(f"{name} {row[f'{name}_seconds']:.1f}" for name in ("data", "compute", "host"))
        self.console.print(
            f"epoch {row['epoch']:>3}/{self.epochs}  loss {row['loss']:.4f}  {shown}  {row['seconds']:.1f} s ({spent})",
            highlight=False,
            soft_wrap=True,
        )


# Which column of the report the run's own weights are, by train.selection.
COLUMN_OF = {"last": LAST, "validation": VALIDATION, "best_on_test": TEST}


class Watch:
    """Answers the validation and the test cycles with the weights as they stand; writes what the columns need."""

    def __init__(
        self, config: RunConfig, run: RunFolder, step: TrainStep, corpus: Corpus, inputs: Inputs, parts: Parts
    ) -> None:
        self.run, self.step, self.corpus, self.inputs, self.parts = run, step, corpus, inputs, parts
        self.batch_size = config.train.batch_size
        self.classes = LABEL_SETS[config.data.label_set].classes
        self.column = COLUMN_OF[config.train.selection]
        is_test_watched = config.train.is_test_watched or self.column == TEST
        self.watched = {VALIDATION: parts.validation, TEST: parts.test if is_test_watched else ()}
        self.latest: Predictions | None = None

    def __call__(self) -> dict[str, IcbhiScore]:
        """Scores of the watched parts, by name; also keeps the answers for `keep`."""
        watched = {name: rows for name, rows in self.watched.items() if rows}
        rows = [row for name in watched for row in watched[name]]
        self.latest = self._predict(rows) if rows else None
        scores, first = {}, 0
        for name, part in watched.items():
            assert self.latest is not None
            chosen = slice(first, first + len(part))
            counts = confusion_matrix(self.latest.labels[chosen], self.latest.predicted[chosen], len(self.classes))
            scores[name], first = icbhi_score(counts), first + len(part)
        return scores

    def keep(self, column: str) -> None:
        """Write the answers as this column of the report; the model too, when it is what the run gives."""
        rows = (*self.parts.validation, *self.parts.test)
        if self.latest is None or len(self.latest.keys) < len(rows):
            self.latest = self._predict(rows)
        self.run.write_column(column, self.latest)
        if column == self.column:
            self.save_model()

    def finish(self, best_epochs: Mapping[str, int]) -> None:
        """Write the column of the last epoch; see that there is a model, calibrate it, keep what it was trained on."""
        self.keep(LAST)
        kept = self.column if self.column in best_epochs else LAST
        if kept != self.column:
            self.save_model()
        self.run.calibrate(kept)
        self.run.keep_domain(self._domain())

    def save_model(self) -> None:
        devices = sorted({self.corpus.cycles[row].recording.device or "" for row in self.parts.train} - {""})
        self.run.save_model(self.step.answering, mean=self.inputs.mean, std=self.inputs.std, devices=devices)

    def _domain(self) -> Domain | None:
        """Of the training cycles as they are, without augmentation."""
        rows = np.array(self.parts.train)
        parts = (
            self.inputs.fbanks[rows[first : first + self.batch_size]] for first in range(0, len(rows), self.batch_size)
        )
        features = np.concatenate([spectral_features(fbanks) for fbanks in parts])
        patients = [self.corpus.cycles[row].recording.patient for row in rows]
        return fit_domain(features, patients, generator=np.random.default_rng(0))

    def _predict(self, rows: Sequence[int]) -> Predictions:
        batches = self.inputs.batches(rows, self.batch_size).to_predict()
        probabilities, _ = predict_cycles(self.step.answering, batches, device=self.step.device)
        labels = [self.inputs.labels[row] for row in rows]
        return predictions_of(
            self.corpus, rows, labels, probabilities, classes=self.classes, validation=set(self.parts.validation)
        )


def predictions_of(
    corpus: Corpus,
    rows: Sequence[int],
    labels: Sequence[int],
    probabilities: npt.NDArray[np.float32],
    *,
    classes: tuple[str, ...],
    validation: Collection[int] = (),
) -> Predictions:
    """Answers (cycle, class) for cycles of a corpus, with what they are keyed by; `validation` rows are that part."""
    cycles = [corpus.cycles[row] for row in rows]
    return Predictions(
        keys=tuple(cycle.key for cycle in cycles),
        patients=tuple(cycle.recording.patient for cycle in cycles),
        devices=tuple(cycle.recording.device or "" for cycle in cycles),
        parts=tuple(
            VALIDATION if row in validation else corpus.split.get(cycle.recording.name, "")
            for row, cycle in zip(rows, cycles, strict=True)
        ),
        labels=np.asarray(labels, dtype=np.int64),
        probabilities=probabilities.astype(np.float64),
        classes=classes,
    )
