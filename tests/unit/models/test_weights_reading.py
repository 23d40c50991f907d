"""Formats are recognised by their keys, and say where their positions lie."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lungsound.axes import PatchGrid
from lungsound.errors import WeightsError
from lungsound.models.ast import PatchPlaces
from lungsound.models.weights import AUDIOSET_PLACES, read_weights


def ssast(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    content = {
        "module.v.pos_embed": torch.ones(1, 2 + 8 * 64, 3),
        "module.v.patch_embed.proj.weight": torch.ones(3, 1, 16, 16),
        "module.mask_embed": torch.ones(1, 1, 3),
        "module.p_input_fdim": torch.tensor(128),
        "module.p_input_tdim": torch.tensor(1024),
    }
    changed = content | {"module." + key: value for key, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}


def assert_refused(path: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


def test_grids_of_the_published_audioset_models() -> None:
    assert {num: (places.grid.freq, places.grid.time) for num, places in AUDIOSET_PLACES.items()} == {
        1212: (12, 101),
        850: (10, 85),
        657: (9, 73),
        512: (8, 64),
    }


def test_audioset_and_ssast_share_a_key_and_are_told_apart(tmp_path: Path) -> None:
    content = ssast()
    torch.save(content, tmp_path / "ssast.pth")
    torch.save({"module.v.pos_embed": content["module.v.pos_embed"]}, tmp_path / "audioset.pth")
    for name, source_format, rule in (
        ("ssast.pth", "SSAST", "straight"),
        ("audioset.pth", "AudioSet AST, original", "swapped"),
    ):
        read = read_weights(tmp_path / name)
        assert (read.source_format, read.layout.published_rule) == (source_format, rule)
        assert read.places == PatchPlaces(128, 1024, 16, 16)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_an_ssast_tells_the_size_of_its_training_input(tmp_path: Path, dtype: torch.dtype) -> None:
    sizes = {"p_input_fdim": torch.tensor(64, dtype=dtype), "p_input_tdim": torch.tensor(500, dtype=dtype)}
    torch.save(ssast(**sizes), tmp_path / "ssast.pth")
    assert read_weights(tmp_path / "ssast.pth").places == PatchPlaces(64, 500, 16, 16)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"v.patch_embed.proj.weight": torch.ones(3, 1, 128, 2)},
            r"patches of 128x2 \(mel x frame\), but 16x16 in the encoder: take an SSAST of patches",
        ),
        ({"p_input_tdim": None}, r"p_input_fdim and p_input_tdim must be .* input, got \[\[128\], \[\]\]"),
        ({"mask_embed": None, "p_input_fdim": torch.tensor([1.0, 2.0])}, r"must be .* got \[\[1.0, 2.0\], \[1024\]\]"),
        ({"p_input_fdim": torch.tensor(torch.inf)}, r"must be .* got \[\[inf\], \[1024\]\]"),
        ({"p_input_fdim": torch.tensor(8)}, r"must be .* got \[\[8\], \[1024\]\]"),
    ],
)
def test_an_ssast_that_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], match: str
) -> None:
    torch.save(ssast(**changes), tmp_path / "ssast.pth")
    assert_refused(tmp_path / "ssast.pth", match)


RUN = {"patch_grid": [5, 9], "audio": {"num_mels": 64}, "model": {"stride": 10, "norm_eps": 1e-5, "size": "micro"}}


def save_run(path: Path, facts: Any) -> Path:
    weights = {"encoder.pos_embed": torch.ones(1, 47, 3), "head.1.bias": torch.ones(4), "projector.bn.x": torch.ones(1)}
    save_file(weights, path, metadata={"lungsound": json.dumps(facts)})
    return path


def test_a_run_of_ours_names_its_places_its_classes_and_its_settings(tmp_path: Path) -> None:
    read = read_weights(save_run(tmp_path / "model.safetensors", RUN | {"label_set": "sound2"}))
    assert isinstance(read.places, PatchPlaces)
    assert read.places.has_patches_of(PatchPlaces(64, 98, 10, 10))
    assert read.places.grid == PatchGrid(5, 9)
    assert (read.label_set, list(read.head), list(read.weights)) == ("sound2", ["head.1.bias"], ["pos_embed"])
    assert read.settings == RUN["model"]
    assert read.file.ignored == [("projector.bn.x", "projector of that run")]
    assert read_weights(save_run(tmp_path / "model.safetensors", {})).places is None


@pytest.mark.parametrize(
    "facts",
    [
        RUN | {"patch_grid": "wide"},
        RUN | {"patch_grid": [5]},
        RUN | {"patch_grid": [4, 9]},
        RUN | {"audio": {}},
        RUN | {"model": {"stride": 0}},
        {"patch_grid": [5, 9]},
        [],
    ],
)
def test_a_run_whose_header_does_not_fit_together_is_refused(tmp_path: Path, facts: Any) -> None:
    path = save_run(tmp_path / "model.safetensors", facts)
    assert_refused(path, r"its header must name audio.num_mels, model.stride and patch_grid as \[freq, time\]")


def test_other_models_are_not_known(tmp_path: Path) -> None:
    torch.save({"conv0.weight": torch.ones(2)}, tmp_path / "a.pth")
    assert_refused(tmp_path / "a.pth", "no weights of a known kind, its keys begin with conv0.weight; expected one of")
