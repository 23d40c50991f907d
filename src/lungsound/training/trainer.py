"""Training: learning rate and optimizer, one step, and the loop of epochs with scores, checkpoints and interruption."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from types import FrameType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lungsound.config import TrainSettings
from lungsound.data.batches import Batch, TrainingBatches
from lungsound.data.corpus import Corpus
from lungsound.data.splits import Parts
from lungsound.errors import LungsoundError, SettingsError
from lungsound.evaluation.metrics import IcbhiScore, confusion_matrix, icbhi_score
from lungsound.evaluation.selection import LEAST_SENSITIVITY
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.precision import AUTOCAST_DTYPES, find_precision
from lungsound.models.weights import LoadReport
from lungsound.randomness import generator_at
from lungsound.ranks import ALONE, Alone
from lungsound.training.objectives import Loss, Objective

Item = TypeVar("Item")
Row = dict[str, int | float]
READ_EVERY_STEPS = 16  # where reading a loss waits for the device


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of epoch (from 1) and step within the epoch (from 0).

    Published: set once an epoch; cosine is below `learning_rate` from epoch 1 and ends at `learning_rate *
    decay_rate**3`. Warm-up is linear per step, from a tenth of `learning_rate`. cosine_by_step goes from
    `learning_rate` at the first step after warm-up to the same end at the last step.
    """

    train: TrainSettings

    def at(self, epoch: int, step: int = 0, *, num_steps: int = 1) -> float:
        """Learning rate of step `step` of `num_steps` in epoch `epoch`."""
        train = self.train
        done, warmup = (epoch - 1) * num_steps + step, train.warmup_epochs * num_steps
        if done < warmup:
            is_cosine = train.schedule == "cosine"
            last = self._cosine(train.warmup_epochs, train.epochs) if is_cosine else train.learning_rate
            first = 0.1 * train.learning_rate
            return first + done / warmup * (last - first)
        if train.schedule == "cosine":
            return self._cosine(epoch, train.epochs)
        if train.schedule == "cosine_by_step":
            last_step = train.epochs * num_steps - 1
            return self._cosine(done - warmup, (last_step - warmup) or 1)  # a single step is at the top
        if train.schedule == "step":
            return train.learning_rate * train.decay_rate ** sum(epoch > limit for limit in train.decay_epochs)
        return train.learning_rate

    def _cosine(self, place: float, end: float) -> float:
        lowest = self.train.learning_rate * self.train.decay_rate**3
        return lowest + (self.train.learning_rate - lowest) * (1 + math.cos(math.pi * place / end)) / 2


def make_optimizer(parameters: Iterable[nn.Parameter], train: TrainSettings) -> torch.optim.Optimizer:
    """adam: weight decay in the gradient, as published; adamw: decoupled. Betas .9 and .999, eps 1e-8."""
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[train.optimizer](parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)


def statistics(model: nn.Module) -> list[Tensor]:
    """Copies of the floating-point buffers (batch norm's means and variances), in the model's order."""
    return [value.clone() for value in model.buffers() if value.is_floating_point()]


def blend_statistics(model: nn.Module, old: list[Tensor], blend: float) -> None:
    """In place: statistics become blend * old + (1 - blend) * new.

    With a step at (1 - blend) * learning rate, by which Adam and AdamW blend the weights, this is the authors'
    `ma_update` (their beta = blend), which also truncates integer buffers.
    """
    current = [value for value in model.buffers() if value.is_floating_point()]
    for value, before in zip(current, old, strict=True):
        value.lerp_(before, blend)


