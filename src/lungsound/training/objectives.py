"""The three objectives that a training step minimises.

The clean and the mixed view share one patch embedding. Partners and negatives come through `Peers`, so that they can
span several devices. Where a part of the loss needs nothing of the other view, its backward pass can run before that
view is encoded, which halves the memory of a step: with `settle` the objective hands over the part as soon as it is
known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lungsound.axes import PatchGrid
from lungsound.config import ObjectiveSettings, PatchMixSettings
from lungsound.data.batches import Batch
from lungsound.errors import SettingsError
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import PatchMixDraw, draw_patch_mix, mix_patches, within
from lungsound.training.losses import (
    class_weights,
    cross_entropy,
    mixed_cross_entropy,
    patch_mix_contrastive_loss,
    soft_cross_entropy,
)

Draw = Callable[[int, PatchGrid, torch.Generator], PatchMixDraw]  # partners point into the pool of `Peers`
Settle = Callable[[Tensor], None]  # backpropagates a part of the loss; the total keeps the rest of the gradient


@dataclass(frozen=True)
class Loss:
    """The loss of one step, its parts by name, and the logits (batch, class) of the labelled view."""

    total: Tensor
    parts: dict[str, Tensor]
    logits: Tensor


class Peers(Protocol):
    """The samples that may serve as partners and negatives."""

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all peers, (batch, ...) to (pool, ...), with gradients."""

    def positions(self, batch_size: int) -> Tensor:
        """Positions in the pool of this process's samples, (batch,) int64."""


class LocalBatch:
    """Peers are the samples of the batch itself."""

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def positions(self, batch_size: int) -> Tensor:
        return torch.arange(batch_size)


LOCAL = LocalBatch()


def draw_for(
    encoder: AudioSpectrogramTransformer, draw: Draw, batch: Batch, peers: Peers, generator: torch.Generator
) -> PatchMixDraw:
    """A draw for the batch, on its device, within the patches that its samples have."""
    drawn = draw(len(batch.fbank), encoder.grid, generator).to(batch.fbank.device, batch.fbank.dtype)
    num_columns = encoder.columns(batch.num_frames)
    if num_columns is None:
        return drawn
    mask = encoder.patch_mask(num_columns).to(batch.fbank.device, non_blocking=True)
    return within(drawn, mask, pool=peers.gather(mask))


def distilled(loss: Tensor, logits: Tensor, soft_labels: Tensor | None, settings: ObjectiveSettings) -> Tensor:
    """The `loss` of labels with a share of that of soft labels (batch, class), if any, which are taken as they are."""
    if soft_labels is None:
        return loss
    share = settings.teacher_weight
    return (1 - share) * loss + share * soft_cross_entropy(logits, soft_labels)


@dataclass(frozen=True)
class CrossEntropy:
    """Plain fine-tuning: cross-entropy of the clean view."""

    settings: ObjectiveSettings
    class_weights: Tensor | None = None

    def __call__(
        self, model: LungSoundClassifier, batch: Batch, *, generator: torch.Generator, settle: Settle | None = None
    ) -> Loss:
        del generator, settle  # nothing is drawn, and the loss is one part
        logits = model(batch.fbank, batch.num_frames)
        smoothing = self.settings.label_smoothing
        loss = cross_entropy(logits, batch.labels, class_weights=self.class_weights, label_smoothing=smoothing)
        loss = distilled(loss, logits, batch.soft_labels, self.settings)
        return Loss(loss, {"ce": loss}, logits)


@dataclass(frozen=True)
class PatchMixCrossEntropy:
    """Patch-Mix with mixed labels; the clean view is not encoded, as published."""

    draw: Draw
    settings: ObjectiveSettings
    class_weights: Tensor | None = None
    peers: Peers = LOCAL

    def __call__(
        self, model: LungSoundClassifier, batch: Batch, *, generator: torch.Generator, settle: Settle | None = None
    ) -> Loss:
        del settle  # the loss is one part
        encoder = model.patch_encoder
        patches = encoder.embed_patches(batch.fbank)
        draw = draw_for(encoder, self.draw, batch, self.peers, generator)
        mixed = mix_patches(patches, draw, pool=self.peers.gather(patches))
        logits = model.head(encoder.encode(mixed, encoder.columns(batch.num_frames)))
        partner_labels = self.peers.gather(batch.labels)[draw.partner]
        loss = mixed_cross_entropy(
            logits,
            batch.labels,
            partner_labels,
            lam=draw.lam,
            class_weights=self.class_weights,
            label_smoothing=self.settings.label_smoothing,
        )
        soft_labels = batch.soft_labels
        if soft_labels is not None:
            lam = draw.lam.reshape(-1, 1)
            soft_labels = lam * soft_labels + (1 - lam) * self.peers.gather(soft_labels)[draw.partner]
        loss = distilled(loss, logits, soft_labels, self.settings)
        return Loss(loss, {"patchmix_ce": loss}, logits)


