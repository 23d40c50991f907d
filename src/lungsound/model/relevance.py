"""How much each patch of one cycle speaks for a class: integrated gradients.

The gradients are averaged on the straight way from background to the cycle (Sundararajan, Taly and Yan, "Axiomatic
Attribution for Deep Networks", ICML 2017), so that what attention, norms and softmax do on that way is all in them, and
the relevances sum up to what the cycle adds to the logarithm of the class's probability.
"""

import torch
from torch import Tensor

from lungsound.axes import PATCH_SIZE
from lungsound.model.classifier import LungSoundClassifier
from lungsound.model.encoder import AudioSpectrogramTransformer

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

    Positive where a patch speaks for the class, negative where it speaks against it; together the difference of the
    class's log-probability between the two filter banks, up to the error of `num_steps` midpoints. 0 for patches that
    are not encoded (`num_frames`, as in `Batch`). Raises ValueError for a model without patches.
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
    """Relevance (patch,) to (time, mel), on the CPU: the mean of the patches over a bin, 0 where there is none."""
    sums, counts = torch.zeros(2, encoder.num_frames, encoder.num_mels).unbind()
    for place, value in enumerate(relevance.tolist()):
        row, column = divmod(place, encoder.grid.time)
        first_mel, first_frame = row * encoder.stride, column * encoder.stride
        bins = (slice(first_frame, first_frame + PATCH_SIZE), slice(first_mel, first_mel + PATCH_SIZE))
        sums[bins] += value
        counts[bins] += 1
    return sums / counts.clamp(min=1)