class TrainStep:
    """One step of Adam or AdamW, on one batch or on several together."""

    def __init__(
        self,
        model: LungSoundClassifier,
        objective: Objective,
        train: TrainSettings,
        *,
        device: torch.device,
        ranks: Alone = ALONE,
    ) -> None:
        if train.is_activation_checkpointed:
            if not isinstance(model.encoder, AudioSpectrogramTransformer):
                raise SettingsError(
                    f"train.is_activation_checkpointed is for the AST, not for {model.encoder.architecture}: "
                    "take a smaller train.batch_size"
                )
            model.encoder.is_checkpointed = True
        precision = find_precision(train.precision, device)
        self.model = model.to(device)
        self.objective = objective
        self.device, self.ranks = device, ranks
        self.optimizer = make_optimizer(model.parameters(), train)
        self.autocast_dtype = AUTOCAST_DTYPES[precision]
        self.blend = train.blend
        self.average = None
        if train.ema_decay:
            average = get_ema_multi_avg_fn(train.ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def __call__(self, *batches: Batch, learning_rate: float, generator: torch.Generator) -> Loss:
        """Step on a batch, or in the memory of one on the mean of several; the loss is that before the update."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)  # here and not before backward: forward needs the room
        old = statistics(self.model) if self.blend else []
        share = 1 / (len(batches) * self.ranks.num)
        losses = [self._accumulate(batch, share=share, generator=generator) for batch in batches]
        self.ranks.sum_gradients(self.model.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = (1 - self.blend) * learning_rate  # goes to the blend of old and new, without copies
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.blend:
            blend_statistics(self.model, old, self.blend)
        if self.average is not None:
            self.average.update_parameters(self.model)
        totals, logits = torch.stack([loss.total for loss in losses]), torch.cat([loss.logits for loss in losses])
        parts = {name: torch.stack([loss.parts[name] for loss in losses]).mean() for name in losses[0].parts}
        return Loss(totals.mean(), parts, logits)

    def _accumulate(self, batch: Batch, *, share: float, generator: torch.Generator) -> Loss:
        """Add this share of the gradient of a batch's loss; the loss."""

        def settle(part: Tensor) -> None:
            with torch.autocast(self.device.type, enabled=False):
                torch.autograd.backward(self.scaler.scale(share * part))

        with torch.autocast(self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None):
            loss = self.objective(self.model, batch.to(self.device), generator=generator, settle=settle)
        settle(loss.total)
        parts = {name: part.detach() for name, part in loss.parts.items()}
        return Loss(loss.total.detach(), parts, loss.logits.detach())

    @property
    def evaluated_model(self) -> LungSoundClassifier:
        """The model to evaluate and to save: the moving average, where one is kept."""
        return self.model if self.average is None else cast(LungSoundClassifier, self.average.module)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, their average and optimizer moments under unique names, for a checkpoint."""
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            state |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
        return state

    def restore(self, tensors: dict[str, Tensor], scaler_state: dict[str, Any]) -> None:
        """Take up the state that `tensors` and the scaler's `state_dict` gave; that is empty without a scaler."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        self.model.load_state_dict(parts["model"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, moment = name.split(".")
            moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        if scaler_state:
            self.scaler.load_state_dict(scaler_state)


class RunInterrupted(LungsoundError):
    """The run was asked to stop; its checkpoint is written."""

    exit_code = 130


class RunDiverged(LungsoundError):
    """The loss is not a finite number any more; the last checkpoint is older than that."""


class Progress(BaseModel, extra="forbid"):
    """State of a run: all that a resumed run needs beside weights and optimizer moments.

    `step` counts the optimizer's steps in the epoch; the sums are those of as many steps once all are recorded.
    """

    epoch: int = 1
    step: int = 0
    loss_sums: dict[str, float] = {}
    confusion: list[list[int]] = []
    history: list[Row] = []
    best_scores: dict[str, float] = {}
    best_epochs: dict[str, int] = {}

    def training_score(self) -> IcbhiScore:
        """Score on the training cycles of the epoch so far, of the labelled view."""
        return icbhi_score(np.asarray(self.confusion))

    def mean_losses(self) -> dict[str, float]:
        return {name: total / max(1, self.step) for name, total in self.loss_sums.items()}

    def record(self, steps: Sequence[tuple[Loss, Tensor]]) -> None:
        """Add losses and labels (batch,) of steps in order. Waits until the device has done them, once for all."""
        names = ["loss", *steps[0][0].parts]
        losses = torch.stack([torch.stack([loss.total, *loss.parts.values()]) for loss, _ in steps]).tolist()
        for values in losses:
            for name, value in zip(names, values, strict=True):
                self.loss_sums[name] = self.loss_sums.get(name, 0.0) + value
        logits = torch.cat([loss.logits for loss, _ in steps])
        labels = torch.cat([labels for _, labels in steps]).cpu().numpy()
        counts = confusion_matrix(labels, logits.argmax(1).cpu().numpy(), logits.shape[1])
        self.confusion = (counts + np.asarray(self.confusion) if self.confusion else counts).tolist()

    def end_epoch(self, row: Row) -> None:
        self.history.append(row)
        self.epoch, self.step, self.loss_sums, self.confusion = self.epoch + 1, 0, {}, []


class Stopwatch:
    """Seconds by purpose; each moment counts once."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock, self.seconds, self._since_s = clock, dict[str, float](), clock()

    def lap(self, name: str) -> None:
        """All since the last lap was spent on this."""
        now_s = self.clock()
        self.seconds[name] = self.seconds.get(name, 0.0) + now_s - self._since_s
        self._since_s = now_s


class Listener:
    """Base of callbacks of a training under way; does nothing by itself."""

    def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
        """After each step whose losses were read: every one on the CPU, some on a GPU; `progress.step` counts it."""

    def on_epoch(self, progress: Progress) -> None:
        """After each epoch; its row is the last of `progress.history`."""


@dataclass(eq=False)
class Trainer:
    """The loop of epochs from where `progress` stands.

    `evaluate` gives scores after an epoch, by the name of the part; `save` writes a checkpoint; `keep` is called
    with the name of a part whose score is the best so far. The last step of an epoch may be over fewer batches.
    """

    step: TrainStep
    batches: TrainingBatches
    train: TrainSettings
    evaluate: Callable[[], Mapping[str, IcbhiScore]]
    save: Callable[[Progress], None]
    keep: Callable[[str], None]
    listeners: Sequence[Listener]

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.train)
        self.num_steps = steps_of_epoch(self.batches, self.train)
        self.read_every_steps = 1 if self.step.device.type == "cpu" else READ_EVERY_STEPS

    def fit(self, progress: Progress) -> Progress:
        """Train to the last epoch. Raises RunInterrupted after SIGINT or SIGTERM, the checkpoint written."""
        stopwatch = Stopwatch()
        with _stop_requests() as is_asked_to_stop:

            def is_stop_requested() -> bool:
                return self.step.ranks.any(is_asked_to_stop())

            while progress.epoch <= self.train.epochs:
                self._run_epoch(progress, stopwatch, is_stop_requested)
                self._end_epoch(progress, stopwatch)
                self.save(progress)
        return progress

    def _groups(self, progress: Progress) -> Generator[tuple[Batch, ...]]:
        """The batches of each step that is left of the epoch."""
        number, device = self.train.num_accumulated_batches, self.step.device
        batches = self.batches.epoch(progress.epoch, first_step=number * progress.step)
        if device.type == "cuda":
            batches = ahead(copy_to_gpu(batch, device) for batch in batches)
        yield from iter(lambda: tuple(islice(batches, number)), ())

    def _run_epoch(self, progress: Progress, stopwatch: Stopwatch, is_stop_requested: Callable[[], bool]) -> None:
        """The steps of an epoch. Losses are read when that many steps are unread, and before anything is saved."""
        unread: list[tuple[Loss, Tensor]] = []
        with closing(self._groups(progress)) as groups:
            for batches in groups:
                stopwatch.lap("data")
                rate = self.schedule.at(progress.epoch, progress.step, num_steps=self.num_steps)
                generator = generator_at(self.train.seed, "patch-mix", progress.epoch, progress.step)
                loss = self.step(*batches, learning_rate=rate, generator=generator)
                unread.append((loss, torch.cat([batch.labels for batch in batches])))
                progress.step += 1
                is_checkpoint_due = progress.step % self.train.checkpoint_every_steps == 0
                is_last = progress.step == self.num_steps
                if is_checkpoint_due or is_last or len(unread) >= self.read_every_steps or is_stop_requested():
                    progress.record(unread)
                    unread.clear()
                    if not math.isfinite(progress.loss_sums["loss"]):
                        raise RunDiverged(
                            f"the loss up to step {progress.step} in epoch {progress.epoch} is not a finite number: "
                            "take a lower train.learning_rate or train.precision=fp32"
                        )
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
        for name, score in self.evaluate().items():
            row |= {f"{name}_{which}": getattr(score, which) for which in ("specificity", "sensitivity", "score")}
            if score.sensitivity > LEAST_SENSITIVITY and score.score > progress.best_scores.get(name, -1.0):
                progress.best_scores[name], progress.best_epochs[name] = score.score, epoch
                self.keep(name)
        stopwatch.lap("host")
        taken_s, stopwatch.seconds = {"data": 0.0, "compute": 0.0} | stopwatch.seconds, {}
        row["seconds"] = sum(taken_s.values())
        row |= {f"{name}_seconds": seconds for name, seconds in taken_s.items()}
        progress.end_epoch(row)
        for listener in self.listeners:
            listener.on_epoch(progress)


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM, in the main thread, into a request between steps; a second one stops at once."""
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


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """The same items in the same order, each made in a thread of its own while the one before is used."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch") as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item


def copy_to_gpu(batch: Batch, device: torch.device) -> Batch:
    """The batch on a CUDA device, from pinned memory: nobody waits for the copy, and the device's work comes after."""
    tensors = {name: getattr(batch, name) for name in ("fbank", "labels", "soft_labels")}
    given = {name: each.pin_memory() for name, each in tensors.items() if each is not None}
    return replace(batch, **{name: each.to(device, non_blocking=True) for name, each in given.items()})


def steps_of_epoch(batches: TrainingBatches, train: TrainSettings) -> int:
    """Steps of the optimizer in one epoch."""
    return -(-batches.num_steps // train.num_accumulated_batches)


def remarks(
    train: TrainSettings, corpus: Corpus, parts: Parts, pretrained: LoadReport | None, batches: TrainingBatches
) -> list[str]:
    """Remarks for a person before training starts."""
    lines = [f"left out: {problem}" for problem in corpus.problems]
    if parts.left_out:
        lines.append(
            f"in the test set too, left out of the training set: patient {', '.join(parts.left_out)} "
            "(data.are_shared_patients_kept=true keeps them)"
        )
    lines += [] if pretrained is None else [pretrained.summary()]
    if batches.num_dropped:
        lines.append(f"each epoch leaves out its last, smaller batch (cycles: {batches.num_dropped})")
    schedule, num_steps = Schedule(train), steps_of_epoch(batches, train)
    steps = product(range(1, train.epochs + 1), range(num_steps))
    highest = max(schedule.at(epoch, step, num_steps=num_steps) for epoch, step in steps)
    if highest < 0.7 * train.learning_rate:
        reason = f"the {train.schedule} schedule starts below it; take more epochs or train.schedule=cosine_by_step"
        if train.warmup_epochs >= train.epochs or train.schedule == "cosine_by_step":
            reason = "the warm-up takes all of the run; take more epochs or fewer train.warmup_epochs"
        rates = f"above {highest:.2g}, of {train.learning_rate:.2g} asked for"
        lines.append(f"the learning rate never rises {rates}: {reason}")
    return lines
