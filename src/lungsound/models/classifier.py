"""The classifier: encoder, head and projector, made from settings; its device; the prediction of cycles with it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from lungsound.audio.front_end import FrontEnd
from lungsound.config import ModelSettings, RunConfig
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.models.ast import ENCODER_SIZES, AudioSpectrogramTransformer
from lungsound.models.cnn import ConvolutionalEncoder, convolutional_encoder, initialize_linear
from lungsound.models.hub import resolve_weights
from lungsound.models.weights import LoadReport, load_weights, misfit
from lungsound.progress import track
from lungsound.randomness import generator_at


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU. SettingsError when it is not there.

    float32 means float32 on it: the patch embedding is a convolution, which TF32 would round.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device {name!r} is not known; use auto, cpu, cuda, cuda:1 or mps")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu") from None
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


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

    As published, the head is LayerNorm (eps 1e-5) and a linear map on a transformer, the linear map alone on a
    convolutional network. The projector exists only for the contrastive objective and takes no part in a prediction.
    """

    def __init__(
        self,
        encoder: AudioSpectrogramTransformer | ConvolutionalEncoder,
        classes: Sequence[str],
        *,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.encoder = encoder
        norms = [nn.LayerNorm(encoder.dim)] if isinstance(encoder, AudioSpectrogramTransformer) else []
        self.head = nn.Sequential(*norms, nn.Linear(encoder.dim, len(self.classes)))
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


def make_classifier(
    settings: ModelSettings, front_end: FrontEnd, label_set: LabelSet, *, projection_dim: int | None = None
) -> LungSoundClassifier:
    """The network of the settings, its weights still to be drawn or loaded; without a projector by default."""
    num_frames, num_mels, name = front_end.num_frames, front_end.audio.num_mels, settings.architecture
    encoder: AudioSpectrogramTransformer | ConvolutionalEncoder
    if name == "ast":
        try:
            encoder = AudioSpectrogramTransformer(
                num_mels=num_mels,
                num_frames=num_frames,
                stride=settings.stride,
                norm_eps=settings.norm_eps,
                pooling=settings.pooling,
                **asdict(ENCODER_SIZES[settings.size]),
            )
        except ValueError as error:
            raise SettingsError(f"audio and model settings do not fit: {error}") from None
    else:
        for setting, is_of_patches in (
            ("audio.is_padding_encoded=false", not front_end.audio.is_padding_encoded),
            (f"model.pooling {settings.pooling!r}", settings.pooling != "class_token"),
        ):
            if is_of_patches:
                raise SettingsError(
                    f"{setting} is of patches, which {name} does not have: leave it out or take architecture 'ast'"
                )
        encoder = convolutional_encoder(name)
        if min(num_frames, num_mels) < encoder.least_size:
            raise SettingsError(
                f"audio and model settings do not fit: a filter bank of {num_frames} frames x {num_mels} mels is too "
                f"small for {name}, which needs {encoder.least_size} of each: raise audio.duration_s or audio.num_mels"
            )
    return LungSoundClassifier(encoder, label_set.classes, projection_dim=projection_dim)


def classifier_with(
    weights: Mapping[str, NDArray[Any]], settings: ModelSettings, front_end: FrontEnd, label_set: LabelSet
) -> LungSoundClassifier:
    """The network of the settings with these weights, in evaluation mode. ValueError where they do not fit it."""
    with torch.inference_mode(False):  # wherever it is asked for first: explaining needs gradients
        model = make_classifier(settings, front_end, label_set)
        tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
        if problem := misfit(tensors, model.state_dict()):
            raise ValueError(problem)
        model.load_state_dict(tensors)
    return model.eval()


def initial_classifier(
    config: RunConfig, front_end: FrontEnd, *, console: Console | None = None
) -> tuple[LungSoundClassifier, LoadReport | None]:
    """The network of a run before its first step, with random or pretrained weights, and the report of the latter."""
    label_set, objective, projection_dim = LABEL_SETS[config.data.label_set], config.objective, None
    if objective.name != "ce" and config.model.architecture != "ast":
        raise SettingsError(
            f"objective.name {objective.name!r} mixes patches, which {config.model.architecture} does not have: "
            "it needs model.architecture 'ast'; train a convolutional network with objective.name 'ce'"
        )
    if objective.name == "patchmix_cl":
        dim = ENCODER_SIZES[config.model.size].dim
        projection_dim = objective.projection_dim or dim
        if projection_dim != dim and not objective.target.startswith("project"):
            raise SettingsError(
                f"objective.projection_dim is {projection_dim}, but target {objective.target!r} compares "
                f"projections with features of {dim}: make them equal or take a project_* target"
            )
    model = make_classifier(config.model, front_end, label_set, projection_dim=projection_dim)
    model.initialize(generator_at(config.train.seed, "weights"))
    if config.model.pretrained == "none":
        if config.model.is_head_pretrained:
            raise SettingsError("model.is_head_pretrained needs model.pretrained: the folder of a run of ours")
        return model, None
    with track(console or Console(quiet=True), f"weights {config.model.pretrained}") as on_progress:
        path = resolve_weights(config.model.pretrained, on_progress=on_progress)
    head = model.head if config.model.is_head_pretrained else None
    report = load_weights(model.encoder, path, config.model, head=head)
    if report.head_label_set not in (None, "unknown", label_set.name):
        raise SettingsError(
            f"model.is_head_pretrained: the head in {path} tells the classes of {report.head_label_set} apart, but "
            f"data.label_set is {label_set.name!r}: make them equal or take the encoder alone"
        )
    drawn = [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
    new = report.new + tuple(name for name in drawn if name not in report.used)
    # Weights of sound mean little on another filter bank.
    ours = {"filter_bank": config.audio.filter_bank, "sample_rate_hz": config.audio.sample_rate_hz}
    differences = tuple(
        f"audio.{name} was {report.trained_on[name]} where the weights were trained and is {value} here"
        for name, value in ours.items()
        if report.trained_on.get(name, value) != value
    )
    return model, replace(report, new=new, differences=report.differences + differences)


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
    takes it. `on_progress` gets the number of cycles done.
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
