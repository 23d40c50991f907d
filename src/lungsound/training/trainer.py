"""The next batch is made, and copied to the GPU, while a step runs.

One optimisation step: forward, backward, update, blend.

The training loop: epochs of steps, scores after each, the best of them, checkpoints, interruption.

Settings to a device, an objective, an optimizer: one training step.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from types import FrameType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lungsound.config import ObjectiveSettings, PatchMixSettings, TrainSettings
from lungsound.data.batches import Batch, CycleBatches
from lungsound.data.corpus import Corpus
from lungsound.data.splits import Parts
from lungsound.errors import LungsoundError, SettingsError
from lungsound.evaluation.metrics import IcbhiScore, confusion_matrix, icbhi_score
from lungsound.evaluation.selection import LEAST_SENSITIVITY
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import draw_patch_mix
from lungsound.models.weights import LoadReport
from lungsound.randomness import generator_at
from lungsound.training.losses import class_weights
from lungsound.training.objectives import CrossEntropy, Draw, Loss, Objective, PatchMixContrastive, PatchMixCrossEntropy
from lungsound.training.optim import Schedule, blend_statistics, blended_rate, make_optimizer, statistics

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """The same items in the same order, each made in a thread of its own while the one before is used.

    What making one raises is raised where it is asked for. Closing the iterator waits for the one that is being made.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch") as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item


def copy_to_gpu(batch: Batch, device: torch.device) -> Batch:
    """The batch on a CUDA device, from pinned memory: nobody waits for the copy, and the device's work comes after."""

    def copy(values: Tensor) -> Tensor:
        return values.pin_memory().to(device, non_blocking=True)

    return replace(batch, fbank=copy(batch.fbank), labels=copy(batch.labels))


AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainStep:
    """Trains a model with Adam or AdamW, by one batch at a time or by several together.

    precision: "fp32", "bf16" (autocast) or "fp16" (autocast with loss scaling, GPU only). `blend` is the weight of
    the old parameters after each step, 0 for none. With `ema_decay` over 0 an exponential moving average of weights
    and statistics is kept beside the model, which trains as it would without; `answering` is then the average.
    """

    def __init__(
        self,
        model: LungSoundClassifier,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        precision: str = "fp32",
        blend: float = 0.0,
        ema_decay: float = 0.0,
    ) -> None:
        self.model = model
        self.objective = objective
        self.optimizer = optimizer
        self.device = device
        self.autocast_dtype = AUTOCAST_DTYPES[precision]
        self.blend = blend
        self.average = None
        if ema_decay:
            average = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def __call__(self, *batches: Batch, learning_rate: float, generator: torch.Generator) -> Loss:
        """Step on a batch; the loss before the update.

        On several batches it is the mean of their losses; the memory is that of one. Each is mixed, compared and
        normalised within itself, as a batch alone would be.
        """
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)  # here and not before backward: forward needs the room
        old = statistics(self.model) if self.blend else []
        losses = [self._accumulate(batch, share=1 / len(batches), generator=generator) for batch in batches]
        self._set_rate(blended_rate(learning_rate, self.blend))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._set_rate(learning_rate)
        if self.blend:
            blend_statistics(self.model, old, self.blend)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return _mean(losses)

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

    def _set_rate(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    @property
    def answering(self) -> LungSoundClassifier:
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

    def scaler_state(self) -> dict[str, Any]:
        """State of the loss scaler: plain numbers, empty without one."""
        return dict(self.scaler.state_dict())

    def restore(self, tensors: dict[str, Tensor], scaler_state: dict[str, Any]) -> None:
        """Take up the state that `tensors` and `scaler_state` gave."""
        self.model.load_state_dict(_without_prefix(tensors, "model."))
        if self.average is not None:
            self.average.load_state_dict(_without_prefix(tensors, "average."))
        optimizer_state = self.optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**optimizer_state, "state": moments})
        if scaler_state:
            self.scaler.load_state_dict(scaler_state)


def _mean(losses: Sequence[Loss]) -> Loss:
    """Means of the losses and their parts; the logits of all."""
    totals, logits = torch.stack([loss.total for loss in losses]), torch.cat([loss.logits for loss in losses])
    parts = {name: torch.stack([loss.parts[name] for loss in losses]).mean() for name in losses[0].parts}
    return Loss(totals.mean(), parts, logits)


