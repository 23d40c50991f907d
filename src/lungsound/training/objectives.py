"""The three objectives that a training step minimises.

The clean and the mixed view share one patch embedding. Where several processes train together (`lungsound.ranks`), each
encodes its own samples, and the loss is that of all of them: partners and negatives are drawn from the whole batch, and
the projector's batch norm is over it. Where a part of the loss needs nothing of the other view, its backward pass can
run before that view is encoded, which halves the memory of a step: with `settle` the objective hands over the part as
soon as it is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lungsound.axes import PatchGrid
from lungsound.config import ObjectiveSettings, PatchMixSettings
from lungsound.data.batches import Batch
from lungsound.errors import SettingsError
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import PatchMixDraw, draw_patch_mix, mix_patches, within
from lungsound.ranks import ALONE, Alone
from lungsound.training.losses import (
    class_weights,
    cross_entropy,
    mixed_cross_entropy,
    patch_mix_contrastive_loss,
    soft_cross_entropy,
)

Draw = Callable[[int, PatchGrid, torch.Generator], PatchMixDraw]
Settle = Callable[[Tensor], None]  # backpropagates a part of the loss; the total keeps the rest of the gradient


@dataclass(frozen=True)
class Loss:
    """The loss of one step, its parts by name, and the logits (batch, class) of the labelled view."""

    total: Tensor
    parts: dict[str, Tensor]
    logits: Tensor


def draw_for(
    encoder: AudioSpectrogramTransformer, draw: Draw, batch: Batch, ranks: Alone, generator: torch.Generator
) -> PatchMixDraw:
    """A draw for all samples of the batch, on its device, within the patches that they have."""
    drawn = draw(len(batch.labels), encoder.grid, generator).to(batch.fbank.device, batch.fbank.dtype)
    num_columns = encoder.columns(batch.num_frames)
    if num_columns is None:
        return drawn
    mask = encoder.patch_mask(ranks.gather(num_columns, len(batch.labels)))
    return within(drawn, mask.to(batch.fbank.device, non_blocking=True))


def mixed_features(
    encoder: AudioSpectrogramTransformer, patches: Tensor, draw: PatchMixDraw, batch: Batch, ranks: Alone
) -> Tensor:
    """Features (batch, dim) of the mixed view of all samples, of which these patches (own, patch, dim) are."""
    num = len(batch.labels)
    own = draw.of_rows(ranks.own(num))
    mixed = mix_patches(patches, own, pool=ranks.gather(patches, num))
    return ranks.gather(encoder.encode(mixed, encoder.columns(batch.num_frames)), num)


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
    ranks: Alone = ALONE

    def __call__(
        self, model: LungSoundClassifier, batch: Batch, *, generator: torch.Generator, settle: Settle | None = None
    ) -> Loss:
        del generator, settle  # nothing is drawn, and the loss is one part
        features = self.ranks.gather(model.encode(batch.fbank, batch.num_frames), len(batch.labels))
        logits = model.head(features)
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
    ranks: Alone = ALONE

    def __call__(
        self, model: LungSoundClassifier, batch: Batch, *, generator: torch.Generator, settle: Settle | None = None
    ) -> Loss:
        del settle  # the loss is one part
        encoder = model.patch_encoder
        patches = encoder.embed_patches(batch.fbank)
        draw = draw_for(encoder, self.draw, batch, self.ranks, generator)
        logits = model.head(mixed_features(encoder, patches, draw, batch, self.ranks))
        loss = mixed_cross_entropy(
            logits,
            batch.labels,
            batch.labels[draw.partner],
            lam=draw.lam,
            class_weights=self.class_weights,
            label_smoothing=self.settings.label_smoothing,
        )
        soft_labels = batch.soft_labels
        if soft_labels is not None:
            lam = draw.lam.reshape(-1, 1)
            soft_labels = lam * soft_labels + (1 - lam) * soft_labels[draw.partner]
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
    ranks: Alone = ALONE

    def __call__(
        self, model: LungSoundClassifier, batch: Batch, *, generator: torch.Generator, settle: Settle | None = None
    ) -> Loss:
        if model.projector is None:
            raise ValueError("the contrastive objective needs a model with a projector")
        encoder = model.patch_encoder
        patches, num_columns = encoder.embed_patches(batch.fbank), encoder.columns(batch.num_frames)
        num = len(batch.labels)
        is_blocked = self.settings.target.endswith("block")
        early = settle if is_blocked else None
        own = encoder.encode(patches if early is None else _with_own_gradient(patches), num_columns)
        features = self.ranks.gather(own, num)
        logits = model.head(features)
        smoothing = self.settings.label_smoothing
        ce = cross_entropy(logits, batch.labels, class_weights=self.class_weights, label_smoothing=smoothing)
        ce = distilled(ce, logits, batch.soft_labels, self.settings)
        anchor = model.projector(features) if self.settings.target.startswith("project") else features
        anchor = anchor.detach() if is_blocked else anchor
        if early is not None:
            early(ce)
            ce, logits = ce.detach(), logits.detach()
            del own, features  # with them go the activations of the clean view

        draw = draw_for(encoder, self.draw, batch, self.ranks, generator)
        contrastive = patch_mix_contrastive_loss(
            model.projector(mixed_features(encoder, patches, draw, batch, self.ranks)),
            anchor,
            draw.partner,
            lam=draw.lam,
            temperature=self.settings.temperature,
            labels=batch.labels if self.settings.negatives == "diff_label" else None,
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
    settings: ObjectiveSettings,
    patchmix: PatchMixSettings,
    *,
    class_counts: Sequence[int],
    device: torch.device,
    ranks: Alone = ALONE,
) -> Objective:
    """The objective of the settings; `class_counts` are those of the training cycles."""
    weights = None
    if settings.is_class_weighted:
        if min(class_counts) < 1:
            raise SettingsError(f"class weights need training cycles of every class; there are {list(class_counts)}")
        weights = class_weights(torch.tensor(class_counts, dtype=torch.float32)).to(device)
    if settings.name == "ce":
        return CrossEntropy(settings, class_weights=weights, ranks=ranks)
    draw = patch_mix_draw(patchmix)
    if settings.name == "patchmix_ce":
        return PatchMixCrossEntropy(draw, settings, class_weights=weights, ranks=ranks)
    return PatchMixContrastive(draw, settings, class_weights=weights, ranks=ranks)
