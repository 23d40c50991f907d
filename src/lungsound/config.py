"""A run as typed values: strict TOML in, overrides, resolved values out.

A recipe is a TOML file. It may name another recipe with `extends = "name"` and then holds only the difference.
"""

import json
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lungsound.errors import SettingsError, first_fault
from lungsound.files import MAX_DEPTH, parse_toml, read_text, shipped, shipped_names
from lungsound.storage import as_uri

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# Lists in TOML and JSON; what stands in them is strict.
Names = Annotated[tuple[str, ...], Field(strict=False)]
Epochs = Annotated[tuple[int, ...], Field(strict=False)]
WaveformChange = Literal["noise", "speed", "loudness", "pitch", "warp"]
WaveformChanges = Annotated[tuple[WaveformChange, ...], Field(strict=False)]
ResNet = Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101"]
EfficientNet = Literal["efficientnet_b0", "efficientnet_b1", "efficientnet_b2"]
Architecture = Literal["ast", ResNet, EfficientNet, "cnn6", "mn04"]
CorpusFormat = Literal["auto", "icbhi", "sprsound", "table", "folders", "packed"]
SPRSoundLabelSetName = Literal["sprsound_event2", "sprsound_event7", "sprsound_record3", "sprsound_record5"]
LabelSetName = Literal["sound4", "sound2", "diagnosis3", "diagnosis2", SPRSoundLabelSetName]


MAX_CYCLES = 10_000  # of a recording, in its annotation: a day and night of breaths have 20,000, and nobody marks them
MAX_EXTENDED = 16  # recipes, each of which extends the next
MAX_SHOWN = 200  # characters of what was given, in an error


class Settings(BaseModel):
    """Base of all sections: frozen, strict about keys and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class CorpusSettings(Settings):
    """One of several corpora. What is not set is as in `DataSettings`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] | None = None
    """Name in recordings, patients and parts; by default that of the format."""
    root: str | None = None
    share: Positive | None = None
    """Share of the training draws, in proportion to those of the others; by default each cycle is drawn once."""
    corpus: CorpusFormat | None = None
    split: str | None = None
    label_map: str | None = None
    devices: Names | None = None
    modes: Names | None = None
    parts: Names | None = None
    left_out_recordings: Names | None = None


class DataSettings(Settings):
    root: str | None = None
    """Folder of the corpus; usually given on the command line as --data."""
    corpora: Annotated[tuple[CorpusSettings, ...], Field(strict=False)] = ()
    """Several corpora in one training: a table of root, name, share and settings of its own for each."""
    corpus: CorpusFormat = "auto"
    """Format of the corpus; auto looks at the folder."""
    split: str = "official"
    """official, fold0 .. fold4 (RespireNet's), a file of `name<TAB>part` lines; device:NAME or corpus:NAME tests it."""
    protocol: Literal["strict", "published"] = "strict"
    """strict: validation patients are held out of the training set, and so are patients of the test set."""
    are_shared_patients_kept: bool = False
    """Under strict: keep patients in the training set who are also in the test set."""
    test_parts: Names = ()
    """Parts of the split that form the test set; empty: every part but train."""
    label_set: LabelSetName = "sound4"
    """Classes to tell apart."""
    label_map: str | None = None
    """File that maps the corpus's own labels to the classes of the label set (table and folders corpora)."""
    devices: Names = ()
    """Keep only recordings of these stethoscopes; empty keeps all."""
    modes: Names = ()
    """Keep only these acquisition modes (ICBHI: sc, mc); empty keeps all."""
    parts: Names = ()
    """Keep only recordings of these parts of the split, e.g. train to leave a test unopened; empty keeps all."""
    left_out_recordings: Names = ()
    """Recordings that are left out, by name."""
    shard_mb: Annotated[int, Field(ge=0)] = 0
    """Most MB of sound in a shard (see train.shuffle_shards); 0: those of a packed corpus, of any other one for all."""
    is_strict: bool = True
    """Refuse a corpus with problems; false trains on the usable part of it."""


