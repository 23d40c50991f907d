"""Encoder, head and projector: what is trained, saved and asked for an answer."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lungsound.data.batches import Batch
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

    def forward(self, fbank: Tensor, num_frames: Tensor | None = None) -> Tensor:
        """With `num_frames` (batch,) only patches are encoded that begin within so many frames."""
        features = self.encoder(fbank) if num_frames is None else self.patch_encoder(fbank, num_frames)
        logits: Tensor = self.head(features)
        return logits


@torch.inference_mode()
def predict_probabilities(
    model: LungSoundClassifier,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    on_progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Probabilities (sample, class), float32 on the CPU, of all batches.

    Always in float32, whatever the model was trained in. `on_progress` gets the number of samples done.
    """
    model.eval()
    found: list[Tensor] = []
    for batch in (batch.to(device) for batch in batches):
        found.append(model(batch.fbank, batch.num_frames).softmax(dim=1).cpu())
        if on_progress is not None:
            on_progress(sum(len(probabilities) for probabilities in found))
    return torch.cat(found) if found else torch.empty(0, len(model.classes))
