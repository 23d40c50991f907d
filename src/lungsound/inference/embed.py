"""Features of cycles: the encoder's outputs that a model's head gets, with their keys, as arrays or files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import Sound
from lungsound.data.splits import load_corpus
from lungsound.data.store import cut_cycles
from lungsound.errors import SettingsError
from lungsound.extras import BOX
from lungsound.files import as_text, csv_text, written_whole
from lungsound.inference.bulk import find_sounds
from lungsound.inference.formats.tables import METADATA_KEY, load_pyarrow
from lungsound.inference.parallel import failure
from lungsound.inference.predictor import FindBy, find_model, load_recording
from lungsound.models.classifier import find_device, predict_cycles
from lungsound.progress import track
from lungsound.training.evaluate import data_of_model
from lungsound.training.model_file import TrainedModel, load_model

FORMAT = "lungsound embeddings 1"
BATCH_SIZE = 8
SUFFIXES = (".npz", ".csv", ".parquet")


@dataclass(frozen=True)
class EmbeddedCycle:
    """Cycle of a row of features. `key` is that of a predictions file; what is not known is blank."""

    key: str
    recording: str
    start_s: float
    end_s: float
    label: str = ""
    patient: str = ""
    part: str = ""


@dataclass(frozen=True)
class Embeddings:
    """Features (cycle, dim), float32, of the model with this hash alone; `errors` names each recording that failed."""

    cycles: tuple[EmbeddedCycle, ...]
    features: NDArray[np.float32]
    model_sha256: str
    errors: tuple[str, ...] = ()

    def __repr__(self) -> str:
        num_cycles, dim = self.features.shape
        return f"<Embeddings: {num_cycles} cycles, {dim} features, {len(self.errors)} errors>"


def embed(
    model: str | Path = BOX,
    paths: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    find_by: FindBy = "auto",
    device: str = "cpu",
    console: Console | None = None,
) -> Embeddings:
    """Features of the cycles of recordings, or of a corpus; written to `out` (.npz, .csv, .parquet) too.

    `model` is what `Predictor.load` takes. The recordings are those in `paths` (files, folders, patterns), their cycles
    located by `find_by`. Without paths it is the corpus in `data_root`, else the one that the run was trained on, all
    parts of it. A recording that fails stops no other; errors in a corpus raise, as does SettingsError for an
    `out` of another kind.
    """
    out = None if out is None else Path(out)
    if out is not None and out.suffix not in SUFFIXES:
        raise SettingsError(f"features are written as {', '.join(SUFFIXES)}, got {str(out)!r}: name such a file")
    if out is not None and out.suffix == ".parquet":
        load_pyarrow()
    recordings = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if recordings and data_root is not None:
        raise SettingsError("give recordings or a corpus (--data DIR, in Python data_root), not both")
    console, file = console or Console(), find_model(model)
    trained = load_model(file)
    trained.model.to(find_device(device))
    front_end, parts, cycles, errors = trained.front_end, [features(trained, [])], [], []
    with track(console, "features") as on_progress:
        if recordings:
            found = find_sounds(recordings)
            for number, path in enumerate(found.files, start=1):
                try:
                    loaded = load_recording(path, front_end, find_by=find_by, is_silence_kept=True)
                    parts.append(features(trained, [each.sound for each in loaded.stretches]))
                except Exception as error:  # a bug that one recording meets must not lose the others
                    errors.append(failure(path, error))
                else:
                    for each in loaded.stretches:
                        key = f"{as_text(path)}#{each.start_s:.3f}-{each.end_s:.3f}"
                        cycles.append(EmbeddedCycle(key, as_text(path), each.start_s, each.end_s))
                on_progress(number, len(found.files))
            errors += found.unreadable
        else:
            corpus = load_corpus(data_of_model(file, trained, None if data_root is None else Path(data_root)))
            for cycle in corpus.cycles:
                recording, times = cycle.recording, (cycle.start_s, cycle.end_s)
                part = corpus.split.get(recording.name, "")
                cycles.append(EmbeddedCycle(cycle.key, recording.name, *times, cycle.word, recording.patient, part))
            for sounds in cut_cycles(corpus.cycles, front_end, lambda _, each: each):
                parts.append(features(trained, sounds))
                on_progress(sum(map(len, parts)), len(cycles))
    embeddings = Embeddings(tuple(cycles), np.concatenate(parts), trained.sha256, tuple(errors))
    if out is not None:
        with written_whole(out) as partial:
            _write(embeddings, partial, suffix=out.suffix)
    return embeddings


def features(trained: TrainedModel, cycles: Sequence[Sound]) -> NDArray[np.float32]:
    """Features (cycle, dim) that the model's head gets, for cycles as `FrontEnd.cut` gives them."""
    front_end = trained.front_end

    def inputs() -> Iterator[tuple[Tensor, Tensor | None]]:
        for first in range(0, len(cycles), BATCH_SIZE):
            batch = cycles[first : first + BATCH_SIZE]
            own = [front_end.num_own_frames(len(cycle.waveform)) for cycle in batch]
            fbank = normalize(front_end.filter_banks_of(batch), mean=trained.mean, std=trained.std)
            yield torch.from_numpy(fbank), None if None in own else torch.tensor(own)

    return predict_cycles(trained.model, inputs(), device=next(trained.model.parameters()).device)[1]


def _write(embeddings: Embeddings, path: Path, *, suffix: str) -> None:
    columns = {field.name: [getattr(each, field.name) for each in embeddings.cycles] for field in fields(EmbeddedCycle)}
    features, facts = embeddings.features, {"format": FORMAT, "model_sha256": embeddings.model_sha256}
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: np.array(values) for name, values in {**columns, **facts}.items()}
        with path.open("wb") as file:
            np.savez(file, **arrays, features=features)
    elif suffix == ".csv":
        head = [*columns, "model_sha256", *(f"feature_{index}" for index in range(features.shape[1]))]
        cycles = zip(embeddings.cycles, features, strict=True)
        rows = ([*astuple(cycle), embeddings.model_sha256, *row] for cycle, row in cycles)
        path.write_text(csv_text(chain([head], rows)), encoding="utf-8")
    else:
        arrow, parquet = load_pyarrow()
        of_arrow = {name: arrow.array(values) for name, values in columns.items()}
        flat = arrow.array(features.reshape(-1))
        of_arrow["features"] = arrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
        parquet.write_table(arrow.table(of_arrow, metadata={METADATA_KEY: json.dumps(facts)}), path)
