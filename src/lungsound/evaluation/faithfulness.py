"""Whether an explanation is true to the model, and whether it points at what is there.

Deletion and insertion (Petsiuk et al., "RISE", BMVC 2018): tiles of the filter bank are taken away, or put in, from the
most relevant on, and the probability of the answer is followed. What is taken away is replaced by background. The less
area under the curve of deletion, and the more under that of insertion, the better the order. Tiles do not overlap, so
that nothing of what was taken away is left in a patch that reaches into its neighbour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lungsound.evaluation.spread import ValueOf
from lungsound.evaluation.uncertainty import NUM_DRAWS, Estimate, interval_over_patients

TILE_SIZE = 16  # frames and mels of a tile, those of a patch
NUM_STEPS = 10

Answer = Callable[[Tensor], Tensor]
"""From masks (step, time, mel), true where a bin is replaced by background, to probabilities (step,)."""


@dataclass(frozen=True)
class Areas:
    """Area under the probability of the answer, 0 to 1, over the share of tiles that are away, or put in."""

    deletion: float
    insertion: float


def tiles(num_frames: int, num_mels: int, *, size: int = TILE_SIZE) -> Tensor:
    """Number of the tile (time, mel) of each bin, from 0 on, mel by mel; the last ones of a row or column are cut."""
    per_row = -(-num_mels // size)
    numbers: Tensor = (torch.arange(num_frames) // size * per_row).unsqueeze(1) + torch.arange(num_mels) // size
    return numbers


def tile_means(bins: Tensor, tile: Tensor) -> Tensor:
    """Mean (tile,) of the values (time, mel) in each tile."""
    sums = torch.zeros(int(tile.max()) + 1, dtype=bins.dtype).index_add_(0, tile.flatten(), bins.flatten())
    return sums / torch.bincount(tile.flatten())


def deletion_and_insertion(answer: Answer, values: Tensor, tile: Tensor, *, num_steps: int = NUM_STEPS) -> Areas:
    """Areas when tiles go from the highest of `values` (tile,) on, the first of equals first, in about even steps."""
    num_tiles = len(values)
    place = torch.empty(num_tiles, dtype=torch.int64)
    place[values.argsort(descending=True, stable=True)] = torch.arange(num_tiles)
    num_gone = torch.tensor(sorted({round(num_tiles * step / num_steps) for step in range(num_steps + 1)}))
    is_gone = place[tile] < num_gone[:, None, None]
    shares = num_gone.double() / num_tiles
    deletion, insertion = (float(torch.trapezoid(answer(mask).double(), shares)) for mask in (is_gone, ~is_gone))
    return Areas(deletion, insertion)


@dataclass(frozen=True)
class Overlap:
    """How well values point at what was planted.

    `is_hit`: the highest tile touches it. `share` of the positive values that lies in tiles which touch it; NaN when
    no value is positive. By chance both are `area`, the share of the tiles that touch it.
    """

    is_hit: bool
    share: float
    area: float


def overlap(values: Tensor, is_planted: Tensor) -> Overlap:
    """Of the values (tile,) with the tiles (tile,) that were touched by what was planted."""
    positive = values.double().clamp(min=0)
    share = positive[is_planted].sum() / positive.sum()
    return Overlap(bool(is_planted[values.argmax()]), float(share), float(is_planted.double().mean()))


def mean_over_cycles(
    values: Sequence[float],
    patients: Sequence[str],
    *,
    minus: Sequence[float] | None = None,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Estimate:
    """Mean of values that cycles have, or of their paired differences, with its interval over the cycles' patients.

    Cycles of a value that is NaN are left out.
    """
    differences = np.asarray(values, dtype=np.float64) - (0.0 if minus is None else np.asarray(minus))
    names, rows = np.unique(np.array(patients), return_inverse=True)
    value_of = _weighted_mean(differences, rows.astype(np.int64), len(names))
    value = float(value_of(np.ones((1, len(names)), dtype=np.int64))[0])
    generator = np.random.default_rng(seed)
    return Estimate(value, interval_over_patients(value_of, len(names), generator=generator, num_draws=num_draws))


def _weighted_mean(values: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], num_patients: int) -> ValueOf:
    is_known = ~np.isnan(values)
    sums = np.bincount(rows[is_known], values[is_known], minlength=num_patients)
    counts = np.bincount(rows[is_known], minlength=num_patients)

    def value_of(weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ sums) / (weights @ counts))

    return value_of
