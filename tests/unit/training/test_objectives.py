"""What each objective computes, where its gradients go, and how often the network is run."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lungsound.config import ObjectiveSettings, PatchMixSettings
from lungsound.data.batches import Batch
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import mix_patches
from lungsound.training.losses import mixed_cross_entropy, patch_mix_contrastive_loss
from lungsound.training.objectives import (
    CrossEntropy,
    Loss,
    Objective,
    PatchMixContrastive,
    PatchMixCrossEntropy,
    make_objective,
    patch_mix_draw,
)
from tests.unit.training.small import CPU, fixed_draw, small_batch, small_model

TARGETS = ("grad_block", "grad_flow", "project_block", "project_flow")
WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
OBJECTIVES: dict[str, Objective] = {
    "ce": CrossEntropy(ObjectiveSettings()),
    "patchmix_ce": PatchMixCrossEntropy(fixed_draw, ObjectiveSettings()),
    **{target: PatchMixContrastive(fixed_draw, ObjectiveSettings(target=target)) for target in TARGETS},
}


class Watched:
    """Counts the calls of a model's parts and keeps the features in the order in which they were made."""

    def __init__(self, model: LungSoundClassifier) -> None:
        self.calls: Counter[str] = Counter()
        self.features: list[Tensor] = []
        encoder: Any = model.encoder
        encode = encoder.encode

        def watched_encode(patches: Tensor, num_columns: Tensor | None = None) -> Tensor:
            self.calls["encode"] += 1
            self.features.append(encode(patches, num_columns))
            self.features[-1].retain_grad()
            return self.features[-1]

        def count_embedding(*_: object) -> None:
            self.calls["embed"] += 1

        encoder.encode = watched_encode
        encoder.patch_embed.register_forward_hook(count_embedding)


def run(
    objective: Objective, *, seed: int = 0, model: LungSoundClassifier | None = None
) -> tuple[LungSoundClassifier, Watched, Loss]:
    model = model or small_model()
    watched = Watched(model)
    fbank, labels = small_batch()
    return model, watched, objective(model, Batch(fbank, labels), generator=torch.Generator().manual_seed(seed))


def parts_reached(model: LungSoundClassifier) -> set[str]:
    """Which of encoder, head and projector got a gradient that is not zero."""
    return {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
    }


# ---- values ----


def test_cross_entropy_of_the_clean_view() -> None:
    model, _, loss = run(CrossEntropy(ObjectiveSettings(), class_weights=WEIGHTS))
    fbank, labels = small_batch()
    assert torch.equal(loss.logits, model(fbank))
    expected = functional.cross_entropy(model(fbank), labels, weight=WEIGHTS)
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert loss.parts.keys() == {"ce"}


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_patch_mix_cross_entropy_of_the_mixed_view(weights: Tensor | None) -> None:
    model, _, loss = run(PatchMixCrossEntropy(fixed_draw, ObjectiveSettings(), class_weights=weights))
    fbank, labels = small_batch()
    draw = fixed_draw(4, model.encoder.grid, torch.Generator())
    logits = model.head(model.encoder.encode(mix_patches(model.encoder.embed_patches(fbank), draw)))
    expected = mixed_cross_entropy(
        logits, labels, labels.roll(-1), lam=draw.lam, class_weights=weights, label_smoothing=0.0
    )
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert torch.allclose(loss.logits, logits)
    assert loss.parts.keys() == {"patchmix_ce"}


@pytest.mark.parametrize("name", ["ce", "patchmix_ce", "patchmix_cl"])
def test_label_smoothing_changes_the_cross_entropy_of_every_objective(name: str) -> None:
    """Labels smoothed all the way say nothing of the true class: each is the mean over the classes."""

    def smoothed(smoothing: float) -> Loss:
        settings = ObjectiveSettings.model_validate({"name": name, "label_smoothing": smoothing, "target": "grad_flow"})
        objective = make_objective(settings, PatchMixSettings(beta=0.0), class_counts=[1, 1, 1, 1], device=CPU)
        return run(objective)[2]

    none, half, whole = (smoothed(share) for share in (0.0, 0.5, 1.0))
    part = "patchmix_ce" if name == "patchmix_ce" else "ce"
    even = -whole.logits.log_softmax(1).mean()
    assert whole.parts[part].item() == pytest.approx(even.item(), rel=1e-12)
    assert half.parts[part].item() == pytest.approx((none.parts[part] + whole.parts[part]).item() / 2, rel=1e-12)
    assert name != "patchmix_cl" or half.parts["contrastive"].item() == none.parts["contrastive"].item()


