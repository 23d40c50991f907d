"""Positions and patch kernels against what the authors' constructor makes of AudioSet and ImageNet weights.

`fdim<a>_tdim<b>` is what their constructor is called with: 128 and 798 for the right axes, 798 and 128 in their main
program. Inputs are formulas; `coordinates` are the outcome for an embedding that holds its own row and column.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from lungsound.axes import PatchGrid
from lungsound.config import ModelSettings
from lungsound.models.ast import PatchPlaces, adapt_positions, place_positions
from lungsound.models.weights import load_weights
from tests.golden.formulas import param
from tests.networks import make_ast

DATA = Path(__file__).parent / "data" / "encoder_positions.npz"
SOURCES = {
    "audioset": (PatchGrid(12, 101), "v.pos_embed", 768),
    "imagenet_base384": (PatchGrid(24, 24), "deit.pos_embed", 768),
    "imagenet_tiny224": (PatchGrid(14, 14), "deit.pos_embed", 192),
}
ALIGNED = [("audioset", 128, frames) for frames in (798, 1200, 1024)] + [
    ("audioset", 64, 400),
    ("imagenet_base384", 128, 798),
    ("imagenet_tiny224", 128, 798),
]


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[np.float32]]:
    with np.load(DATA) as arrays:
        return dict(arrays)


def positions(source: str) -> Tensor:
    grid, key, dim = SOURCES[source]
    return torch.from_numpy(param(key, (1, 2 + grid.num_patches, dim)))


def coordinates(grid: PatchGrid) -> Tensor:
    """An embedding of two dimensions that holds frequency row and time column, after two prefix tokens."""
    patches = torch.cartesian_prod(torch.arange(grid.freq), torch.arange(grid.time)).float()
    return torch.cat([torch.tensor([[-1.0, -1.0], [-2.0, -2.0]]), patches])[None]


def adapt(source: str, embedding: Tensor, num_mels: int, num_frames: int, position_grid: str) -> NDArray[np.float32]:
    out = adapt_positions(
        embedding,
        source_grid=SOURCES[source][0],
        target_grid=PatchGrid.of(num_mels, num_frames, stride=10),
        is_swapped=position_grid == "published",
    )
    return out[0].numpy()


@pytest.mark.parametrize(("source", "num_mels", "num_frames"), ALIGNED)
def test_aligned_is_the_constructor_with_the_right_axes(
    golden: dict[str, NDArray[np.float32]], source: str, num_mels: int, num_frames: int
) -> None:
    case = f"fdim{num_mels}_tdim{num_frames}"
    places = adapt(source, coordinates(SOURCES[source][0]), num_mels, num_frames, "aligned")
    np.testing.assert_allclose(places[2:], golden[f"{source}/coordinates_{case}"], atol=1e-5)
    values = adapt(source, positions(source), num_mels, num_frames, "aligned")
    np.testing.assert_allclose(values[:, 0], golden[f"{source}/channel0_{case}"], atol=1e-6)


@pytest.mark.parametrize("num_frames", [798, 1200, 1024])
def test_places_are_those_of_the_constructor_at_the_mels_and_stride_of_audioset(
    golden: dict[str, NDArray[np.float32]], num_frames: int
) -> None:
    old, new = PatchPlaces(128, 1024, 10, 10), PatchPlaces(128, num_frames, 10, 10)
    case = f"fdim128_tdim{num_frames}"
    places = place_positions(coordinates(old.grid), source=old, target=new)
    np.testing.assert_allclose(places[0, 2:], golden[f"audioset/coordinates_{case}"], atol=1e-5)
    values = place_positions(positions("audioset"), source=old, target=new)
    if num_frames <= 1024:
        np.testing.assert_array_equal(values[0, :, 0], golden[f"audioset/channel0_{case}"])
    else:  # torch's interpolation rounds the places to float32, ours does not
        np.testing.assert_allclose(values[0, :, 0], golden[f"audioset/channel0_{case}"], atol=1e-5)


@pytest.mark.parametrize("source", SOURCES)
def test_published_is_the_main_program_with_exchanged_axes(golden: dict[str, NDArray[np.float32]], source: str) -> None:
    places = adapt(source, coordinates(SOURCES[source][0]), 128, 798, "published")
    np.testing.assert_allclose(places[2:], golden[f"{source}/coordinates_fdim798_tdim128"], atol=1e-5)
    values = adapt(source, positions(source), 128, 798, "published")
    np.testing.assert_allclose(values[:, 0], golden[f"{source}/channel0_fdim798_tdim128"], atol=1e-6)


@pytest.mark.parametrize("source", SOURCES)
def test_all_channels_when_the_full_arrays_are_there(golden_dir: Path, source: str) -> None:
    embedding = positions(source)[..., :16]
    with np.load(golden_dir / "c_pos_embed.npz") as full:
        for name in full.files:
            if name.startswith(f"{source}/out_"):
                fdim, tdim = (int(part[4:]) for part in name.split("out_")[1].split("_"))
                is_exchanged = fdim == 798
                mels, frames = (tdim, fdim) if is_exchanged else (fdim, tdim)
                values = adapt(source, embedding, mels, frames, "published" if is_exchanged else "aligned")
                np.testing.assert_allclose(values, full[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("source", "dim"), [("imagenet_tiny224", 192), ("imagenet_base384", 768)])
@pytest.mark.parametrize(("position_grid", "case"), [("aligned", "fdim128_tdim798"), ("published", "fdim798_tdim128")])
def test_loading_an_image_model_gives_the_published_kernels_and_positions(
    golden: dict[str, NDArray[np.float32]], tmp_path: Path, source: str, dim: int, position_grid: str, case: str
) -> None:
    encoder = make_ast(num_mels=128, num_frames=798, dim=dim, depth=1, num_heads=3)
    shapes = {name: value.shape for name, value in encoder.state_dict().items()}
    shapes["patch_embed.proj.weight"] = torch.Size((dim, 3, 16, 16))
    shapes["pos_embed"] = positions(source).shape
    weights = {name: torch.from_numpy(param(f"deit.{name}", shape)) for name, shape in shapes.items()}
    save_file(weights, tmp_path / "deit.safetensors")
    load_weights(encoder, tmp_path / "deit.safetensors", ModelSettings(position_grid=position_grid))
    np.testing.assert_allclose(
        encoder.patch_embed.proj.weight[:4].detach(), golden[f"{source}/patch_weight_first4"], atol=1e-6
    )
    np.testing.assert_allclose(encoder.pos_embed[0, :, 0].detach(), golden[f"{source}/channel0_{case}"], atol=1e-6)
