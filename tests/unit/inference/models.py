"""Small models for the tests of engines, with answers that differ from cycle to cycle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import AudioSettings, ModelSettings
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.training.model_file import TrainedModel, load_model, save_model
from tests.unit.evaluation.calibrated import GOOD_EVIDENCE

AUDIO = AudioSettings(duration_s=1.0, num_mels=32)
NORMALIZED = AUDIO.model_copy(update={"is_recording_normalized": True, "statistics": "corpus"})
TRANSFORMER = ModelSettings(size="micro", stride=16)
EFFICIENTAT_AUDIO = AudioSettings(duration_s=1.0, sample_rate_hz=32000, filter_bank="efficientat")
MOBILENET = ModelSettings(architecture="mn04")


def saved_model(
    folder: Path,
    *,
    audio: AudioSettings = AUDIO,
    architecture: ModelSettings = TRANSFORMER,
    seed: int = 0,
    mean: float = -8.0,
    head_std: float = 0.5,
) -> TrainedModel:
    """A model with random weights, saved into the folder and loaded again."""
    label_set = LABEL_SETS["sound4"]
    model = make_classifier(architecture, FrontEnd(audio), label_set)
    model.initialize(torch.Generator().manual_seed(seed))
    linear = model.head[-1]
    torch.nn.init.normal_(linear.weight, std=head_std, generator=torch.Generator().manual_seed(seed + 1))
    path = folder / "model.safetensors"
    save_model(
        path,
        model,
        audio=audio,
        architecture=architecture,
        mean=mean,
        std=3.0,
        label_set=label_set,
        evidence=GOOD_EVIDENCE,
    )
    return load_model(path)


def sounds(trained: TrainedModel, *, num: int = 7) -> list[Sound]:
    """Noises, each of another length (0.3 to 1.5 of the model's input), by another factor softer than its recording."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.linspace(0.3, 1.5, num) * trained.front_end.num_samples
    order = torch.randperm(num, generator=generator)
    noises = [torch.randn(int(lengths[place]), generator=generator).numpy() for place in order]
    return [
        replace(trained.front_end.recording(noise), waveform=noise * np.float32(10 ** -float(place % 4)))
        for place, noise in enumerate(noises)
    ]
