"""Relevance of each moment and frequency of a cycle for a class, by integrated gradients.

The gradients are averaged on the straight way from background to the cycle (Sundararajan, Taly and Yan, "Axiomatic
Attribution for Deep Networks", ICML 2017), so that they hold what attention, norms and softmax do on that way, and the
relevances sum up to what the cycle adds to the logarithm of the class's probability.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.axes import PATCH_SIZE
from lungsound.errors import SettingsError
from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.training.model_file import TrainedModel

NUM_STEPS = 4  # as true to models as 8


def patch_relevance(
    model: LungSoundClassifier,
    fbank: Tensor,
    background: Tensor,
    *,
    class_index: int,
    num_frames: int | None = None,
    num_steps: int = NUM_STEPS,
) -> Tensor:
    """Relevance (patch,) of one normalised filter bank (time, mel), as against `background` of that shape or (mel,).

    Positive where a patch speaks for the class, negative where against it. The sum is the difference of the class's
    log-probability between the two filter banks, up to the error of `num_steps` midpoints. 0 for patches that are not
    encoded (`num_frames`, as in `Batch`). Raises ValueError for a model without patches.
    """
    encoder = model.patch_encoder
    columns = encoder.columns(None if num_frames is None else torch.tensor([num_frames]))
    with torch.no_grad():
        both = torch.stack([background.expand_as(fbank), fbank])
        start, end = torch.split(encoder.embed_patches(both), 1)
    gradient = torch.zeros_like(start)
    for step in range(num_steps):
        with torch.enable_grad():
            patches = torch.lerp(start, end, (step + 0.5) / num_steps).requires_grad_()
            log_probabilities = model.head(encoder.encode(patches, columns)).log_softmax(dim=1)
            gradient += torch.autograd.grad(log_probabilities[0, class_index], patches)[0] / num_steps
    relevance: Tensor = (gradient * (end - start)).sum(dim=2)[0]
    return relevance


def spread_over_bins(relevance: Tensor, encoder: AudioSpectrogramTransformer) -> Tensor:
    """Relevance (time, mel) on the CPU from (patch,): mean of the patches over a bin, 0 where there is none."""
    of_patches = torch.stack([relevance, torch.ones_like(relevance)]).cpu().unsqueeze(1).expand(-1, PATCH_SIZE**2, -1)
    size = (encoder.num_mels, encoder.num_frames)
    sums, counts = functional.fold(of_patches, size, PATCH_SIZE, stride=encoder.stride).squeeze(1).mT
    means: Tensor = sums / counts.clamp(min=1)
    return means


def relevance(trained: TrainedModel, cycle: Sound, *, class_index: int) -> Tensor:
    """Relevance (time, mel) of a cycle's own sound, as `FrontEnd.cut` gives it.

    Positive bins speak for the class, negative ones against it, compared with a sound that is constantly what this one
    is on average at each frequency. Relevances of a moment's repetitions are added up; a cycle longer than the input
    has frames for its beginning alone. SettingsError for a convolutional model, which has no patches.
    """
    check_explainable(trained)
    encoder, front_end = trained.model.patch_encoder, trained.front_end
    fbank = torch.from_numpy(normalize(front_end.filter_banks_of([cycle]), mean=trained.mean, std=trained.std))
    fbank = fbank.to(encoder.pos_embed.device)
    num_frames = front_end.num_own_frames(len(cycle.waveform))
    own_frame = own_frames(front_end, len(cycle.waveform))
    background = fbank[0, own_frame >= 0].mean(dim=0)
    patches = patch_relevance(trained.model, fbank[0], background, class_index=class_index, num_frames=num_frames)
    return fold(spread_over_bins(patches, encoder), own_frame)


def check_explainable(trained: TrainedModel) -> None:
    """Raise SettingsError for a model without patches."""
    if trained.architecture.architecture != "ast":
        raise SettingsError(
            f"predictions of {trained.architecture.architecture} cannot be explained: a model of patches "
            "(model.architecture 'ast') is needed"
        )


def own_frames(front_end: FrontEnd, num_samples: int) -> Tensor:
    """Frame of a cycle's own sound (`num_samples`) at each frame (time,) of the input; -1 in padding with zeros."""
    hop = front_end.log_mel.hop_size
    starts = hop * torch.arange(front_end.num_frames)
    if num_samples > front_end.num_samples:
        return starts // hop
    if front_end.audio.padding == "repeat":
        return starts % num_samples // hop
    starts -= (front_end.num_samples - num_samples) // 2
    return torch.where((starts >= 0) & (starts < num_samples), starts // hop, -1)


def fold(bins: Tensor, own_frame: Tensor) -> Tensor:
    """Sum values of the input (time, mel) by frame of the cycle's own sound (time,)."""
    is_own = own_frame >= 0
    folded = bins.new_zeros(int(own_frame.max()) + 1, bins.shape[1])
    return folded.index_add_(0, own_frame[is_own], bins[is_own])