class AudioSettings(Settings):
    sample_rate_hz: Count = 16000
    """Rate to which every recording is resampled."""
    duration_s: Annotated[float, Field(gt=0, le=600)] = 8.0
    """Length of the input; longer cycles are cut, shorter ones padded."""
    padding: Literal["repeat", "zero"] = "repeat"
    """Padding of a cycle shorter than the input: repeated with a fade, or zeros around it."""
    is_padding_encoded: bool = True
    """false: the AST encodes only patches that touch the cycle's own sound; the padding costs nothing."""
    filter_bank: Literal["kaldi", "efficientat"] = "kaldi"
    """kaldi: AST's; efficientat: that of EfficientAT's weights, made for 32 kHz."""
    num_mels: Annotated[int, Field(ge=16)] = 128
    """Mel filters of the filter bank."""
    fade_s: Annotated[float, Field(ge=0)] = 0.0625
    """Linear fade at both ends of the recording, and at the end of a repeated cycle."""
    is_recording_normalized: bool = False
    """Take the recording's own mean log-mel spectrum from each frame: its level, its stethoscope's response."""
    statistics: Literal["audioset", "corpus"] = "audioset"
    """Mean and standard deviation for normalisation: of the weights' AudioSet training, or of the training cycles."""


class AugmentSettings(Settings):
    is_on: bool = True
    """SpecAugment on the training cycles."""
    gate: Literal["probability", "published"] = "probability"
    """published: applied when a standard normal draw is at most 1, as in the authors' program."""
    probability: Share = 1.0
    """Probability that a filter bank is masked, for gate = probability."""
    num_frequency_masks: Annotated[int, Field(ge=0)] = 2
    """Frequency masks on each filter bank."""
    max_frequency_width: Annotated[int, Field(ge=0)] = 48
    """Widest frequency mask, in mel filters."""
    num_time_masks: Annotated[int, Field(ge=0)] = 2
    """Time masks on each filter bank."""
    max_time_width: Annotated[int, Field(ge=0)] = 160
    """Widest time mask, in frames of 10 ms."""
    fill: Literal["mean", "zero"] = "mean"
    """Value inside the masks: the mean of the filter bank, or zero."""
    waveform: WaveformChanges = ()
    """Waveform augmentations, one of which is drawn for each training cycle; empty for none."""
    waveform_probability: Share = 0.5
    """Probability that a training cycle's waveform is changed."""
    response_db: Annotated[float, Field(ge=0)] = 0.0
    """Deviation of a random smooth frequency response added to each training cycle, in dB: another stethoscope."""
    gain_db: Annotated[float, Field(ge=0)] = 0.0
    """Deviation of a random gain added to each training cycle, in dB."""


class ModelSettings(Settings):
    architecture: Architecture = "ast"
    """ast (SSAST too: it differs in weights and pooling), or one of the CNNs that the paper compares with."""
    size: Literal["micro", "tiny", "small", "base"] = "base"
    """Size of the AST; micro is ours, for demonstrations, the others are DeiT's."""
    pooling: Literal["class_token", "average_token"] = "class_token"
    """Feature of the AST: mean of class and distillation token, or of all patch tokens (SSAST's average token)."""
    stride: Annotated[int, Field(ge=1, le=16)] = 10
    """Stride of the 16 x 16 patches, in bins."""
    norm_eps: Positive = 1e-6
    """Epsilon of the encoder's layer norms; 1e-12 for weights in Hugging Face's layout."""
    pretrained: str = "none"
    """none, box (of lungsound-box), a file or folder of weights, or a name of known weights, which are downloaded."""
    position_grid: Literal["aligned", "published"] = "aligned"
    """Layout of pretrained positions on the patch grid; published swaps the axes as the authors' program does."""
    first_kernel: Literal["sum", "new"] = "sum"
    """First kernel of a CNN with ImageNet weights: sum of red, green and blue, or drawn anew as published."""
    is_head_pretrained: bool = False
    """Also load the head, from a lungsound run with the same classes, to fine-tune it on other recordings."""


