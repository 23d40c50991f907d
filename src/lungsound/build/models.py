"""Settings to a network, with random or pretrained weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from lungsound.audio.fbank import AUDIOSET_MEAN, AUDIOSET_STD, fbank_statistics
from lungsound.audio.front_end import FrontEnd
from lungsound.audio.specaugment import apply_specaugment, draw_specaugment
from lungsound.config import (
    AudioSettings,
    AugmentSettings,
    DataSettings,
    ModelSettings,
    ObjectiveSettings,
    PatchMixSettings,
    RunConfig,
    TrainSettings,
)
from lungsound.data.cache import cache_root
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.dataset import Augment, CycleBatches, FilterBanks, open_filter_banks
from lungsound.data.fetch import resolve_weights
from lungsound.data.holdout import hold_out_patients
from lungsound.data.reader import read_corpus
from lungsound.errors import CorpusError, SettingsError
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.model.classifier import LungSoundClassifier
from lungsound.model.encoder import ENCODER_SIZES, AudioSpectrogramTransformer
from lungsound.model.patchmix import draw_patch_mix
from lungsound.model.pretrained import LoadReport, load_pretrained
from lungsound.randomness import generator_at
from lungsound.training.losses import class_weights
from lungsound.training.objectives import CrossEntropy, Draw, Objective, PatchMixContrastive, PatchMixCrossEntropy
from lungsound.training.optim import Schedule, make_optimizer
from lungsound.training.progress import track
from lungsound.training.step import TrainStep




def network(
    architecture: ModelSettings, front_end: FrontEnd, label_set: LabelSet, *, projection_dim: int | None = None
) -> LungSoundClassifier:
    """The network without weights."""
    size = ENCODER_SIZES[architecture.size]
    try:
        encoder = AudioSpectrogramTransformer(
            num_mels=front_end.num_mels,
            num_frames=front_end.num_frames,
            dim=size.dim,
            depth=size.depth,
            num_heads=size.num_heads,
            stride=architecture.stride,
            norm_eps=architecture.norm_eps,
        )
    except ValueError as error:
        raise SettingsError(f"audio and model settings do not fit: {error}") from None
    return LungSoundClassifier(encoder, label_set.classes, projection_dim=projection_dim)


def model(
    config: RunConfig, front_end: FrontEnd, *, console: Console | None = None
) -> tuple[LungSoundClassifier, LoadReport | None]:
    """The network with random or pretrained weights, and what the pretrained weights gave.

    A download shows its progress on `console`.
    """
    projection_dim = None
    if config.objective.name == "patchmix_cl":
        dim = ENCODER_SIZES[config.model.size].dim
        projection_dim = config.objective.projection_dim or dim
        if projection_dim != dim and not config.objective.target.startswith("project"):
            raise SettingsError(
                f"objective.projection_dim is {projection_dim}, but target {config.objective.target!r} compares "
                f"projections with features of {dim}: make them equal or take a project_* target"
            )
    network_ = network(config.model, front_end, LABEL_SETS[config.data.label_set], projection_dim=projection_dim)
    network_.initialize(generator_at(config.train.seed, "weights"))
    if config.model.pretrained == "none":
        return network_, None
    with track(console or Console(quiet=True), f"weights {config.model.pretrained}") as on_progress:
        path = resolve_weights(config.model.pretrained, on_progress=on_progress)
    report = load_pretrained(network_.encoder, path, position_grid=config.model.position_grid)
    new = tuple(name for name, _ in network_.named_parameters() if not name.startswith("encoder."))
    return network_, replace(report, new=new)
