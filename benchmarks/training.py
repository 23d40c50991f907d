"""A training step of ours and of the peer, on the same batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks import ours
from benchmarks.machine import wait_for
from benchmarks.measure import Work
from benchmarks.peers import PlainPatchMixStep
from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig
from lungsound.data.batches import Batch
from lungsound.training.trainer import TrainStep

LEARNING_RATE = 5e-5


def make_step(
    side: str,
    size: str,
    *,
    batch_size: int,
    device: torch.device,
    is_quick: bool = False,
    durations_s: Sequence[float] | None = None,
) -> Work:
    """One whole step of "ours" (bf16) or of the "peer" (float32 on the CPU, AMP as published on a GPU).

    With `durations_s` ours encodes only the patches that touch cycles of these durations; the peer encodes all.
    """
    config = ours.run_config(size, is_quick=is_quick, is_padding_encoded=durations_s is None)
    fbank, labels = ours.batch(config, batch_size=batch_size)
    if side == "ours":
        num_frames = None if durations_s is None else own_frames(config, durations_s)
        return _our_step(ours.train_step(config, device=device), Batch(fbank, labels, num_frames))
    amp_dtype = torch.float16 if device.type == "cuda" else None
    plain = PlainPatchMixStep(ours.classifier(config), device=device, amp_dtype=amp_dtype)
    rng = np.random.default_rng(0)

    def step() -> None:
        plain(fbank, labels, rng=rng)
        wait_for(device)

    return step


def own_frames(config: RunConfig, durations_s: Sequence[float]) -> Tensor:
    """Frames of the filter bank (batch,) that touch cycles of these durations (`FrontEnd.num_own_frames`).

    The settings say that padding is not encoded.
    """
    front_end = FrontEnd(config.audio)
    return torch.tensor([front_end.num_own_frames(round(each * front_end.sample_rate_hz)) for each in durations_s])


def _our_step(train_step: TrainStep, batch: Batch) -> Work:
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        train_step(batch, learning_rate=LEARNING_RATE, generator=generator)
        wait_for(train_step.device)

    return step
