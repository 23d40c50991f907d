"""Settings to a network, with random or pretrained weights."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from lungsound.audio.front_end import FrontEnd
from lungsound.config import ModelSettings, ObjectiveSettings, RunConfig
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.models.ast import ENCODER_SIZES, AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.models.cnn import ConvolutionalEncoder, convolutional_encoder
from lungsound.models.hub import resolve_weights
from lungsound.models.weights import LoadReport, load_weights
from lungsound.progress import track
from lungsound.randomness import generator_at


def network(
    architecture: ModelSettings, front_end: FrontEnd, label_set: LabelSet, *, projection_dim: int | None = None
) -> LungSoundClassifier:
    """The network without weights."""
    is_ast = architecture.architecture == "ast"
    encoder = _transformer(architecture, front_end) if is_ast else _convolutional(architecture, front_end)
    return LungSoundClassifier(encoder, label_set.classes, projection_dim=projection_dim, is_head_normalized=is_ast)


def _transformer(architecture: ModelSettings, front_end: FrontEnd) -> AudioSpectrogramTransformer:
    size = ENCODER_SIZES[architecture.size]
    try:
        return AudioSpectrogramTransformer(
            num_mels=front_end.num_mels,
            num_frames=front_end.num_frames,
            dim=size.dim,
            depth=size.depth,
            num_heads=size.num_heads,
            stride=architecture.stride,
            norm_eps=architecture.norm_eps,
            pooling=architecture.pooling,
        )
    except ValueError as error:
        raise SettingsError(f"audio and model settings do not fit: {error}") from None


def _convolutional(architecture: ModelSettings, front_end: FrontEnd) -> ConvolutionalEncoder:
    if not front_end.is_padding_encoded:
        raise SettingsError(
            f"audio.is_padding_encoded=false leaves out patches, which {architecture.architecture} does not have: "
            "leave it at true or take model.architecture 'ast'"
        )
    if architecture.pooling != "class_token":
        raise SettingsError(
            f"model.pooling {architecture.pooling!r} is of tokens, which {architecture.architecture} does not have: "
            "leave it out or take model.architecture 'ast'"
        )
    encoder = convolutional_encoder(architecture.architecture)
    if min(front_end.num_frames, front_end.num_mels) < encoder.least_size:
        raise SettingsError(
            f"audio and model settings do not fit: a filter bank of {front_end.num_frames} frames x "
            f"{front_end.num_mels} mels is too small for {encoder.architecture}, which needs {encoder.least_size} of "
            "each: raise audio.duration_s or audio.num_mels"
        )
    return encoder


def projection_dim(objective: ObjectiveSettings, architecture: ModelSettings) -> int | None:
    """Size of the projections, None without a projector; SettingsError for what cannot be compared or mixed."""
    if objective.name != "ce" and architecture.architecture != "ast":
        raise SettingsError(
            f"objective.name {objective.name!r} mixes patches, which {architecture.architecture} does not have: "
            "it needs model.architecture 'ast'; train a convolutional network with objective.name 'ce'"
        )
    if objective.name != "patchmix_cl":
        return None
    dim = ENCODER_SIZES[architecture.size].dim
    chosen = objective.projection_dim or dim
    if chosen != dim and not objective.target.startswith("project"):
        raise SettingsError(
            f"objective.projection_dim is {chosen}, but target {objective.target!r} compares "
            f"projections with features of {dim}: make them equal or take a project_* target"
        )
    return chosen


def model(
    config: RunConfig, front_end: FrontEnd, *, console: Console | None = None
) -> tuple[LungSoundClassifier, LoadReport | None]:
    """The network with random or pretrained weights, and what the pretrained weights gave.

    A download shows its progress on `console`.
    """
    label_set = LABEL_SETS[config.data.label_set]
    network_ = network(
        config.model, front_end, label_set, projection_dim=projection_dim(config.objective, config.model)
    )
    network_.initialize(generator_at(config.train.seed, "weights"))
    if config.model.pretrained == "none":
        if config.model.is_head_pretrained:
            raise SettingsError("model.is_head_pretrained needs model.pretrained: the folder of a run of ours")
        return network_, None
    with track(console or Console(quiet=True), f"weights {config.model.pretrained}") as on_progress:
        path = resolve_weights(config.model.pretrained, on_progress=on_progress)
    report = _load(network_, path, config.model, label_set)
    return network_, replace(report, differences=report.differences + _input_differences(report, front_end))


def _input_differences(report: LoadReport, front_end: FrontEnd) -> tuple[str, ...]:
    """Weights of sound mean little on another filter bank: a line for each setting of it that differs."""
    ours = {"filter_bank": front_end.filter_bank, "sample_rate_hz": front_end.sample_rate_hz}
    return tuple(
        f"audio.{name} was {report.trained_on[name]} where the weights were trained and is {value} here"
        for name, value in ours.items()
        if report.trained_on.get(name, value) != value
    )


def _load(model: LungSoundClassifier, path: Path, architecture: ModelSettings, label_set: LabelSet) -> LoadReport:
    """Put pretrained weights into encoder and, if so set, head; the report with what stays random."""
    head = model.head if architecture.is_head_pretrained else None
    report = load_weights(model.encoder, path, architecture, head=head)
    if report.head_label_set not in (None, "unknown", label_set.name):
        raise SettingsError(
            f"model.is_head_pretrained: the head in {path} tells the classes of {report.head_label_set} apart, but "
            f"data.label_set is {label_set.name!r}: make them equal or take the encoder alone"
        )
    drawn = [name for name, _ in model.named_parameters() if not name.startswith("encoder.")]
    return replace(report, new=report.new + tuple(name for name in drawn if name not in report.used))
