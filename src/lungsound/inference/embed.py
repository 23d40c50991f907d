"""Features of cycles: the encoder's outputs that a model's head gets, with their keys, as arrays or files."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lungsound.audio.front_end import Sound
from lungsound.data.corpus import Corpus
from lungsound.data.store import cut_cycles
from lungsound.errors import SettingsError
from lungsound.extras import BOX, load
from lungsound.files import as_text, csv_text, written_whole
from lungsound.inference.bulk import find_sounds
from lungsound.inference.engines import Outputs
from lungsound.inference.formats.tables import METADATA_KEY, load_pyarrow
from lungsound.inference.parallel import Asked, Group, for_each, of_group
from lungsound.inference.predictor import FindBy, LoadedRecording, Predictor, load_recording
from lungsound.processor import num_threads
from lungsound.progress import track

FORMAT = "lungsound embeddings 1"
NUM_TOGETHER = 64  # cycles of a corpus, at least: those of like length share forward passes
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


_OfRecording = tuple[list[EmbeddedCycle], NDArray[np.float32]]


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
    """Features of the cycles of recordings, or of a corpus; written to `out` (.npz, .csv, .parquet) too, if any.

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
    console, predictor = console or Console(), Predictor.load(model, device=device, find_by=find_by)
    cycles: list[EmbeddedCycle] = []
    parts: list[NDArray[np.float32]] = []
    errors: list[str] = []
    with track(console, "features") as on_progress:
        if recordings:
            found = find_sounds(recordings)
            asked = [Asked(path) for path in found.files]
            results = for_each(predictor, asked, _embed_group, num_workers=num_threads())
            for number, (_, result) in enumerate(results, start=1):
                if isinstance(result, str):
                    errors.append(result)
                else:
                    cycles += result[0]
                    parts.append(result[1])
                on_progress(number, len(asked))
            errors += found.unreadable
        else:
            corpus = _corpus_of(predictor, None if data_root is None else Path(data_root))
            for cycle in corpus.cycles:
                recording, times = cycle.recording, (cycle.start_s, cycle.end_s)
                part = corpus.split.get(recording.name, "")
                cycles.append(EmbeddedCycle(cycle.key, recording.name, *times, cycle.word, recording.patient, part))
            for sounds in _together(cut_cycles(corpus.cycles, predictor.trained.front_end, lambda _, each: each)):
                parts.append(_encoded(predictor, predictor.engine.predict(sounds)))
                on_progress(sum(map(len, parts)), len(cycles))
    features = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
    embeddings = Embeddings(tuple(cycles), features, predictor.trained.sha256, tuple(errors))
    if out is not None and cycles:
        with written_whole(out) as partial:
            _write(embeddings, partial, suffix=out.suffix)
    return embeddings


def _embed_group(predictor: Predictor, group: Group) -> list[_OfRecording | str]:
    """Cycles and features of recordings, their cycles together."""

    def load(path: Path) -> LoadedRecording:
        return load_recording(path, predictor.trained.front_end, find_by=predictor.find_by, is_silence_kept=True)

    def finish(each: Asked, loaded: LoadedRecording, outputs: Outputs) -> _OfRecording:
        name = as_text(each.path)
        spans = [(stretch.start_s, stretch.end_s) for stretch in loaded.stretches]
        cycles = [EmbeddedCycle(f"{name}#{start:.3f}-{end:.3f}", name, start, end) for start, end in spans]
        return cycles, _encoded(predictor, outputs)

    return of_group(predictor, group, load, finish)


def _encoded(predictor: Predictor, outputs: Outputs) -> NDArray[np.float32]:
    """The encoder's features (cycle, dim) among all that an engine gives."""
    return outputs[1][:, : -2 * predictor.trained.front_end.audio.num_mels]


def _corpus_of(predictor: Predictor, root: Path | None) -> Corpus:
    load("torch", extra="train")  # late: recordings need neither a split nor torch
    from lungsound.data.splits import load_corpus
    from lungsound.training.evaluate import data_of_model

    assert predictor.path is not None
    return load_corpus(data_of_model(predictor.path, predictor.trained, root))


def _together(parts: Iterable[list[Sound]]) -> Iterator[list[Sound]]:
    """The sounds of as many recordings as have `NUM_TOGETHER` cycles."""
    together: list[Sound] = []
    for part in parts:
        together += part
        if len(together) >= NUM_TOGETHER:
            yield together
            together = []
    if together:
        yield together


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
