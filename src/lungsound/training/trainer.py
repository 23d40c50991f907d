"""The training loop: epochs of steps, scores after each, the best of them, checkpoints, interruption."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from types import FrameType
from typing import Any

import numpy as np
import torch

from lungsound.data.dataset import Batch, CycleBatches
from lungsound.errors import LungsoundError
from lungsound.evaluation.columns import LEAST_SENSITIVITY
from lungsound.evaluation.metrics import IcbhiScore, confusion_matrix, icbhi_score
from lungsound.randomness import generator_at
from lungsound.training.objectives import Loss
from lungsound.training.optim import Schedule
from lungsound.training.prefetch import ahead, copy_to_gpu
from lungsound.training.step import TrainStep

Row = dict[str, float]
READ_EVERY_STEPS = 16  # where reading a loss waits for the device


class RunInterrupted(LungsoundError):
    """The run was asked to stop; its checkpoint is written."""

    exit_code = 130


class RunDiverged(LungsoundError):
    """The loss is not a finite number any more; the last checkpoint is older than that."""


@dataclass(frozen=True)
class Taken:
    """What a step gave, still on its device: losses and parts by name, right and given answers (batch,)."""

    losses: dict[str, torch.Tensor]
    labels: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def of(cls, loss: Loss, batches: Sequence[Batch]) -> "Taken":
        return cls({"loss": loss.total, **loss.parts}, torch.cat([batch.labels for batch in batches]), loss.logits)


@dataclass
class Progress:
    """Where a run stands: all that a resumed run needs beside weights and optimizer moments.

    `step` counts the optimizer's steps in the epoch; the sums are those of as many steps once all are recorded.
    """

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

    def record(self, taken: Sequence[Taken]) -> None:
        """Add steps to the sums, in their order. Waits until the device has done them, once for all."""
        losses = torch.stack([torch.stack([*each.losses.values()]) for each in taken]).tolist()
        for values in losses:
            for name, value in zip(taken[0].losses, values, strict=True):
                self.loss_sums[name] = self.loss_sums.get(name, 0.0) + value
        logits = torch.cat([each.logits for each in taken])
        labels = torch.cat([each.labels for each in taken]).cpu().numpy()
        counts = confusion_matrix(labels, logits.argmax(1).cpu().numpy(), logits.shape[1])
        self.confusion = (counts + np.asarray(self.confusion) if self.confusion else counts).tolist()

    def end_epoch(self, row: Row) -> None:
        self.history.append(row)
        self.epoch, self.step, self.loss_sums, self.confusion = self.epoch + 1, 0, {}, []


class Stopwatch:
    """Seconds by what they were spent on; each moment counts once."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self._since_s = clock()

    def lap(self, name: str) -> None:
        """All since the last lap was spent on this."""
        now_s = self.clock()
        self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s

    def take(self) -> dict[str, float]:
        """Seconds by name since they were last taken."""
        taken, self.seconds = self.seconds, {}
        return taken


class Listener:
    """What a run tells while it goes on; does nothing by itself."""

    def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
        """After each step whose losses were read: every one on the CPU, some on a GPU; `progress.step` counts it."""

    def on_epoch(self, progress: Progress) -> None:
        """After each epoch; its row is the last of `progress.history`."""


class Trainer:
    """Runs epochs from where `progress` stands.

    `watch` gives the scores of the watched parts after an epoch, by name; `save` writes a checkpoint; `keep` is
    called with the name of a part whose score is the best so far. One step is over `num_accumulated_batches`
    consecutive batches, the last one of an epoch over what is left.
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
        num_accumulated_batches: int = 1,
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
        self.num_accumulated_batches = num_accumulated_batches
        self.num_steps = -(-batches.num_steps // num_accumulated_batches)
        self.read_every_steps = 1 if step.device.type == "cpu" else READ_EVERY_STEPS
        self.listeners = listeners

    def fit(self, epochs: int, progress: Progress) -> Progress:
        """Train until `epochs` are done. Raises RunInterrupted after SIGINT or SIGTERM, the checkpoint written."""
        stopwatch = Stopwatch()
        with _stop_requests() as is_stop_requested:
            while progress.epoch <= epochs:
                with closing(self._groups(progress)) as groups:
                    self._train(groups, progress, stopwatch, is_stop_requested)
                self._end_epoch(progress, stopwatch)
                self.save(progress)
        return progress

    def _groups(self, progress: Progress) -> Generator[tuple[Batch, ...]]:
        """The batches of each step that is left of the epoch."""
        number, device = self.num_accumulated_batches, self.step.device
        batches = self.batches.epoch(progress.epoch, first_step=number * progress.step)
        if device.type == "cuda":
            batches = ahead(copy_to_gpu(batch, device) for batch in batches)
        yield from iter(lambda: tuple(islice(batches, number)), ())

    def _train(
        self,
        groups: Iterator[tuple[Batch, ...]],
        progress: Progress,
        stopwatch: Stopwatch,
        is_stop_requested: Callable[[], bool],
    ) -> None:
        """The steps of an epoch. Losses are read when that many steps are unread, and before anything is saved."""
        unread: list[Taken] = []
        for batches in groups:
            stopwatch.lap("data")
            rate = self.schedule.at(progress.epoch, progress.step, num_steps=self.num_steps)
            generator = generator_at(self.seed, "patch-mix", progress.epoch, progress.step)
            unread.append(Taken.of(self.step(*batches, learning_rate=rate, generator=generator), batches))
            progress.step += 1
            is_checkpoint_due = progress.step % self.checkpoint_every_steps == 0
            is_last = progress.step == self.num_steps
            if is_checkpoint_due or is_last or is_stop_requested() or len(unread) >= self.read_every_steps:
                progress.record(unread)
                unread.clear()
                _refuse_divergence(progress)
                stopwatch.lap("compute")
                for listener in self.listeners:
                    listener.on_step(progress, num_steps=self.num_steps, learning_rate=rate)
                if is_stop_requested():
                    self.save(progress)
                    raise RunInterrupted(
                        f"stopped in epoch {progress.epoch} after step {progress.step}; "
                        "the same with --resume, in Python is_resumed=True, goes on from there"
                    )
                if is_checkpoint_due:
                    self.save(progress)
                stopwatch.lap("host")
            else:
                stopwatch.lap("compute")

    def _end_epoch(self, progress: Progress, stopwatch: Stopwatch) -> None:
        """Row, best scores, listeners. The checkpoint of an epoch's end counts to the time of the next one."""
        epoch, num_steps = progress.epoch, self.num_steps
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
        stopwatch.lap("host")
        taken_s = {"data": 0.0, "compute": 0.0} | stopwatch.take()
        row["seconds"] = sum(taken_s.values())
        row |= {f"{name}_seconds": seconds for name, seconds in taken_s.items()}
        progress.end_epoch(row)
        for listener in self.listeners:
            listener.on_epoch(progress)


def _refuse_divergence(progress: Progress) -> None:
    if not math.isfinite(progress.loss_sums["loss"]):
        raise RunDiverged(
            f"the loss up to step {progress.step} in epoch {progress.epoch} is not a finite number: "
            "take a lower train.learning_rate or train.precision=fp32"
        )


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
