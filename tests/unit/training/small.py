"""A small model and batch for the tests of training."""

import torch
from torch import Tensor

from lungsound.axes import PatchGrid
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.patchmix import PatchMixDraw
from tests.networks import make_ast

CLASSES = ("normal", "crackle", "wheeze", "both")
NUM_MELS, NUM_FRAMES, DIM = 32, 48, 12
CPU = torch.device("cpu")


def small_model(
    *, projection_dim: int | None = DIM, seed: int = 0, dtype: torch.dtype = torch.float64, depth: int = 1
) -> LungSoundClassifier:
    encoder = make_ast(num_mels=NUM_MELS, num_frames=NUM_FRAMES, dim=DIM, depth=depth, num_heads=3)
    model = LungSoundClassifier(encoder, CLASSES, projection_dim=projection_dim)
    model.initialize(torch.Generator().manual_seed(seed))
    return model.to(dtype)


def small_batch(batch_size: int = 4, *, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Filter banks (batch, time, mel) and labels (batch,)."""
    generator = torch.Generator().manual_seed(seed)
    fbank = torch.randn(batch_size, NUM_FRAMES, NUM_MELS, generator=generator, dtype=dtype)
    return fbank, torch.arange(batch_size) % len(CLASSES)


def fixed_draw(batch_size: int, grid: PatchGrid, generator: torch.Generator) -> PatchMixDraw:
    """Each sample gets the first 3 patches of the next one."""
    del generator
    replaced = torch.arange(grid.num_patches) < 3
    lam = torch.tensor(1 - 3 / grid.num_patches, dtype=torch.float64)
    return PatchMixDraw(partner=torch.arange(batch_size).roll(-1), replaced=replaced, lam=lam)
