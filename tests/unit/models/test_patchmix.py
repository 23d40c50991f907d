"""Patch-Mix: what is drawn, and that mixing copies exactly what was drawn."""

from typing import Any

import pytest
import torch
from scipy import stats

from lungsound.axes import PatchGrid
from lungsound.config import PatchMixSettings
from lungsound.models.patchmix import PatchMixDraw, _draw_beta, draw_patch_mix, mix_patches, within

GRID = PatchGrid(freq=3, time=7)


def drawn(batch_size: int, grid: PatchGrid, *, generator: torch.Generator, **changed: Any) -> PatchMixDraw:
    """The published draw, but for what is changed."""
    settings = PatchMixSettings(is_lam_per_sample=False).model_dump()
    return draw_patch_mix(batch_size, grid, generator=generator, **{**settings, **changed})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- the draw ----


@pytest.mark.parametrize("beta", [0.2, 0.4, 1.0, 5.0])
def test_lambda_has_the_beta_distribution(beta: float) -> None:
    drawn = _draw_beta(20_000, beta, generator()).numpy()
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.03)
    assert stats.kstest(drawn, stats.beta(beta, beta).cdf).pvalue > 0.01


@pytest.mark.parametrize("axis", ["patch", "time"])
def test_lambda_is_the_share_of_patches_that_stay(axis: str) -> None:
    for seed in range(50):
        draw = drawn(4, GRID, generator=generator(seed), axis=axis)
        assert draw.replaced.shape == (GRID.num_patches,)
        assert draw.lam.dtype == torch.float64
        assert draw.lam.item() == pytest.approx(1 - draw.replaced.double().mean().item(), abs=1e-15)


def test_the_number_replaced_is_truncated_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for share_kept, num_replaced in [(0.0, 21), (0.999, 0), (0.5, 10), (0.05, 19), (1.0, 0)]:
        share = torch.tensor([share_kept], dtype=torch.float64)
        monkeypatch.setattr("lungsound.models.patchmix._draw_beta", lambda *_, share=share: share)
        draw = drawn(4, GRID, generator=generator())
        assert int(draw.replaced.sum()) == num_replaced == int(21 * (1 - share_kept))


def test_every_patch_is_replaced_equally_often() -> None:
    shared = generator()
    counts = sum(drawn(2, GRID, generator=shared).replaced.double() for _ in range(2000))
    assert counts.numpy() / 2000 == pytest.approx([0.5 - 0.5 / 21] * 21, abs=0.04)  # truncation takes half a patch


def test_whole_time_columns_are_replaced() -> None:
    sizes = set()
    for seed in range(30):
        columns = drawn(4, GRID, generator=generator(seed), axis="time").replaced.reshape(3, 7)
        assert (columns == columns[0]).all()
        sizes.add(int(columns[0].sum()))
    assert len(sizes) > 3


def test_partners_are_uniform_permutations() -> None:
    shared = generator()
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(1500):
        partner = tuple(drawn(3, GRID, generator=shared).partner.tolist())
        assert sorted(partner) == [0, 1, 2]
        seen[partner] = seen.get(partner, 0) + 1
    assert len(seen) == 6
    assert stats.chisquare(list(seen.values())).pvalue > 0.01


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_without_self_partners_none_is_its_own(batch_size: int) -> None:
    seen = set()
    for seed in range(60):
        partner = drawn(batch_size, GRID, generator=generator(seed), is_self_partner_allowed=False).partner
        assert sorted(partner.tolist()) == list(range(batch_size))
        assert not (partner == torch.arange(batch_size)).any()
        seen.add(tuple(partner.tolist()))
    assert len(seen) > batch_size - 2


def test_a_batch_of_one_is_its_own_partner() -> None:
    assert drawn(1, GRID, generator=generator(), is_self_partner_allowed=False).partner.tolist() == [0]


@pytest.mark.parametrize("axis", ["patch", "time"])
def test_one_lambda_for_each_sample(axis: str) -> None:
    draw = drawn(6, GRID, generator=generator(), axis=axis, is_lam_per_sample=True)
    assert draw.replaced.shape == (6, 21)
    assert draw.lam.tolist() == pytest.approx((1 - draw.replaced.double().mean(1)).tolist(), abs=1e-15)
    assert len(set(draw.lam.tolist())) > 2
    if axis == "time":
        columns = draw.replaced.reshape(6, 3, 7)
        assert (columns == columns[:, :1]).all()


