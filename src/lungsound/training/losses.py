"""Cross-entropy with mixed labels, and the Patch-Mix contrastive loss.

With sim = cos(mixed_i, anchor_j) / temperature, the latter is the former, in which the classes are the samples.
"""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    logits: Tensor, labels: Tensor, *, class_weights: Tensor | None = None, label_smoothing: float
) -> Tensor:
    """Cross-entropy of logits (batch, class) and labels (batch,), the (weighted) mean over the batch, in float32.

    `label_smoothing` spreads that share of each label evenly over the classes, as torch defines it beside weights.
    """
    return functional.cross_entropy(_wide(logits), labels, weight=class_weights, label_smoothing=label_smoothing)


def soft_cross_entropy(logits: Tensor, soft_labels: Tensor) -> Tensor:
    """Cross-entropy of logits (batch, class) and probabilities (batch, class), the mean over the batch, in float32."""
    return functional.cross_entropy(_wide(logits), soft_labels)


def mixed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    partner_labels: Tensor,
    *,
    lam: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float,
) -> Tensor:
    """lam * CE(labels) + (1 - lam) * CE(partner_labels), the mean over the batch.

    logits (batch, class); labels, partner_labels (batch,) int64; lam () or (batch,) in [0, 1]. With class weights
    each of the two terms is divided by its own sum of weights, as in the published code. `label_smoothing` as in
    `cross_entropy`.
    """
    own = _cross_entropy(logits, labels, lam, class_weights, label_smoothing)
    return own + _cross_entropy(logits, partner_labels, 1 - lam, class_weights, label_smoothing)


def patch_mix_contrastive_loss(
    mixed: Tensor,
    anchor: Tensor,
    partner: Tensor,
    *,
    lam: Tensor,
    temperature: float,
    labels: Tensor | None = None,
) -> Tensor:
    """The mixed view should be close to its two sources, in proportion to their patches.

    mixed (batch, dim); anchor (batch, dim): the clean views, which serve as partners and negatives; partner (batch,)
    int64; lam () or (batch,). With `labels` (batch,) only samples with another label than the own one, the sample
    itself and its partner stand in the denominator (published: negative_pair = diff_label).
    """
    own = torch.arange(len(mixed), device=mixed.device)
    with torch.autocast(mixed.device.type, enabled=False):
        similarity = functional.normalize(_wide(mixed)) @ functional.normalize(_wide(anchor)).T / temperature
    if labels is not None:
        is_kept = labels.unsqueeze(1) != labels.unsqueeze(0)
        is_kept = is_kept.scatter(1, torch.stack([own, partner], dim=1), value=True)
        similarity = similarity.masked_fill(~is_kept, float("-inf"))
    return mixed_cross_entropy(similarity, own, partner, lam=lam, label_smoothing=0.0)


def class_weights(class_counts: Tensor) -> Tensor:
    """Inverse class frequencies, scaled to sum 1 (published `weighted_loss`)."""
    inverse = 1 / class_counts
    return inverse / inverse.sum()


def _cross_entropy(
    logits: Tensor, labels: Tensor, share: Tensor, weights: Tensor | None, label_smoothing: float
) -> Tensor:
    losses = functional.cross_entropy(
        _wide(logits), labels, weight=weights, reduction="none", label_smoothing=label_smoothing
    )
    total = (share * losses).sum()
    return total / (len(labels) if weights is None else weights[labels].sum())


def _wide(values: Tensor) -> Tensor:
    """Half precisions to float32; float32 and float64 stay."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
