"""Patch-Mix, losses, projector, schedules, blending and class weights as the authors' published program gives them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lungsound.axes import PatchGrid
from lungsound.config import TrainSettings
from lungsound.models import patchmix
from lungsound.models.classifier import Projector
from lungsound.models.patchmix import PatchMixDraw, draw_patch_mix, mix_patches
from lungsound.training.losses import class_weights, cross_entropy, mixed_cross_entropy, patch_mix_contrastive_loss
from lungsound.training.trainer import Schedule, blend_statistics, statistics
from tests.golden.formulas import param

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "training_reference.json").read_text())
ARRAYS = np.load(DATA / "training_reference.npz")
GRID = PatchGrid(freq=12, time=79)
GOLDEN_LAM = 1 - 300 / 948  # the one lambda that the tags of d_patchmix_ce round
# A loss is the logarithm of 1 plus the share of the others: of a small one, float32 sees steps of the spacing at 1.
LOSS_TOLERANCE = {"float32": {"rel": 1e-5, "abs": torch.finfo(torch.float32).eps}, "float64": {"rel": 1e-12}}


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(ARRAYS[name])


def names_under(prefix: str) -> list[str]:
    return sorted(name.removeprefix(prefix) for name in ARRAYS.files if name.startswith(prefix))


# ---- Patch-Mix ----

OPERATIONS = sorted({name.rpartition("/")[0] for name in names_under("patchmix_op/")})


def test_operations_cover_patches_and_time_columns_and_nothing_replaced() -> None:
    cases = [GOLDEN["patchmix_op"][name] for name in OPERATIONS]
    assert {case["n"] for case in cases} == {948, 79}
    assert 0 in {case["num_mask"] for case in cases}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_patch_comes_from_the_published_sample(name: str) -> None:
    case, index, mask = (
        GOLDEN["patchmix_op"][name],
        array(f"patchmix_op/{name}/index"),
        array(f"patchmix_op/{name}/mask"),
    )
    units = torch.zeros(case["n"], dtype=torch.bool)
    units[mask] = True
    replaced = units if case["n"] == 948 else units.expand(GRID.freq, -1).flatten()
    draw = PatchMixDraw(partner=index, replaced=replaced, lam=torch.tensor(case["lam"]))
    batch = len(index)
    patches = torch.arange(batch).reshape(batch, 1, 1).expand(batch, GRID.num_patches, 2)
    owner = mix_patches(patches, draw)[:, :, 1]
    assert torch.equal(owner, array(f"patchmix_op/{name}/owner").long())
    assert (10 * torch.arange(batch))[draw.partner].tolist() == case["y_b"]


@pytest.mark.parametrize("name", GOLDEN["patchmix_op"])
def test_share_kept_and_number_replaced_follow_from_the_beta_draw(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = GOLDEN["patchmix_op"][name]
    drawn = torch.tensor([case["lam_beta"]], dtype=torch.float64)
    monkeypatch.setattr(patchmix, "_draw_beta", lambda *_: drawn)
    axis = "patch" if case["n"] == 948 else "time"
    draw = draw_patch_mix(
        4,
        GRID,
        generator=torch.Generator(),
        beta=1.0,
        axis=axis,
        is_lam_per_sample=False,
        is_self_partner_allowed=True,
    )
    assert int(draw.replaced.sum()) == case["num_mask"] * (948 // case["n"])
    assert draw.lam.item() == pytest.approx(case["lam"], abs=1e-15)


# ---- losses ----


@pytest.mark.parametrize("mode", ["all", "diff_label"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("index", GOLDEN["contrastive"]["indices"])
def test_contrastive_loss(index: str, dtype: str, mode: str) -> None:
    anchor, mixed = (array(f"contrastive/proj{view}").to(getattr(torch, dtype)) for view in (1, 2))
    rows = [row for row in GOLDEN["contrastive"]["rows"] if (row[0], row[1], row[4]) == (index, mode, dtype)]
    assert len(rows) == 25
    for *_, temperature, lam, _, expected in rows:
        loss = patch_mix_contrastive_loss(
            mixed,
            anchor,
            torch.tensor(GOLDEN["contrastive"]["indices"][index]),
            lam=torch.tensor(lam, dtype=torch.float64),
            temperature=temperature,
            labels=array("contrastive/labels") if mode == "diff_label" else None,
        )
        assert loss.item() == pytest.approx(expected, **LOSS_TOLERANCE[dtype])


def contrastive_gradients(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Our gradients for a name such as derange/diff_label/T0.06/lam0.683544."""
    index, mode, temperature, lam = name.split("/")
    exact_lam = next(row[3] for row in GOLDEN["contrastive"]["rows"] if f"lam{row[3]:.6f}" == lam)
    anchor, mixed = (array(f"contrastive/proj{view}").requires_grad_() for view in (1, 2))
    patch_mix_contrastive_loss(
        mixed,
        anchor,
        torch.tensor(GOLDEN["contrastive"]["indices"][index]),
        lam=torch.tensor(exact_lam, dtype=torch.float64),
        temperature=float(temperature.removeprefix("T")),
        labels=array("contrastive/labels") if mode == "diff_label" else None,
    ).backward()
    assert anchor.grad is not None
    assert mixed.grad is not None
    return anchor.grad, mixed.grad