def _without_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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


def device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device {name!r} is not known; use auto, cpu, cuda, cuda:1 or mps")
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu") from None
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32: the patch embedding is a convolution
    return chosen


def precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; "auto" is bf16 on a GPU that has it, else fp32. SettingsError for fp16 on the CPU."""
    if name == "fp16" and device.type == "cpu":
        raise SettingsError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def draw(settings: PatchMixSettings) -> Draw:
    """The draw of Patch-Mix with these settings."""
    return lambda batch_size, grid, generator: draw_patch_mix(
        batch_size,
        grid,
        generator=generator,
        beta=settings.beta,
        axis=settings.axis,
        is_lam_per_sample=settings.is_lam_per_sample,
        is_self_partner_allowed=settings.is_self_partner_allowed,
    )


def objective(
    settings: ObjectiveSettings, patchmix: PatchMixSettings, *, class_counts: Sequence[int], device: torch.device
) -> Objective:
    weights = None
    if settings.is_class_weighted:
        if min(class_counts) < 1:
            raise SettingsError(f"class weights need training cycles of every class; there are {list(class_counts)}")
        weights = class_weights(torch.tensor(class_counts, dtype=torch.float32)).to(device)
    if settings.name == "ce":
        return CrossEntropy(class_weights=weights)
    if settings.name == "patchmix_ce":
        return PatchMixCrossEntropy(draw(patchmix), class_weights=weights)
    contrastive = partial(PatchMixContrastive, draw(patchmix), temperature=settings.temperature, alpha=settings.alpha)
    return contrastive(target=settings.target, negatives=settings.negatives, class_weights=weights)


def schedule(settings: TrainSettings) -> Schedule:
    return Schedule(
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        kind=settings.schedule,
        decay_rate=settings.decay_rate,
        decay_epochs=settings.decay_epochs,
        warmup_epochs=settings.warmup_epochs,
    )


def train_step(
    settings: TrainSettings, model: LungSoundClassifier, objective: Objective, *, device: torch.device
) -> TrainStep:
    if settings.is_activation_checkpointed:
        if not isinstance(model.encoder, AudioSpectrogramTransformer):
            raise SettingsError(
                f"train.is_activation_checkpointed is for the AST, not for {model.encoder.architecture}: "
                "take a smaller train.batch_size"
            )
        model.encoder.is_checkpointed = True
    optimizer = make_optimizer(
        model.parameters(),
        kind=settings.optimizer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    return TrainStep(
        model,
        objective,
        optimizer,
        device=device,
        precision=precision(settings.precision, device),
        blend=settings.blend,
        ema_decay=settings.ema_decay,
    )


def remarks(
    settings: TrainSettings, corpus: Corpus, parts: Parts, pretrained: LoadReport | None, batches: CycleBatches
) -> list[str]:
    """What a person should know before training starts."""
    found = [f"left out: {problem}" for problem in corpus.problems]
    if parts.left_out:
        who, leave = "patient", "is in the test set too and leaves"
        if len(parts.left_out) > 1:
            who, leave = "patients", "are in the test set too and leave"
        found.append(
            f"{who} {', '.join(parts.left_out)} {leave} the training set "
            "(data.are_shared_patients_kept=true keeps them)"
        )
    found += [] if pretrained is None else [pretrained.summary()]
    num_dropped = len(batches) % batches.batch_size if batches.is_last_dropped else 0
    if num_dropped:
        cycles = "1 cycle" if num_dropped == 1 else f"{num_dropped} cycles"
        found.append(f"each epoch leaves out its last, smaller batch of {cycles}")
    rates = [schedule(settings).at(epoch, 1, num_steps=1) for epoch in range(1, settings.epochs + 1)]
    if max(rates) < 0.7 * settings.learning_rate:
        found.append(
            f"the learning rate never rises above {max(rates):.2g}, of {settings.learning_rate:.2g} asked for: the "
            f"{settings.schedule} schedule starts below it; take more epochs or train.schedule=constant"
        )
    return found
