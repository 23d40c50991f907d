"""The model file: weights in safetensors, facts as JSON in the header of the same file; checkpoints have its form.

It is read and written without torch, which is imported when a network is asked for.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lungsound.audio.front_end import FrontEnd
from lungsound.audio.io import Samples
from lungsound.config import AudioSettings, LabelSetName, ModelSettings
from lungsound.errors import WeightsError
from lungsound.evaluation.calibration import Calibration
from lungsound.evaluation.evidence import Evidence, Measured
from lungsound.evaluation.out_of_domain import Domain, Gate
from lungsound.files import hash_file, is_unfinished, parse_json, validated, written_whole
from lungsound.labels import LABEL_SETS, LabelSet

if TYPE_CHECKING:
    from lungsound.models.classifier import LungSoundClassifier

Arrays = Mapping[str, NDArray[Any]]

MODEL_FORMAT = "lungsound model 1"
FACTS_KEY = "lungsound"  # in the header, over the facts
# Prefixes of the tensors that are no weights; the gates are fitted to what the weights make of a cycle.
DOMAIN_PREFIX, *GATE_PREFIXES = OF_DOMAIN = "domain.", "gate.", "doubted."
PREDICTIONS = "predictions_sha256"  # of the file of predictions that was made with the model in its run
LARGEST_FLOAT16 = 65504.0
OF_WEIGHTS = ("calibration", "evidence", PREDICTIONS)  # facts that hold for these very weights
# Last of the facts, so that a file is checked to the last byte. Older files have neither. A second key of the header
# would do as well, but safetensors writes several in any order.
TENSORS_HASH, FACTS_HASH = "tensors_sha256", "facts_sha256"
_FACTS = re.compile(rf'(?P<rest>.*), "{FACTS_HASH}": "(?P<sha256>[0-9a-f]{{64}})"\}}', re.DOTALL)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model and the definition of its input and of its predictions.

    `weights` are those of the network of `architecture` by their names, float32 or float16. `devices` are those that
    the training set was recorded with, as far as its corpus names them. `gate` stops what is no breathing, `doubted`
    what sounds unlike the corpora on which the model was shown to be better than always predicting normal. `evidence`
    is None in files of older versions, `file` for a model in memory.
    """

    weights: Arrays
    architecture: ModelSettings
    front_end: FrontEnd
    mean: float
    std: float
    label_set: LabelSet
    sha256: str
    calibration: Calibration | None = None
    domain: Domain | None = None
    devices: tuple[str, ...] = ()
    evidence: Evidence | None = None
    gate: Gate | None = None
    doubted: Gate | None = None
    file: Path | None = None

    @cached_property
    def model(self) -> "LungSoundClassifier":
        """The network with its weights, in evaluation mode on the CPU. WeightsError where they do not fit it."""
        from lungsound.models.classifier import classifier_with  # late: who has an engine needs no torch

        try:
            return classifier_with(self.weights, self.architecture, self.front_end, self.label_set)
        except ValueError as error:
            raise WeightsError(
                f"{self.file or 'a model in memory'} does not fit this model: {error}; use weights of the same model "
                "size, input size and classes"
            ) from None

    @property
    def normal_threshold(self) -> float | None:
        """Calibrated probability from which class 0 is predicted; None predicts the most probable class."""
        return None if self.calibration is None else self.calibration.normal_threshold

    @property
    def groups(self) -> tuple[Measured, ...]:
        """Groups of patients that the model was measured on, as far as its file says."""
        return () if self.evidence is None else self.evidence.groups

    def input_of(self, waveform: Samples) -> Samples:
        """The waveform (num_input_samples,) that the model predicts, of a cycle (samples,) of any length."""
        return self.front_end.fit(waveform)[: self.num_input_samples(len(waveform))]

    @property
    def patch_stride(self) -> int:
        """Frames from one column of patches to the next; 1 for a convolutional network, which has none."""
        return self.architecture.stride if self.architecture.architecture == "ast" else 1

    def num_input_samples(self, num_samples: int) -> int:
        """Input samples of a cycle of `num_samples`: the front end's, or those under the patches that are encoded."""
        return self.front_end.num_input_samples(num_samples, patch_stride=self.patch_stride)