@pytest.mark.parametrize("negatives", ["all", "diff_label"])
@pytest.mark.parametrize("target", TARGETS)
def test_contrastive_objective_is_cross_entropy_plus_alpha_times_contrast(target: str, negatives: str) -> None:
    model, _, loss = run(
        PatchMixContrastive(
            fixed_draw,
            ObjectiveSettings(target=target, negatives=negatives, alpha=0.7, temperature=0.3),
            class_weights=WEIGHTS,
        )
    )
    fbank, labels = small_batch()
    labels_ = labels if negatives == "diff_label" else None
    assert model.projector is not None
    draw = fixed_draw(4, model.encoder.grid, torch.Generator())
    clean = model.encoder(fbank)
    mixed = model.encoder.encode(mix_patches(model.encoder.embed_patches(fbank), draw))
    anchor = model.projector(clean) if target.startswith("project") else clean
    contrastive = patch_mix_contrastive_loss(
        model.projector(mixed), anchor, draw.partner, lam=draw.lam, temperature=0.3, labels=labels_
    )
    ce = functional.cross_entropy(model.head(clean), labels, weight=WEIGHTS)
    assert loss.parts["ce"].item() == pytest.approx(ce.item(), rel=1e-12)
    assert loss.parts["contrastive"].item() == pytest.approx(contrastive.item(), rel=1e-12)
    assert loss.total.item() == pytest.approx((ce + 0.7 * contrastive).item(), rel=1e-12)
    assert torch.allclose(loss.logits, model.head(clean))


@pytest.mark.parametrize("name", ["patchmix_ce", "grad_block"])
def test_the_draw_is_determined_by_the_generator(name: str) -> None:
    draw = patch_mix_draw(PatchMixSettings())
    contrastive = PatchMixContrastive(draw, ObjectiveSettings())
    objective = PatchMixCrossEntropy(draw, ObjectiveSettings()) if name == "patchmix_ce" else contrastive
    totals = [run(objective, seed=seed)[2].total.item() for seed in (1, 1, 2)]
    assert totals[0] == totals[1] != totals[2]


# ---- how often the network is run ----


@pytest.mark.parametrize(
    ("name", "num_encodings"), [("ce", 1), ("patchmix_ce", 1), *((target, 2) for target in TARGETS)]
)
def test_both_views_share_one_patch_embedding(name: str, num_encodings: int) -> None:
    _, watched, _ = run(OBJECTIVES[name])
    assert watched.calls == {"embed": 1, "encode": num_encodings}


# ---- gradients ----


@pytest.mark.parametrize("target", TARGETS)
def test_the_contrast_reaches_the_clean_view_only_when_it_flows(target: str) -> None:
    model, watched, loss = run(OBJECTIVES[target])
    loss.parts["contrastive"].backward()
    clean, mixed = watched.features
    assert mixed.grad is not None
    assert mixed.grad.abs().max() > 0
    if target.endswith("flow"):
        assert clean.grad is not None
        assert clean.grad.abs().max() > 0
    else:
        assert clean.grad is None
    assert parts_reached(model) == {"encoder", "projector"}


@pytest.mark.parametrize("target", TARGETS)
def test_the_cross_entropy_reaches_the_clean_view_and_no_projector(target: str) -> None:
    model, watched, loss = run(OBJECTIVES[target])
    loss.parts["ce"].backward()
    clean, mixed = watched.features
    assert clean.grad is not None
    assert clean.grad.abs().max() > 0
    assert mixed.grad is None
    assert parts_reached(model) == {"encoder", "head"}


def test_a_blocked_projection_is_a_constant() -> None:
    """The projector learns from the mixed view alone, with the anchors as numbers."""
    model, _, loss = run(OBJECTIVES["project_block"])
    loss.parts["contrastive"].backward()
    assert model.projector is not None
    found = model.projector.linear2.weight.grad
    assert found is not None

    again = small_model()
    assert again.projector is not None
    fbank, _ = small_batch()
    draw = fixed_draw(4, again.encoder.grid, torch.Generator())
    with torch.no_grad():
        anchor = again.projector(again.encoder(fbank))
    mixed = again.projector(again.encoder.encode(mix_patches(again.encoder.embed_patches(fbank), draw)))
    patch_mix_contrastive_loss(mixed, anchor, draw.partner, lam=draw.lam, temperature=0.06).backward()
    assert again.projector.linear2.weight.grad is not None
    assert torch.allclose(found, again.projector.linear2.weight.grad, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "reached"),
    [("ce", {"encoder", "head"}), ("patchmix_ce", {"encoder", "head"})]
    + [(target, {"encoder", "head", "projector"}) for target in TARGETS],
)
def test_every_part_in_use_is_trained(name: str, reached: set[str]) -> None:
    model, _, loss = run(OBJECTIVES[name])
    loss.total.backward()
    assert parts_reached(model) == reached


# ---- soft labels ----


