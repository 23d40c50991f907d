"""The training loop: epochs of steps, scores after each, the best of them, checkpoints, interruption."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from lungsound.data.dataset import CycleBatches
from lungsound.errors import LungsoundError
from lungsound.evaluation.columns import LEAST_SENSITIVITY
from lungsound.evaluation.metrics import IcbhiScore, confusion_matrix, icbhi_score
from lungsound.randomness import generator_at
from lungsound.training.objectives import Loss
from lungsound.training.optim import Schedule
from lungsound.training.step import TrainStep

Row = dict[str, float]


class RunInterrupted(LungsoundError):
    """The run was asked to stop; its checkpoint is written."""

    exit_code = 130


class RunDiverged(LungsoundError):
    """The loss is not a finite number any more; the last checkpoint is older than that."""


@dataclass
class Progress:
    """Where a run stands: all that a resumed run needs beside weights and optimizer moments."""

    epoch: int = 1
    step: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)
    confusion: list[list[int]] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    best_scores: dict[str, float] = field(default_factory=dict)
    best_epochs: dict[str, int] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Progress":
        return cls(**values)

    def training_score(self) -> IcbhiScore:
        """Score on the training cycles of the epoch so far, of the labelled view as it was trained."""
        return icbhi_score(np.asarray(self.confusion))

    def mean_losses(self) -> dict[str, float]:
        return {name: total / max(1, self.step) for name, total in self.loss_sums.items()}

    def record(self, loss: Loss, labels: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        for name, part in {"loss": loss.total, **loss.parts}.items():
            self.loss_sums[name] = self.loss_sums.get(name, 0.0) + float(part)
        answers = loss.logits.argmax(1).cpu().numpy()
        counts = confusion_matrix(labels, answers, loss.logits.shape[1])
        self.confusion = (counts + np.asarray(self.confusion) if self.confusion else counts).tolist()

    def end_epoch(self, row: Row) -> None:
        self.history.append(row)
        self.epoch, self.step, self.loss_sums, self.confusion = self.epoch + 1, 0, {}, []


class Listener:
    """What a run tells while it goes on; does nothing by itself."""

    def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
        """After each step; `progress.step` counts it."""

    def on_epoch(self, progress: Progress) -> None:
        """After each epoch; its row is the last of `progress.history`."""


class Trainer:
    """Runs epochs from where `progress` stands.

    `watch` gives the scores of the watched parts after an epoch, by name; `save` writes a checkpoint; `keep` is
    called with the name of a part whose score is the best so far.
    """

    def __init__(
        self,
        step: TrainStep,
        schedule: Schedule,
        batches: CycleBatches,
        *,
        seed: int,
        watch: Callable[[], Mapping[str, IcbhiScore]],
        save: Callable[[Progress], None],
        keep: Callable[[str], None],
        checkpoint_every_steps: int = 200,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self.step = step
        self.schedule = schedule
        self.batches = batches
        self.seed = seed
        self.watch = watch
        self.save = save
        self.keep = keep
        self.checkpoint_every_steps = checkpoint_every_steps
        self.listeners = listeners

    def fit(self, epochs: int, progress: Progress) -> Progress:
        """Train until `epochs` are done. Raises RunInterrupted after SIGINT or SIGTERM, the checkpoint written."""
        with _stop_requests() as is_stop_requested:
            while progress.epoch <= epochs:
                began_s = time.perf_counter()
                for _ in self._steps(progress):
                    if is_stop_requested():
                        self.save(progress)
                        raise RunInterrupted(
                            f"stopped in epoch {progress.epoch} after step {progress.step}; "
                            "the same command with --resume goes on from there"
                        )
                    if progress.step % self.checkpoint_every_steps == 0:
                        self.save(progress)
                self._end_epoch(progress, began_s)
                self.save(progress)
        return progress

    def _steps(self, progress: Progress) -> Iterator[None]:
        epoch, num_steps = progress.epoch, self.batches.num_steps
        for batch in self.batches.epoch(epoch, first_step=progress.step):
            learning_rate = self.schedule.at(epoch, progress.step, num_steps=num_steps)
            generator = generator_at(self.seed, "patch-mix", epoch, progress.step)
            loss = self.step(batch, learning_rate=learning_rate, generator=generator)
            progress.step += 1
            progress.record(loss, batch.labels.numpy())
            if not math.isfinite(progress.loss_sums["loss"]):
                raise RunDiverged(
                    f"the loss of step {progress.step} in epoch {epoch} is not a finite number: "
                    "take a lower train.learning_rate or train.precision=fp32"
                )
            for listener in self.listeners:
                listener.on_step(progress, num_steps=num_steps, learning_rate=learning_rate)
            yield

    def _end_epoch(self, progress: Progress, began_s: float) -> None:
        epoch, num_steps = progress.epoch, self.batches.num_steps
        row: Row = {
            "epoch": epoch,
            "learning_rate": self.schedule.at(epoch, num_steps - 1, num_steps=num_steps),
            **progress.mean_losses(),
            "training_score": progress.training_score().score,
        }
        for name, score in self.watch().items():
            values = {"specificity": score.specificity, "sensitivity": score.sensitivity, "score": score.score}
            row |= {f"{name}_{which}": value for which, value in values.items()}
            if score.sensitivity > LEAST_SENSITIVITY and score.score > progress.best_scores.get(name, -1.0):
                progress.best_scores[name], progress.best_epochs[name] = score.score, epoch
                self.keep(name)
        row["seconds"] = time.perf_counter() - began_s
        progress.end_epoch(row)
        for listener in self.listeners:
            listener.on_epoch(progress)


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a request that the loop looks at between steps; a second one stops at once.

    Only the main thread may do so; elsewhere nothing is turned into a request.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requests: list[int] = []

    def request(number: int, frame: FrameType | None) -> None:
        del frame
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    handlers = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(requests)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