@dataclass(frozen=True)
class PatchMixContrastive:
    """Cross-entropy of the clean view plus alpha times the Patch-Mix contrastive loss.

    The setting `target` says what the projection of the mixed view is compared with: the clean feature (grad_*) or its
    projection (project_*), without (*_block, the paper's stop-gradient) or with gradient (*_flow).
    """

    draw: Draw
    settings: ObjectiveSettings
    class_weights: Tensor | None = None
    peers: Peers = LOCAL

    def __call__(
        self, model: LungSoundClassifier, batch: Batch, *, generator: torch.Generator, settle: Settle | None = None
    ) -> Loss:
        if model.projector is None:
            raise ValueError("the contrastive objective needs a model with a projector")
        encoder = model.patch_encoder
        patches, num_columns = encoder.embed_patches(batch.fbank), encoder.columns(batch.num_frames)
        is_blocked = self.settings.target.endswith("block")
        early = settle if is_blocked else None
        features = encoder.encode(patches if early is None else _with_own_gradient(patches), num_columns)
        logits = model.head(features)
        smoothing = self.settings.label_smoothing
        ce = cross_entropy(logits, batch.labels, class_weights=self.class_weights, label_smoothing=smoothing)
        ce = distilled(ce, logits, batch.soft_labels, self.settings)
        anchor = model.projector(features) if self.settings.target.startswith("project") else features
        anchor = self.peers.gather(anchor.detach() if is_blocked else anchor)
        if early is not None:
            early(ce)
            ce, logits = ce.detach(), logits.detach()
            del features  # with them go the activations of the clean view

        draw = draw_for(encoder, self.draw, batch, self.peers, generator)
        mixed = mix_patches(patches, draw, pool=self.peers.gather(patches))
        mixed_features = encoder.encode(mixed, num_columns)
        contrastive = patch_mix_contrastive_loss(
            model.projector(mixed_features),
            anchor,
            draw.partner,
            lam=draw.lam,
            temperature=self.settings.temperature,
            own=self.peers.positions(len(logits)).to(logits.device, non_blocking=True),
            labels=self.peers.gather(batch.labels) if self.settings.negatives == "diff_label" else None,
        )
        return Loss(ce + self.settings.alpha * contrastive, {"ce": ce, "contrastive": contrastive}, logits)


def _with_own_gradient(patches: Tensor) -> Tensor:
    """The same patches for a backward pass that comes first: its gradient joins that of `patches` in the later one."""
    own = patches.detach().requires_grad_()
    patches.register_hook(lambda grad: grad + own.grad)  # type: ignore[no-untyped-call]
    return own


def patch_mix_draw(settings: PatchMixSettings) -> Draw:
    """The draw of Patch-Mix with these settings."""
    return lambda batch_size, grid, generator: draw_patch_mix(
        batch_size, grid, generator=generator, **settings.model_dump()
    )


Objective = CrossEntropy | PatchMixCrossEntropy | PatchMixContrastive


def make_objective(
    settings: ObjectiveSettings, patchmix: PatchMixSettings, *, class_counts: Sequence[int], device: torch.device
) -> Objective:
    """The objective of the settings; `class_counts` are those of the training cycles."""
    weights = None
    if settings.is_class_weighted:
        if min(class_counts) < 1:
            raise SettingsError(f"class weights need training cycles of every class; there are {list(class_counts)}")
        weights = class_weights(torch.tensor(class_counts, dtype=torch.float32)).to(device)
    if settings.name == "ce":
        return CrossEntropy(settings, class_weights=weights)
    draw = patch_mix_draw(patchmix)
    if settings.name == "patchmix_ce":
        return PatchMixCrossEntropy(draw, settings, class_weights=weights)
    return PatchMixContrastive(draw, settings, class_weights=weights)
