"""Load pretrained weights into an encoder, account for every one of them, and refuse what is not explained."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from lungsound.axes import PatchGrid
from lungsound.errors import WeightsError
from lungsound.model.encoder import ENCODER_SIZES, NUM_PREFIX_TOKENS, PATCH_SIZE, AudioSpectrogramTransformer, Block
from lungsound.model.positions import adapt_positions
from lungsound.model.weight_files import ForeignWeights, first_keys, read_weights


@dataclass(frozen=True)
class LoadReport:
    """What became of the weights of a file.

    used         encoder parameters taken as they are (at most renamed, joined or cast to float32)
    adapted      (encoder parameter, how)
    new          parameters left at their random initialisation; none of the encoder's, because every one is needed:
                 a caller that builds a head beside it adds the head's
    ignored      (key in the file, why)
    differences  settings of the file that the encoder does not share
    """

    source_format: str
    sha256: str
    used: tuple[str, ...]
    adapted: tuple[tuple[str, str], ...]
    new: tuple[str, ...]
    ignored: tuple[tuple[str, str], ...]
    differences: tuple[str, ...] = ()

    def summary(self) -> str:
        """A few lines for the log."""
        lines = [f"{self.source_format}, sha256 {self.sha256[:16]}: {len(self.used)} parameters used as they are"]
        lines += [f"  adapted {key}: {how}" for key, how in self.adapted]
        if self.new:
            lines.append(f"  new: {first_keys(list(self.new))}")
        reasons = [why for _, why in self.ignored]
        lines += [f"  ignored {reasons.count(why)}: {why}" for why in dict.fromkeys(reasons)]
        lines += [f"  differs: {difference}" for difference in self.differences]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


def load_pretrained(encoder: AudioSpectrogramTransformer, path: Path, *, position_grid: str = "aligned") -> LoadReport:
    """Put the weights at `path` (a file, or a folder with `model.safetensors`) into `encoder`.

    Positions of ImageNet and AudioSet weights are adapted to the encoder's grid (see `adapt_positions`); those that
    a run of ours learnt are taken verbatim on the same grid, else adapted as aligned; those of the published
    program are taken verbatim or refused. The encoder is changed only when everything fits. Raises WeightsError for
    what cannot be read, does not fit, or is not explained.
    """
    file = read_weights(path)
    _check_size(file, encoder)
    differences = _compare_settings(file, encoder)
    _adapt_to_grid(file, encoder.grid, position_grid)
    expected = encoder.state_dict()
    _check_keys_and_shapes(file.path, file.weights, expected)
    encoder.load_state_dict(file.weights)
    return LoadReport(
        source_format=file.source_format,
        sha256=file.sha256,
        used=tuple(key for key in expected if key not in file.adapted),
        adapted=tuple(file.adapted.items()),
        new=(),
        ignored=tuple(file.ignored),
        differences=differences,
    )


def _check_size(file: ForeignWeights, encoder: AudioSpectrogramTransformer) -> None:
    """Width and depth first, because a wrong size is the commonest mistake."""
    blocks = {match[1] for key in file.weights if (match := re.match(r"blocks\.(\d+)\.", key))}
    given = (file.weights["pos_embed"].shape[-1], len(blocks))
    wanted = (encoder.dim, len(encoder.blocks))
    if given == wanted:
        return
    names = {(size.dim, size.depth): name for name, size in ENCODER_SIZES.items()}
    advice = f"choose encoder size {names[given]!r}" if given in names else "no encoder size fits them"
    raise WeightsError(
        f"{file.path}: weights of dim {given[0]} with {given[1]} blocks do not fit an encoder of dim {wanted[0]} with "
        f"{wanted[1]} blocks: {advice}"
    )


def _compare_settings(file: ForeignWeights, encoder: AudioSpectrogramTransformer) -> tuple[str, ...]:
    """Settings of Hugging Face's config that no tensor shows; refused where the weights would mean nothing."""
    config: Mapping[str, Any] = file.config
    num_heads = cast(Block, encoder.blocks[0]).attn.num_heads
    for name, wanted in (("num_attention_heads", num_heads), ("hidden_act", "gelu"), ("patch_size", PATCH_SIZE)):
        given = config.get(name, wanted)
        if given != wanted:
            raise WeightsError(
                f"{file.path.with_name('config.json')}: {name} is {given!r}, but {wanted!r} in the encoder"
            )
    norm_eps = config.get("layer_norm_eps", encoder.norm.eps)
    if norm_eps == encoder.norm.eps:
        return ()
    return (f"norm_eps is {norm_eps} in the file's config.json and {encoder.norm.eps} in the encoder",)


def _adapt_to_grid(file: ForeignWeights, grid: PatchGrid, position_grid: str) -> None:
    """Bring the positions of `file` to `grid`, in its dict of weights, and note how."""
    positions = file.weights["pos_embed"]
    num_patches = positions.shape[1] - NUM_PREFIX_TOKENS
    source = file.source_grid
    if source is None:
        if num_patches != grid.num_patches:
            raise WeightsError(
                f"{file.path}: its {num_patches} learnt positions, on a grid that it does not name, do not fit the "
                f"{grid.num_patches} patches of this encoder: set duration, mels and stride to those of that run"
            )
        return
    if num_patches != source.num_patches:
        raise WeightsError(
            f"{file.path}: {num_patches} patch positions, but its grid of {source.freq}x{source.time} needs "
            f"{source.num_patches}"
        )
    position_grid = file.position_grid or position_grid
    if source == grid and position_grid == "aligned":
        return
    file.weights["pos_embed"] = adapt_positions(
        positions, source_grid=source, target_grid=grid, position_grid=position_grid
    )
    how = f"{source.freq}x{source.time} to {grid.freq}x{grid.time} (freq x time), {position_grid}"
    before = file.adapted.get("pos_embed")
    file.adapted["pos_embed"] = how if before is None else f"{before}; {how}"


def _check_keys_and_shapes(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Every weight has its place and every place its weight."""
    if unexplained := [key for key in weights if key not in expected]:
        raise WeightsError(f"{path}: weights with no place in the encoder: {first_keys(unexplained)}")
    if missing := [key for key in expected if key not in weights]:
        raise WeightsError(f"{path}: weights that the encoder needs are missing: {first_keys(missing)}")
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise WeightsError(f"{path}: {key} is {tuple(value.shape)}, expected {tuple(expected[key].shape)}")