class ObjectiveSettings(Settings):
    name: Literal["ce", "patchmix_ce", "patchmix_cl"] = "patchmix_cl"
    """Cross-entropy, Patch-Mix with mixed-label cross-entropy, or the Patch-Mix contrastive loss."""
    is_class_weighted: bool = False
    """Cross-entropy weighted by inverse class frequency (published: in the plain run only)."""
    label_smoothing: Share = 0.0
    """Share of each label that the cross-entropy spreads evenly over all classes; not in the contrastive loss."""
    teachers: Names = ()
    """Trained runs or model files with the same classes: the mean of their probabilities is each cycle's soft label."""
    teacher_weight: Share = 0.5
    """Share of the soft labels in the cross-entropy, where there are teachers; the labels have the rest."""
    temperature: Positive = 0.06
    """Temperature of the contrastive loss: similarities are divided by it."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the contrastive loss beside the cross-entropy."""
    target: Literal["grad_block", "grad_flow", "project_block", "project_flow"] = "grad_block"
    """What the mixed projection is compared with: the clean feature or its projection, with or without gradient."""
    negatives: Literal["all", "diff_label"] = "all"
    """Negatives of the contrastive loss: the whole batch, or only samples with other labels."""
    projection_dim: Count | None = None
    """Size of the projections; the encoder's size by default, which the unprojected targets need."""


class PatchMixSettings(Settings):
    beta: Annotated[float, Field(ge=0)] = 1.0
    """lambda ~ Beta(beta, beta)."""
    axis: Literal["patch", "time"] = "patch"
    """Replace single patches, or whole time columns."""
    is_lam_per_sample: bool = True
    """One lambda for each sample; false: one for the batch, as published."""
    is_self_partner_allowed: bool = True
    """Let a sample be mixed with itself, as published."""