def unfinished(folder: Path) -> str | None:
    """Message about a run that was not trained to its end and evaluated; None for any other folder."""
    if not is_unfinished(folder):
        return None
    return f"{folder} is not finished: 'lungsound train RECIPE --out {folder} --resume' goes on with it"


def write_arrays(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write arrays and JSON facts as one safetensors file; the same input gives the same bytes."""
    contiguous = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in arrays.items()}
    rest = json.dumps({**facts, TENSORS_HASH: _hash_arrays(contiguous)})[:-1]
    text = f'{rest}, "{FACTS_HASH}": "{hashlib.sha256(rest.encode()).hexdigest()}"}}'
    with written_whole(path) as partial:
        partial.write_bytes(save(contiguous, metadata={FACTS_KEY: text}))


def read_arrays(path: Path, *, expected_format: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read the file that `write_arrays` wrote. WeightsError for a file that is missing, damaged or of another kind."""
    with open_arrays(path, expected_format=expected_format) as (file, facts):
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    stated = facts.pop(TENSORS_HASH, None)
    if stated is not None and stated != _hash_arrays(arrays):
        raise WeightsError(f"{path} is damaged (its tensors are not as they were written); copy or train it again")
    return arrays, facts


def _hash_arrays(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(arrays.items()):
        digest.update(f"{name} torch.{value.dtype} {value.shape}\n".encode())  # as the first files had it
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@contextmanager
def open_arrays(path: Path, *, expected_format: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open file, nothing of it read, and the facts in its header. Errors as `read_arrays`."""
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(FACTS_KEY, "{}")
            facts = parse_json(text, WeightsError, path=path, is_nan_allowed=True)  # scores that are not defined
            match = _FACTS.fullmatch(text)
            if match and hashlib.sha256(match["rest"].encode()).hexdigest() == match["sha256"]:
                del facts[FACTS_HASH]
            elif match or TENSORS_HASH in text:
                raise WeightsError(
                    f"{path} is damaged (its facts are not as they were written); copy or train it again"
                )
            given = facts.get("format") if isinstance(facts, dict) else None
            if given != expected_format:
                raise WeightsError(f"{path} is of format {given!r}, expected {expected_format!r}")
            yield file, facts
    except FileNotFoundError:
        what = "file" if path.suffix else "run"
        message = unfinished(path.parent) or f"no {what} {path}: give the folder of a run, or train one first"
        raise WeightsError(message) from None
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({error}); copy or train it again") from None


def tensor_places(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and number of bytes of each tensor in a file that `read_arrays` has read."""
    with path.open("rb") as file:
        header_size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_size))
    spans = {name: each["data_offsets"] for name, each in header.items() if name != "__metadata__"}
    return {name: (8 + header_size + begin, end - begin) for name, (begin, end) in spans.items()}


class Kept(TypedDict, total=False):
    """Parts of a model file beside its weights and their input; None is none."""

    calibration: Calibration | None
    domain: Domain | None
    evidence: Evidence | None
    gate: Gate | None
    doubted: Gate | None
    predictions_sha256: str | None


def save_model(
    path: Path,
    model: "LungSoundClassifier",
    *,
    audio: AudioSettings,
    architecture: ModelSettings,
    mean: float,
    std: float,
    label_set: LabelSet,
    devices: Sequence[str] = (),
    **kept: Unpack[Kept],
) -> None:
    """Write all that predicting needs: encoder and head (the projector takes no part), front end, classes, devices."""
    weights = {
        name: value.detach().cpu().numpy()
        for name, value in model.state_dict().items()
        if not name.startswith("projector.")
    }
    how_made = {"pretrained", "position_grid", "first_kernel", "is_head_pretrained"}
    facts = {
        "format": MODEL_FORMAT,
        "audio": audio.model_dump(mode="json"),
        "model": architecture.model_dump(mode="json", exclude=how_made),
        "mean": mean,
        "std": std,
        "label_set": label_set.name,
        "devices": list(devices),
        "note": "research software, not a medical device",
    }
    if architecture.architecture == "ast":
        grid = model.patch_encoder.grid
        facts["patch_grid"] = [grid.freq, grid.time]
    _write_with(path, weights, facts, kept)


def add_to_model(path: Path, **kept: Unpack[Kept]) -> None:
    """Put what is given into the model file, in the place of what it had; all else stays as it is, the weights too."""
    arrays, facts = read_arrays(path, expected_format=MODEL_FORMAT)
    _write_with(path, arrays, facts, kept)


def _write_with(path: Path, arrays: dict[str, NDArray[Any]], facts: dict[str, Any], kept: Kept) -> None:
    for prefix, part in zip(OF_DOMAIN, (kept.get("domain"), kept.get("gate"), kept.get("doubted")), strict=True):
        if part is not None:
            arrays |= {f"{prefix}{name}": value for name, value in asdict(part).items()}
    if (calibration := kept.get("calibration")) is not None:
        facts["calibration"] = calibration.to_plain()
    if (evidence := kept.get("evidence")) is not None:
        facts["evidence"] = evidence.model_dump(mode="json")
    if (predictions_sha256 := kept.get("predictions_sha256")) is not None:
        facts[PREDICTIONS] = predictions_sha256
    write_arrays(path, arrays, facts)


def write_rounded(source: Path, target: Path) -> None:
    """Copy a model with its weights rounded to float16, half the size; `load_model` computes with them in float32.

    What was fitted to or measured on the weights as they were is left out: fit and measure with the copy. WeightsError
    for a weight beyond what float16 holds.
    """
    arrays, facts = read_arrays(source, expected_format=MODEL_FORMAT)
    arrays = {name: value for name, value in arrays.items() if not name.startswith(tuple(GATE_PREFIXES))}
    for name, value in arrays.items():
        if value.dtype == np.float32 and not name.startswith(OF_DOMAIN):
            if (largest := float(np.abs(value).max(initial=0))) > LARGEST_FLOAT16:
                raise WeightsError(f"{source}: {name} holds {largest:.3g}, more than float16 can")
            arrays[name] = value.astype(np.float16)
    write_arrays(target, arrays, {name: fact for name, fact in facts.items() if name not in OF_WEIGHTS})


class ModelFacts(BaseModel):
    """The facts in a model file; an older one lacks some."""

    audio: AudioSettings
    model: ModelSettings
    mean: FiniteFloat
    std: Annotated[FiniteFloat, Field(gt=0)]
    label_set: LabelSetName
    devices: tuple[str, ...] = ()
    calibration: Calibration | None = None
    evidence: Evidence | None = None


def read_facts(path: Path) -> ModelFacts:
    """The facts in a model file; reads no weights."""
    with open_arrays(path, expected_format=MODEL_FORMAT) as (_, facts):
        return _typed(path, facts)


def _typed(path: Path, facts: Mapping[str, Any]) -> ModelFacts:
    return validated(facts, ModelFacts, WeightsError, path=path, advice="copy or train it again")


def load_model(path: Path) -> TrainedModel:
    """The model that `save_model` wrote; WeightsError for a file that is damaged."""
    arrays, plain = read_arrays(path, expected_format=MODEL_FORMAT)
    facts = _typed(path, plain)
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise WeightsError(f"{path}: {name} holds values that are no finite numbers; copy or train it again")
    parts: dict[str, dict[str, Any]] = {prefix: {} for prefix in OF_DOMAIN}
    for name in [name for name in arrays if name.startswith(OF_DOMAIN)]:
        prefix, dot, own = name.partition(".")
        parts[prefix + dot][own] = arrays.pop(name)
    try:
        domain = Domain(**parts[DOMAIN_PREFIX]) if parts[DOMAIN_PREFIX] else None
        gate, doubted = (Gate(**parts[prefix]) if parts[prefix] else None for prefix in GATE_PREFIXES)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: what it keeps of its training set is damaged ({error}); copy it again") from None
    return TrainedModel(
        arrays,
        facts.model,
        FrontEnd(facts.audio),
        facts.mean,
        facts.std,
        LABEL_SETS[facts.label_set],
        hash_file(path),
        facts.calibration,
        domain,
        facts.devices,
        facts.evidence,
        gate,
        doubted,
        path,
    )
