"""One optimisation step: forward, backward, update, blend."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lungsound.data.dataset import Batch
from lungsound.model.classifier import LungSoundClassifier
from lungsound.training.objectives import Loss, Objective
from lungsound.training.optim import blend_statistics, blended_rate, statistics

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