@pytest.mark.parametrize("name", names_under("contrastive/grad1/"))
def test_contrastive_gradients_of_both_views(name: str) -> None:
    anchor, mixed = contrastive_gradients(name)
    np.testing.assert_allclose(anchor, ARRAYS[f"contrastive/grad1/{name}"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(mixed, ARRAYS[f"contrastive/grad2/{name}"], rtol=0, atol=1e-13)


def test_all_contrastive_gradients(golden_dir: Path) -> None:
    arrays = np.load(golden_dir / "d_contrastive.npz")
    names = [name.removeprefix("grad1/") for name in arrays.files if name.startswith("grad1/")]
    assert len(names) == 80
    for name in names:
        anchor, mixed = contrastive_gradients(name)
        np.testing.assert_allclose(anchor, arrays[f"grad1/{name}"], rtol=0, atol=1e-13, err_msg=name)
        np.testing.assert_allclose(mixed, arrays[f"grad2/{name}"], rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("tag", [tag for tag in GOLDEN["patchmix_ce"] if "plainCE" not in tag])
def test_mixed_cross_entropy_with_gradient(tag: str) -> None:
    weighting, index, lam = tag.split("/")
    exact_lam = {"lam0.683544": GOLDEN_LAM}.get(lam, float(lam.removeprefix("lam")))
    logits, labels = array("patchmix_ce/logits").requires_grad_(), array("patchmix_ce/labels")
    weights = array("patchmix_ce/class_weights").double() if weighting == "weighted" else None
    partner_labels = labels[torch.tensor(GOLDEN["contrastive"]["indices"][index])]
    lam_tensor = torch.tensor(exact_lam, dtype=torch.float64)
    loss = mixed_cross_entropy(
        logits, labels, partner_labels, lam=lam_tensor, class_weights=weights, label_smoothing=0.0
    )
    loss.backward()
    assert loss.item() == pytest.approx(GOLDEN["patchmix_ce"][tag], rel=1e-12)
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad, ARRAYS[f"patchmix_ce/grad/{tag}"], rtol=0, atol=1e-14)


@pytest.mark.parametrize("tag", [tag for tag in GOLDEN["patchmix_ce"] if "plainCE" in tag])
def test_plain_cross_entropy(tag: str) -> None:
    weights = array("patchmix_ce/class_weights").double() if tag.startswith("weighted") else None
    logits, labels = array("patchmix_ce/logits"), array("patchmix_ce/labels")
    loss = cross_entropy(logits, labels, class_weights=weights, label_smoothing=0.0)
    assert loss.item() == pytest.approx(GOLDEN["patchmix_ce"][tag], rel=1e-12)


@pytest.mark.parametrize("counts", GOLDEN["class_weights"])
def test_class_weights(counts: str) -> None:
    ours = class_weights(torch.tensor(json.loads(counts), dtype=torch.float32))
    assert ours.tolist() == pytest.approx(GOLDEN["class_weights"][counts], rel=2e-7)


# ---- projector ----


def test_projector_in_training_and_its_running_statistics() -> None:
    projector = Projector(16, 24)
    with torch.no_grad():
        for name, value in projector.state_dict().items():
            value.copy_(torch.from_numpy(np.asarray(param(f"projector.{name}", value.shape))))
    projector.double().train()
    out = projector(array("projector/in"))
    np.testing.assert_allclose(out.detach(), ARRAYS["projector/out_train_bnTrue"], atol=1e-12)
    np.testing.assert_allclose(projector.bn.running_mean, ARRAYS["projector/running_mean"], atol=1e-14)
    np.testing.assert_allclose(projector.bn.running_var, ARRAYS["projector/running_var"], atol=1e-14)
    assert int(projector.bn.num_batches_tracked) == int(ARRAYS["projector/num_batches_tracked"]) == 1


# ---- learning rate, blending ----


@pytest.mark.parametrize("name", GOLDEN["schedules"])
def test_learning_rates_of_every_epoch_and_batch(name: str) -> None:
    case = GOLDEN["schedules"][name]
    schedule = Schedule(
        TrainSettings(**{name.replace("kind", "schedule"): value for name, value in case["settings"].items()})
    )
    assert len(case["rates"]) == schedule.train.epochs
    for epoch, published in enumerate(case["rates"], start=1):
        per_batch = published if isinstance(published, list) else [published] * 3
        ours = [schedule.at(epoch, step, num_steps=len(per_batch)) for step in range(len(per_batch))]
        assert ours == pytest.approx(per_batch, rel=1e-12)


def state(values: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


@pytest.mark.parametrize("beta", GOLDEN["blend"]["out_by_beta"])
def test_blending_of_statistics(beta: str) -> None:
    """As published (of weights: test_trajectory). Its integers are truncated averages: ours keep the new value."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.load_state_dict(state(GOLDEN["blend"]["old"]))
    old = statistics(model)
    model.load_state_dict(state(GOLDEN["blend"]["new"]))
    blend_statistics(model, old, float(beta))
    published = state(GOLDEN["blend"]["out_by_beta"][beta])
    ours = model.state_dict()
    assert ours.keys() == published.keys()
    for name in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(ours[name], published[name], rtol=0, atol=2e-7, err_msg=name)
    assert int(ours["1.num_batches_tracked"]) == GOLDEN["blend"]["new"]["1.num_batches_tracked"] == 7
    assert int(published["1.num_batches_tracked"]) == (7 if beta == "0.0" else 6)