@pytest.mark.parametrize("name", ["ce", "patchmix_ce", "patchmix_cl"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_soft_labels_take_their_share_of_every_cross_entropy(name: str, share: float) -> None:
    """By loops: class weights count for the labels alone, and a mixed view has the soft labels of both its sources."""
    settings = ObjectiveSettings.model_validate({"name": name, "teacher_weight": share, "is_class_weighted": True})
    objective = make_objective(settings, PatchMixSettings(), class_counts=[4, 2, 1, 1], device=CPU)
    model = small_model(dtype=torch.float32)
    fbank, labels = small_batch(dtype=torch.float32)
    soft_labels = torch.randn(4, 4, generator=torch.Generator().manual_seed(8)).softmax(1)

    def loss_of(soft: Tensor | None) -> Loss:
        batch = Batch(fbank, labels, soft_labels=soft)
        return objective(model, batch, generator=torch.Generator().manual_seed(3))

    hard, both = loss_of(None), loss_of(soft_labels)
    part = "patchmix_ce" if name == "patchmix_ce" else "ce"
    partner, lam = torch.arange(4), torch.ones(4)
    if name == "patchmix_ce":
        draw = patch_mix_draw(PatchMixSettings())(4, model.patch_encoder.grid, torch.Generator().manual_seed(3))
        partner, lam = draw.partner, draw.lam.expand(4)
    log_probabilities, soft = both.logits.log_softmax(1).tolist(), 0.0
    for row in range(4):
        for c in range(4):
            mixed = lam[row] * soft_labels[row, c] + (1 - lam[row]) * soft_labels[partner[row], c]
            soft -= float(mixed) * log_probabilities[row][c] / 4
    expected = (1 - share) * hard.parts[part].item() + share * soft
    assert both.parts[part].item() == pytest.approx(expected, rel=1e-5)
    if name == "patchmix_cl":
        assert both.parts["contrastive"].item() == hard.parts["contrastive"].item()


# ---- mistakes ----


def test_a_model_without_projector_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a model with a projector"):
        run(PatchMixContrastive(fixed_draw, ObjectiveSettings()), model=small_model(projection_dim=None))


# ---- samples of different lengths ----


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_lies_behind_the_end_of_a_sample_changes_nothing(name: str) -> None:
    """Not its own padding, and not what a partner has there."""
    model = small_model().eval()  # no batch statistics: a sample alone decides its own part
    fbank, labels = small_batch()
    time = model.patch_encoder.grid.time
    num_columns = [1 + sample % time for sample in range(len(fbank))]
    num_frames = torch.tensor([10 * count - 3 for count in num_columns])  # patches of 16 frames, 10 apart
    first_unheard = [16 + 10 * (count - 1) for count in num_columns]
    other = fbank.clone()
    for sample, frame in enumerate(first_unheard):
        other[sample, frame:] += 3.0

    def loss(of: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return OBJECTIVES[name](model, Batch(of, labels, num_frames), generator=generator).total

    assert torch.equal(loss(fbank), loss(other))
    assert not torch.equal(
        loss(fbank), OBJECTIVES[name](model, Batch(fbank, labels), generator=torch.Generator()).total
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_samples_of_full_length_are_trained_as_without_lengths(name: str) -> None:
    model = small_model()
    fbank, labels = small_batch()
    full = torch.full((len(fbank),), model.patch_encoder.num_frames)
    losses = [
        OBJECTIVES[name](model, Batch(fbank, labels, frames), generator=torch.Generator().manual_seed(0)).total
        for frames in (None, full)
    ]
    assert torch.allclose(losses[0], losses[1], atol=1e-12)


@pytest.mark.parametrize(
    "num_frames", [None, [20, 48, 33, 48], [33, 33, 33, 33]], ids=["whole", "lengths", "one length"]
)
@pytest.mark.parametrize(
    "objective",
    [
        CrossEntropy(ObjectiveSettings()),
        PatchMixCrossEntropy(fixed_draw, ObjectiveSettings()),
        PatchMixContrastive(fixed_draw, ObjectiveSettings(negatives="diff_label")),
    ],
)
def test_a_step_asks_the_device_for_no_value(
    objective: Objective, num_frames: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device "meta" nothing has a value: what would make the host wait for a GPU is an error there."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which it does not know
    fbank, labels = small_batch(dtype=torch.float32)
    lengths = None if num_frames is None else torch.tensor(num_frames)
    batch = Batch(fbank, labels, lengths, soft_labels=torch.full((4, 4), 0.25)).to(torch.device("meta"))
    model = small_model(dtype=torch.float32).to("meta")
    settled: list[Tensor] = []

    def settle(part: Tensor) -> None:
        settled.append(part)
        part.backward()

    settle(objective(model, batch, generator=torch.Generator(), settle=settle).total)
    assert all(part.is_meta for part in settled)
    assert {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None} >= {"encoder"}
