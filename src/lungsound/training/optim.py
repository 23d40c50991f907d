"""Learning rate, optimizer and weight blending, as published."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lungsound.config import TrainSettings


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