class TrainSettings(Settings):
    epochs: Count = 50
    """Passes through the training set."""
    batch_size: Count = 8
    """Cycles in a batch."""
    is_last_batch_dropped: bool = True
    """Leave out the last, smaller batch of an epoch, as published."""
    shuffle_shards: Count = 4
    """Shards whose cycles are shuffled together; of a packed corpus twice as many are kept on the disk."""
    sampling_power: Annotated[float, Field(ge=0)] = 0.0
    """Draw cycles with probability in proportion to (cycles of their class)^-power, with replacement; 0: each once."""
    num_accumulated_batches: Count = 1
    """Batches per optimizer step, with the mean of their losses; partners and negatives stay within a batch."""
    is_activation_checkpointed: bool = False
    """Recompute the AST's activations in the backward pass instead of keeping them: same numbers, less memory."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """adam puts weight decay into the gradient, as published."""
    learning_rate: Positive = 5e-5
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    """Weight decay; optimizer says how it acts."""
    schedule: Literal["cosine", "step", "constant", "cosine_by_step"] = "cosine"
    """Learning rate, set once an epoch as published; cosine_by_step sets it at each step, also within one epoch."""
    decay_rate: Share = 0.1
    """Either cosine ends at learning_rate * decay_rate^3; step multiplies by it at each of decay_epochs."""
    decay_epochs: Epochs = (120, 160)
    """Epochs after which the step schedule lowers the learning rate."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs, or parts of one, of linear warm-up from a tenth of the learning rate."""
    blend: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """After each step weights become blend * old + (1 - blend) * new: the authors' moving average (0.5 in theirs)."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Evaluate and keep an exponential moving average of the weights with this decay, e.g. 0.999; 0: the weights."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 on a GPU that has it, and on a CPU that was measured to be clearly faster in it; else fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    seed: int = 0
    """Seed of weights, order, masks, Patch-Mix draws and held-out patients."""
    selection: Literal["last", "validation", "best_on_test"] = "last"
    """Epoch whose weights are kept. best_on_test is what the authors' program does; its score is optimistic."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the training cycles to hold out, by patient (data.protocol = strict)."""
    calibration_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of them to hold out, by patient, for the calibration alone; 0 calibrates on validation patients."""
    division_seed: int | None = None
    """Seed of who is held out, for runs of several seeds with the same patients; by default train.seed."""
    is_threshold_chosen: bool = False
    """Choose on validation patients the probability from which a cycle is called normal, and keep it with the model."""
    is_test_watched: bool = True
    """Also evaluate the test set after every epoch, for the column "chosen on test"; the model is not affected."""
    checkpoint_every_steps: Count = 200
    """Steps between checkpoints; one is also written after every epoch and when the run is interrupted."""


class RunConfig(Settings):
    """All settings of one run."""

    name: str
    description: str = ""
    data: DataSettings = DataSettings()
    audio: AudioSettings = AudioSettings()
    augment: AugmentSettings = AugmentSettings()
    model: ModelSettings = ModelSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    patchmix: PatchMixSettings = PatchMixSettings()
    train: TrainSettings = TrainSettings()


def recipe_names() -> list[str]:
    """Names of the recipes in the package, sorted."""
    return shipped_names("recipes")


def load_config(
    recipe: str | Path, settings: Mapping[str, Any] | Iterable[str] = (), *, is_as_published: bool = False
) -> RunConfig:
    """The run that a recipe describes: a name of the package's recipes or the path of a TOML file.

    `is_as_published` puts the preset of the authors' program on it. `settings` come last: a mapping, as in
    {"train.epochs": 5, "data.root": "corpus"}, or `section.key=value` strings, the value as in TOML (a bare word is
    a string). SettingsError with one line that names what is not understood and what is allowed.
    """
    if isinstance(settings, str):
        raise SettingsError(f'settings {settings!r}: give a mapping, as in {{"train.epochs": 5}}, or a list of strings')
    values = _read_recipe(str(recipe))
    if is_as_published:
        _merge(values, published_preset())
    pairs = settings.items() if isinstance(settings, Mapping) else map(_parse_override, settings)
    for key, value in pairs:
        _merge(values, _nested(key, value))
    return resolve(values, source=f"recipe {str(recipe)!r}")


def settings_of_corpora(roots: Sequence[Path]) -> list[str]:
    """Settings, as for `load_config`, by which a run has the corpora in these places; none of none."""
    paths = [as_uri(root) or str(root.absolute()) for root in roots]
    if len(paths) < 2:
        return [f"data.root={path}" for path in paths]
    return [f"data.corpora={_as_toml([{'root': path} for path in paths])}"]


def published_preset() -> dict[str, Any]:
    """The settings in which the authors' program differs from our defaults, by section."""
    return shipped("presets", "published.toml")


