"""Patch-Mix: replace random patches of each sample by those of a partner. First draw, then mix.

Paper: section 2.2. As published, one lambda, one partner permutation and one set of replaced positions serve the
whole batch; lambda is then the share of patches that a sample keeps.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lungsound.axes import PatchGrid


@dataclass(frozen=True)
class PatchMixDraw:
    """One draw for a batch.

    partner   (batch,) int64: whose patches are put in
    replaced  (patch,) or (batch, patch) bool: which patches are replaced
    lam       () or (batch,) float64: share of patches that stay
    """

    partner: Tensor
    replaced: Tensor
    lam: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "PatchMixDraw":
        """The draw on a device, lambda in the dtype of the losses."""
        partner, replaced = (each.to(device, non_blocking=True) for each in (self.partner, self.replaced))
        return PatchMixDraw(partner, replaced, self.lam.to(device, dtype, non_blocking=True))

    def of_rows(self, rows: slice) -> "PatchMixDraw":
        """The draw of some samples, whose partners are still positions in the batch."""
        replaced = self.replaced if self.replaced.ndim == 1 else self.replaced[rows]
        return PatchMixDraw(self.partner[rows], replaced, self.lam if self.lam.ndim == 0 else self.lam[rows])


def draw_patch_mix(
    batch_size: int,
    grid: PatchGrid,
    *,
    generator: torch.Generator,
    beta: float,
    axis: str,
    is_lam_per_sample: bool,
    is_self_partner_allowed: bool,
) -> PatchMixDraw:
    """Draw lambda ~ Beta(beta, beta), a partner for each sample, and the patches to replace.

    axis="patch" replaces `int(num_patches * (1 - lambda))` single patches, "time" as many whole time columns of the
    grid. With `beta` 0 nothing is mixed. Without self partners the permutation is one random cycle.
    """
    num_units = grid.num_patches if axis == "patch" else grid.time
    rows = batch_size if is_lam_per_sample else 1
    share_kept = _draw_beta(rows, beta, generator)
    partner = torch.randperm(batch_size, generator=generator)
    if not is_self_partner_allowed and batch_size > 1:
        cycle = partner
        partner = torch.empty_like(cycle)
        partner[cycle] = cycle.roll(1)
    num_replaced = (num_units * (1 - share_kept)).to(torch.int64)
    units = torch.stack([torch.randperm(num_units, generator=generator) < count for count in num_replaced])
    replaced = units if axis == "patch" else units.repeat(1, grid.freq)
    lam = 1 - num_replaced.to(torch.float64) / num_units
    if not is_lam_per_sample:
        replaced, lam = replaced[0], lam[0]
    return PatchMixDraw(partner=partner, replaced=replaced, lam=lam)


def within(draw: PatchMixDraw, mask: Tensor) -> PatchMixDraw:
    """The draw for samples of different lengths: a patch is replaced where the sample and its partner both have one.

    mask (batch, patch) bool says which patches a sample has. A sample keeps its own length, and lambda becomes the
    share of its own patches that stay.
    """
    replaced = draw.replaced & mask & mask[draw.partner]
    lam = 1 - replaced.sum(dim=1).to(draw.lam.dtype) / mask.sum(dim=1)
    return replace(draw, replaced=replaced, lam=lam)


def mix_patches(patches: Tensor, draw: PatchMixDraw, *, pool: Tensor | None = None) -> Tensor:
    """Patches (batch, patch, dim) with the replaced ones taken from the partner's; never in place.

    `pool` (pool, patch, dim) are those of all samples that may be partners, by default the batch itself.
    """
    partner_patches = (patches if pool is None else pool)[draw.partner]
    return torch.where(draw.replaced.unsqueeze(-1), partner_patches, patches)


def _draw_beta(num_draws: int, beta: float, generator: torch.Generator) -> Tensor:
    """Draws of Beta(beta, beta), float64, from two gamma variables."""
    if beta <= 0:
        return torch.ones(num_draws, dtype=torch.float64)
    gammas = torch._standard_gamma(torch.full((2, num_draws), beta, dtype=torch.float64), generator=generator)
    return gammas[0] / gammas.sum(0)
