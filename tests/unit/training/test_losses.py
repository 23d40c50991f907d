"""The losses against nested loops written from the paper, closed forms, and torch's own cross-entropy."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lungsound.training.losses import (
    class_weights,
    cross_entropy,
    mixed_cross_entropy,
    patch_mix_contrastive_loss,
    soft_cross_entropy,
)

LABELS = torch.tensor([0, 1, 0, 2, 3, 0])
PARTNER = torch.tensor([2, 0, 1, 3, 5, 4])  # 0 and 2 share a label, 3 is its own partner


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist())) / math.sqrt(sum(y * y for y in b.tolist()))


def contrastive_by_loops(
    mixed: Tensor,
    anchor: Tensor,
    partner: list[int],
    *,
    lam: list[float],
    temperature: float,
    labels: list[int] | None,
) -> float:
    """Equation 5 of the paper, one number at a time."""
    total = 0.0
    for i in range(len(mixed)):
        pairs = [math.exp(cosine(mixed[i], anchor[k]) / temperature) for k in range(len(anchor))]
        kept = set(range(len(anchor)))
        if labels is not None:
            kept = {k for k in kept if labels[k] != labels[i]} | {i, partner[i]}
        denominator = sum(pairs[k] for k in kept)
        total -= lam[i] * math.log(pairs[i] / denominator)
        total -= (1 - lam[i]) * math.log(pairs[partner[i]] / denominator)
    return total / len(mixed)


@pytest.mark.parametrize("has_labels", [False, True])
@pytest.mark.parametrize("is_lam_per_sample", [False, True])
@pytest.mark.parametrize("temperature", [0.06, 1.0])
def test_contrastive_loss_equals_loops(temperature: float, is_lam_per_sample: bool, has_labels: bool) -> None:
    mixed, anchor = randn(6, 5, seed=1), randn(6, 5, seed=2)
    lam = torch.linspace(0, 1, 6, dtype=torch.float64) if is_lam_per_sample else torch.tensor(0.3, dtype=torch.float64)
    expected = contrastive_by_loops(
        mixed,
        anchor,
        PARTNER.tolist(),
        lam=lam.expand(6).tolist(),
        temperature=temperature,
        labels=LABELS.tolist() if has_labels else None,
    )
    labels = LABELS if has_labels else None
    loss = patch_mix_contrastive_loss(mixed, anchor, PARTNER, lam=lam, temperature=temperature, labels=labels)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_contrastive_gradients_are_those_of_finite_differences() -> None:
    mixed, anchor = randn(6, 3, seed=1).requires_grad_(), randn(6, 3, seed=2).requires_grad_()
    lam = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    for labels in (None, LABELS):
        assert torch.autograd.gradcheck(
            lambda m, a, labels=labels: patch_mix_contrastive_loss(
                m, a, PARTNER, lam=lam, temperature=0.5, labels=labels
            ),
            (mixed, anchor),
        )


def test_equal_anchors_give_the_logarithm_of_their_number() -> None:
    mixed, anchor = randn(6, 5, seed=1), randn(1, 5, seed=2).expand(6, 5)
    loss = patch_mix_contrastive_loss(mixed, anchor, PARTNER, lam=torch.tensor(0.4).double(), temperature=0.06)
    assert loss.item() == pytest.approx(math.log(6), rel=1e-12)


def test_length_does_not_matter() -> None:
    mixed, anchor, lam = randn(6, 5, seed=1), randn(6, 5, seed=2), torch.tensor(0.4)
    first = patch_mix_contrastive_loss(mixed, anchor, PARTNER, lam=lam, temperature=0.1)
    second = patch_mix_contrastive_loss(3 * mixed, 0.2 * anchor, PARTNER, lam=lam, temperature=0.1)
    assert first.item() == pytest.approx(second.item(), rel=1e-12)


def test_half_precision_is_compared_in_float32() -> None:
    mixed, anchor = randn(6, 5, seed=1).bfloat16(), randn(6, 5, seed=2).bfloat16()
    arguments = {"lam": torch.tensor(0.4), "temperature": 0.06}
    expected = patch_mix_contrastive_loss(mixed.float(), anchor.float(), PARTNER, **arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = patch_mix_contrastive_loss(mixed, anchor, PARTNER, **arguments)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


# ---- cross-entropy ----


@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.3, 0.4]])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_mixed_cross_entropy_equals_two_of_torchs(lam: float, weights: list[float] | None) -> None:
    logits = randn(6, 4, seed=3)
    class_weights_ = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = lam * functional.cross_entropy(logits, LABELS, weight=class_weights_)
    expected += (1 - lam) * functional.cross_entropy(logits, LABELS[PARTNER], weight=class_weights_)
    loss = mixed_cross_entropy(
        logits,
        LABELS,
        LABELS[PARTNER],
        lam=torch.tensor(lam, dtype=torch.float64),
        class_weights=class_weights_,
        label_smoothing=0.0,
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
def test_mixed_cross_entropy_with_a_lambda_for_each_sample_equals_loops(weights: list[float]) -> None:
    logits, lam = randn(6, 4, seed=3), torch.linspace(0, 1, 6, dtype=torch.float64)
    expected = 0.0
    for labels, shares in ((LABELS, lam), (LABELS[PARTNER], 1 - lam)):
        sum_of_weights = sum(weights[label] for label in labels.tolist())
        for i, label in enumerate(labels.tolist()):
            log_probability = float(logits[i, label]) - math.log(sum(math.exp(x) for x in logits[i].tolist()))
            expected -= float(shares[i]) * weights[label] * log_probability / sum_of_weights
    class_weights_ = None if weights[0] == 1.0 else torch.tensor(weights, dtype=torch.float64)
    loss = mixed_cross_entropy(
        logits, LABELS, LABELS[PARTNER], lam=lam, class_weights=class_weights_, label_smoothing=0.0
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.1, 0.2, 0.3, 0.4]])
@pytest.mark.parametrize("smoothing", [0.1, 1.0])
def test_smoothed_labels_equal_loops(smoothing: float, weights: list[float]) -> None:
    """A share of each label is spread over the classes, each times its class's weight; divided by the labels' own."""
    logits, lam = randn(6, 4, seed=3), torch.linspace(0, 1, 6, dtype=torch.float64)

    def by_loops(labels: list[int], shares: list[float]) -> float:
        total = 0.0
        for row, label, share in zip(logits.tolist(), labels, shares, strict=True):
            for index, value in enumerate(row):
                target = smoothing / 4 + (1 - smoothing) * (index == label)
                log_probability = value - math.log(sum(math.exp(x) for x in row))
                total -= share * target * weights[index] * log_probability
        return total / sum(weights[label] for label in labels)

    class_weights_ = None if weights[0] == 1.0 else torch.tensor(weights, dtype=torch.float64)
    settings = {"class_weights": class_weights_, "label_smoothing": smoothing}
    plain = cross_entropy(logits, LABELS, **settings)  # type: ignore[arg-type]
    assert plain.item() == pytest.approx(by_loops(LABELS.tolist(), [1.0] * 6), rel=1e-12)
    expected = by_loops(LABELS.tolist(), lam.tolist()) + by_loops(LABELS[PARTNER].tolist(), (1 - lam).tolist())
    mixed = mixed_cross_entropy(logits, LABELS, LABELS[PARTNER], lam=lam, **settings)  # type: ignore[arg-type]
    assert mixed.item() == pytest.approx(expected, rel=1e-12)


def test_a_sample_mixed_with_its_own_label_is_plain_cross_entropy() -> None:
    logits = randn(6, 4, seed=3)
    loss = mixed_cross_entropy(logits, LABELS, LABELS, lam=torch.tensor(0.37, dtype=torch.float64), label_smoothing=0.0)
    assert loss.item() == pytest.approx(cross_entropy(logits, LABELS, label_smoothing=0.0).item(), rel=1e-14)


def test_cross_entropy_is_weighted_and_never_in_half_precision() -> None:
    logits, weights = randn(6, 4, seed=3), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    probabilities = logits.softmax(1)[torch.arange(6), LABELS]
    expected = -(weights[LABELS] * probabilities.log()).sum() / weights[LABELS].sum()
    assert cross_entropy(logits, LABELS, class_weights=weights, label_smoothing=0.0).item() == pytest.approx(
        expected.item(), rel=1e-12
    )
    assert cross_entropy(logits.bfloat16(), LABELS, label_smoothing=0.0).dtype == torch.float32
    assert cross_entropy(logits, LABELS, label_smoothing=0.0).dtype == torch.float64


def test_class_weights_are_inverse_frequencies_of_sum_1() -> None:
    weights = class_weights(torch.tensor([8.0, 4.0, 2.0, 2.0]))
    assert weights.tolist() == pytest.approx([1 / 11, 2 / 11, 4 / 11, 4 / 11])


# ---- soft labels ----


def test_soft_cross_entropy_equals_loops() -> None:
    logits, soft_labels = randn(6, 4, seed=3), randn(6, 4, seed=4).softmax(1)
    total = 0.0
    for row, shares in zip(logits.tolist(), soft_labels.tolist(), strict=True):
        partition = sum(math.exp(value) for value in row)
        total -= sum(q * math.log(math.exp(value) / partition) for q, value in zip(shares, row, strict=True))
    assert soft_cross_entropy(logits, soft_labels).item() == pytest.approx(total / 6, rel=1e-12)


def test_soft_cross_entropy_has_closed_forms() -> None:
    """Labels themselves give the plain cross-entropy; the model's own probabilities give their entropy, no gradient."""
    logits = randn(6, 4, seed=3).requires_grad_()
    one_hot = functional.one_hot(LABELS, 4).double()
    plain = cross_entropy(logits, LABELS, label_smoothing=0.0)
    assert soft_cross_entropy(logits, one_hot).item() == pytest.approx(plain.item(), rel=1e-12)
    own = logits.detach().softmax(1)
    loss = soft_cross_entropy(logits, own)
    assert loss.item() == pytest.approx(-(own * own.log()).sum(1).mean().item(), rel=1e-12)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-15
