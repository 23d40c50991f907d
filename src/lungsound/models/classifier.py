"""The classifier: encoder, head and projector, and the prediction of cycles with it."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lungsound.models.ast import AudioSpectrogramTransformer
from lungsound.models.cnn import ConvolutionalEncoder, initialize_linear


class Projector(nn.Module):
    """Linear, batch norm, ReLU, linear: features (batch, dim) to projections (batch, projection_dim)."""

    def __init__(self, dim: int, projection_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, dim)
        self.bn = nn.BatchNorm1d(dim)
        self.linear2 = nn.Linear(dim, projection_dim)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.linear2(functional.relu(self.bn(self.linear1(features))))
        return out


class LungSoundClassifier(nn.Module):
    """Filter bank (batch, time, mel) to logits (batch, class).

    The head is LayerNorm (eps 1e-5) and a linear map, or the linear map alone: the published program has the first
    on its transformers, the second on its convolutional networks. The projector exists only for the contrastive
    objective and takes no part in an answer.
    """

    def __init__(
        self,
        encoder: AudioSpectrogramTransformer | ConvolutionalEncoder,
        classes: Sequence[str],
        *,
        projection_dim: int | None = None,
        is_head_normalized: bool = True,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.encoder = encoder
        linear = nn.Linear(encoder.dim, len(self.classes))
        self.head = nn.Sequential(nn.LayerNorm(encoder.dim), linear) if is_head_normalized else nn.Sequential(linear)
        self.projector = None if projection_dim is None else Projector(encoder.dim, projection_dim)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Random weights for all parts, drawn from `generator`: torch's defaults for head and projector."""
        self.encoder.initialize(generator)
        others = [self.head] if self.projector is None else [self.head, self.projector]
        for linear in (module for part in others for module in part.modules() if isinstance(module, nn.Linear)):
            initialize_linear(linear, generator)

    @property
    def patch_encoder(self) -> AudioSpectrogramTransformer:
        """The encoder, when it embeds patches, which Patch-Mix needs; ValueError for a convolutional one."""
        if not isinstance(self.encoder, AudioSpectrogramTransformer):
            raise ValueError(f"Patch-Mix needs an encoder of patches, not {self.encoder.architecture}")
        return self.encoder

    def encode(self, fbank: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """Features (batch, dim); with `num_frames` (batch,) only of patches that begin within so many frames."""
        features: Tensor = self.encoder(fbank) if num_frames is None else self.patch_encoder(fbank, num_frames)
        return features

    def forward(self, fbank: Tensor, num_frames: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.encode(fbank, num_frames))
        return logits


@torch.inference_mode()
def predict_cycles(
    model: LungSoundClassifier,
    inputs: Iterable[tuple[Tensor, Tensor | None]],
    *,
    device: torch.device,
    is_bf16: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Predict cycles: probabilities (cycle, class) and the encoder's features (cycle, dim), both float32.

    `inputs` are batches of normalised filter banks (batch, time, mel), each with its `num_frames` (batch,) as the model
    takes it. The encoder computes in float32 whatever it was trained in, or under bfloat16 autocast. `on_progress` gets
    the number of cycles done.
    """
    model.to(device).eval()
    probabilities = [torch.empty(0, len(model.classes))]
    features = [torch.empty(0, model.encoder.dim)]
    num_done = 0
    for fbank, num_frames in inputs:
        with torch.autocast(device.type, torch.bfloat16, enabled=is_bf16):
            features_of_batch = model.encode(fbank.to(device), num_frames)
            logits: Tensor = model.head(features_of_batch)
        probabilities.append(logits.float().softmax(dim=1).cpu())
        features.append(features_of_batch.float().cpu())
        num_done += len(fbank)
        if on_progress is not None:
            on_progress(num_done)
    return torch.cat(probabilities).numpy(), torch.cat(features).numpy()