def resolve(values: Mapping[str, Any], *, source: str) -> RunConfig:
    """Checked settings from plain values."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{source}: {_explain(error)}") from None


def _read_recipe(recipe: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    if recipe in seen:
        raise SettingsError(f"recipe {recipe!r} extends itself through {' -> '.join(seen)}")
    if len(seen) > MAX_EXTENDED:
        raise SettingsError(f"recipe {seen[0]!r} extends more than {MAX_EXTENDED} recipes, one by one")
    path, known = Path(recipe), recipe_names()
    if not (os.path.isfile(path) if path.suffix == ".toml" else recipe in known):  # noqa: PTH113 (of any length)
        name = reprlib.repr(recipe) if len(recipe) > MAX_SHOWN else repr(recipe)
        raise SettingsError(f"no recipe {name}: give an existing .toml file or one of {', '.join(known)}")
    if path.suffix == ".toml":
        values = parse_toml(read_text(path, SettingsError), SettingsError, path=path)
    else:
        values = shipped("recipes", f"{recipe}.toml")
    base = values.pop("extends", None)
    if isinstance(base, str) and base.endswith(".toml"):
        base = str(path.parent / base)  # beside the recipe that names it
    resolved = _read_recipe(str(base), (*seen, recipe)) if base is not None else {}
    _merge(resolved, {"name": path.stem if path.suffix == ".toml" else recipe, **values})
    return resolved


def _merge(base: dict[str, Any], difference: Mapping[str, Any]) -> None:
    """Put settings on others: sections key by key, lists of tables table by table."""
    for key, value in difference.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        elif _are_tables(value) and _are_tables(base.get(key)):
            if len(value) != len(base[key]):
                raise SettingsError(
                    f"{key}: {len(value)} are given where the recipe or a setting has {len(base[key])}: give as many, "
                    "in the same order"
                )
            base[key] = [dict(table) for table in base[key]]
            for table, change in zip(base[key], value, strict=True):
                _merge(table, change)
        else:
            base[key] = value


def _are_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(each, dict) for each in value)


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip() or key.count(".") > MAX_DEPTH:
        given = override[:MAX_SHOWN]
        raise SettingsError(f"override {given!r} is not of the form section.key=value, e.g. train.epochs=5")
    try:
        value = parse_toml(f"value = {text}", SettingsError)["value"]
    except SettingsError:
        value = text.strip()
    return key.strip(), value


def _nested(key: str, value: Any) -> dict[str, Any]:
    """The setting `section.key` as the sections of a recipe are, its value as TOML could say it."""
    if isinstance(value, Mapping):
        value = dict(pair for inner in value.items() for pair in _nested(*inner).items())
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif hasattr(value, "tolist"):  # numbers and arrays of numpy
        value = value.tolist()
    for part in reversed(str(key).split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


def _explain(error: ValidationError) -> str:
    """One line for the first thing that is wrong."""
    first, *others = error.errors()
    place = ".".join(map(str, first["loc"]))[:MAX_SHOWN]
    if first["type"] == "extra_forbidden":
        section: Any = RunConfig
        for part in first["loc"][:-1]:  # a number is the place in a list
            section = get_args(section)[0] if isinstance(part, int) else section.model_fields[part].annotation
        return f"unknown key {place!r}; the keys there are: {', '.join(section.model_fields)}"
    if first["type"] == "tuple_type":
        example = '{root="A"}, {root="B"}' if place == "data.corpora" else '"sc"'
        first["msg"] = f"give a list, as in {place}=[{example}]"
    return first_fault([first, *others])


def describe_settings(section: str | None = None) -> dict[str, list[tuple[str, str, str, str]]]:
    """Name, default, allowed values and meaning of each setting of a section, or of all, in the order of a recipe.

    The default is as TOML has it, "not set" for one that may be left out.
    """
    sections = {name: type(getattr(RunConfig(name=""), name)) for name in RunConfig.model_fields if name not in _OF_RUN}
    if section is not None and section not in sections:
        raise SettingsError(f"no section {section!r} of settings: there are {', '.join(sections)}")
    return {
        name: [
            (key, _as_toml(each.get("default")), _allowed(each), each.get("description", ""))
            for key, each in kind.model_json_schema()["properties"].items()
        ]
        for name, kind in sections.items()
        if section in (None, name)
    }


def to_toml(config: RunConfig) -> str:
    """A recipe that sets everything, section by section; settings that are not set stand as comments."""
    lines = [f"{name} = {_as_toml(getattr(config, name))}" for name in _OF_RUN]
    for section, values in config.model_dump(mode="json", exclude=set(_OF_RUN)).items():
        lines += ["", f"[{section}]"]
        lines += [f"{'# ' if value is None else ''}{key} = {_as_toml(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


_OF_RUN = ("name", "description")  # what a recipe says of itself, beside its sections


def _as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_as_toml(each)}' for key, each in value.items() if each is not None)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def _allowed(schema: Mapping[str, Any]) -> str:
    """The values that a setting may have, from its JSON schema."""
    if "anyOf" in schema:  # one type, or not set
        schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema["type"] == "array":
        items = schema["items"]
        kinds = ", ".join(items["enum"]) if "enum" in items else f"{items.get('type', 'table')}s"  # else a $ref
        return f"list of {kinds}"
    words = {"minimum": "at least", "exclusiveMinimum": "over", "maximum": "at most", "exclusiveMaximum": "below"}
    limits = [f"{word} {schema[key]:g}" for key, word in words.items() if key in schema]
    kind = {"boolean": "true or false", "string": "text", "integer": "whole number", "number": "number"}
    return ", ".join([kind[schema["type"]], *limits])
