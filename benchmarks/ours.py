"""Our side of a measurement, built from a recipe as a run builds it, so that what is sped up shows by itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lungsound.audio.filter_bank import AUDIOSET_STATISTICS
from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig, load_config
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import LungSoundClassifier, initial_classifier
from lungsound.training.checkpoint import TrainedModel
from lungsound.training.objectives import make_objective
from lungsound.training.trainer import TrainStep

QUICK = ("audio.duration_s=1.0", "audio.num_mels=32", "model.stride=16")


def run_config(
    size: str, *, precision: str = "bf16", is_quick: bool = False, is_padding_encoded: bool = True
) -> RunConfig:
    """The paper's method at a size, from random weights, with the blending of weights that the peer does too."""
    overrides = [f"model.size={size}", "model.pretrained=none", f"train.precision={precision}", "train.blend=0.5"]
    overrides.append(f"audio.is_padding_encoded={str(is_padding_encoded).lower()}")
    return load_config("patchmix_cl", overrides + list(QUICK if is_quick else ()))


def classifier(config: RunConfig) -> LungSoundClassifier:
    """The network of these settings with random weights."""
    return initial_classifier(config, FrontEnd(config.audio))[0]


def train_step(config: RunConfig, *, device: torch.device) -> TrainStep:
    """The step of a run with these settings; every class has the same number of training cycles."""
    model = classifier(config)
    counts = [1] * len(model.classes)
    objective = make_objective(config.objective, config.patchmix, class_counts=counts, device=device)
    return TrainStep(model.to(device), objective, config.train, device=device)


def batch(config: RunConfig, *, batch_size: int) -> tuple[Tensor, Tensor]:
    """Filter banks (batch, time, mel) of noise and labels (batch,), the same at every call."""
    front_end = FrontEnd(config.audio)
    generator = torch.Generator().manual_seed(0)
    fbank = 0.5 * torch.randn(batch_size, front_end.num_frames, front_end.num_mels, generator=generator)
    num_classes = LABEL_SETS[config.data.label_set].num_classes
    return fbank, torch.randint(num_classes, (batch_size,), generator=generator)


def trained_model(config: RunConfig) -> TrainedModel:
    """A model as one is loaded from a run, with random weights."""
    front_end = FrontEnd(config.audio)
    mean, std = AUDIOSET_STATISTICS[front_end.audio.filter_bank]
    name = f"bench-{config.model.size}{'' if front_end.is_padding_encoded else '-own'}"
    label_set = LABEL_SETS[config.data.label_set]
    return TrainedModel(classifier(config).eval(), front_end, mean, std, label_set, sha256=name)


def waveforms(front_end: FrontEnd, durations_s: Sequence[float]) -> list[Tensor]:
    """Noise of these durations, as cycles are cut from a recording."""
    generator = torch.Generator().manual_seed(0)
    lengths = [round(duration_s * front_end.sample_rate_hz) for duration_s in durations_s]
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]