def test_beta_0_mixes_nothing() -> None:
    draw = drawn(4, GRID, generator=generator(), beta=0.0)
    assert draw.lam.item() == 1.0
    assert not draw.replaced.any()


def test_the_draw_is_determined_by_the_generator() -> None:
    first, second, other = (drawn(8, GRID, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.partner, second.partner)
    assert torch.equal(first.replaced, second.replaced)
    assert not torch.equal(first.replaced, other.replaced)


# ---- the mix ----


def loops(patches: torch.Tensor, draw: PatchMixDraw, pool: torch.Tensor) -> torch.Tensor:
    out = patches.clone()
    for i in range(patches.shape[0]):
        for k in range(patches.shape[1]):
            if draw.replaced[k] if draw.replaced.ndim == 1 else draw.replaced[i, k]:
                out[i, k] = pool[draw.partner[i], k]
    return out


@pytest.mark.parametrize("is_lam_per_sample", [False, True])
def test_mixing_equals_loops_and_changes_nothing(is_lam_per_sample: bool) -> None:
    patches = torch.randn(5, 21, 4, generator=generator(3))
    before = patches.clone()
    for seed in range(5):
        draw = drawn(5, GRID, generator=generator(seed), is_lam_per_sample=is_lam_per_sample)
        assert torch.equal(mix_patches(patches, draw), loops(patches, draw, patches))
    assert torch.equal(patches, before)


def test_partners_may_come_from_a_larger_pool() -> None:
    pool = torch.randn(6, 21, 4, generator=generator(3))
    draw = PatchMixDraw(partner=torch.tensor([5, 0]), replaced=torch.arange(21) < 9, lam=torch.tensor(12 / 21))
    mixed = mix_patches(pool[2:4], draw, pool=pool)
    assert torch.equal(mixed, loops(pool[2:4], draw, pool))
    assert torch.equal(mixed[0, :9], pool[5, :9])


def test_gradients_go_to_where_each_patch_came_from() -> None:
    patches = torch.zeros(3, 21, 1, requires_grad=True)
    draw = PatchMixDraw(partner=torch.tensor([1, 1, 0]), replaced=torch.arange(21) < 5, lam=torch.tensor(16 / 21))
    mix_patches(patches, draw).sum().backward()
    assert patches.grad is not None
    assert patches.grad[:, :5, 0].tolist() == [[1.0] * 5, [2.0] * 5, [0.0] * 5]
    assert (patches.grad[:, 5:] == 1).all()


def test_a_draw_is_moved_with_lambda_in_the_dtype_of_the_losses() -> None:
    moved = drawn(4, GRID, generator=generator()).to(torch.device("cpu"), torch.float32)
    assert (moved.lam.dtype, moved.partner.dtype, moved.replaced.dtype) == (torch.float32, torch.int64, torch.bool)


# ---- samples of different lengths ----


@pytest.mark.parametrize("is_lam_per_sample", [False, True])
def test_a_patch_is_replaced_where_sample_and_partner_have_one(is_lam_per_sample: bool) -> None:
    grid = PatchGrid(freq=3, time=5)
    lengths = (5, 1, 3, 2)
    heard = torch.tensor([[index % grid.time < length for index in range(15)] for length in lengths])
    draw = drawn(4, grid, generator=generator(3), is_lam_per_sample=is_lam_per_sample)
    inside = within(draw, heard)
    assert inside.lam.dtype == draw.lam.dtype
    for sample, length in enumerate(lengths):
        partner = int(draw.partner[sample])
        row = draw.replaced[sample] if is_lam_per_sample else draw.replaced
        num_replaced = 0
        for index in range(15):
            expected = bool(row[index]) and index % 5 < length and index % 5 < lengths[partner]
            assert bool(inside.replaced[sample, index]) == expected
            num_replaced += expected
        assert float(inside.lam[sample]) == pytest.approx(1 - num_replaced / (3 * length))


def test_full_samples_keep_their_draw() -> None:
    draw = drawn(4, PatchGrid(freq=3, time=5), generator=generator(1))
    inside = within(draw, torch.ones(4, 15, dtype=torch.bool))
    assert torch.equal(inside.replaced, draw.replaced.expand(4, -1))
    assert torch.allclose(inside.lam, draw.lam.expand(4), atol=1e-15)
