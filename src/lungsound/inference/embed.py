"""What a trained model makes of each cycle before it decides: its features, exported with their keys."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from lungsound.audio.filter_bank import normalize
from lungsound.data import batches as corpora
from lungsound.data.corpus import Corpus
from lungsound.data.store import cut_cycles
from lungsound.errors import LungsoundError, SettingsError
from lungsound.files import written_whole
from lungsound.inference.bulk import failure, sound_files
from lungsound.inference.formats.tables import METADATA_KEY, load_pyarrow
from lungsound.inference.recording import FindBy, load_recording
from lungsound.progress import track
from lungsound.training import trainer as training
from lungsound.training.checkpoint import TrainedModel, load_model, model_file
from lungsound.training.evaluate import data_to_test
from lungsound.training.run import RunFolder

FORMAT = "lungsound embeddings 1"
BATCH_SIZE = 8


@dataclass(frozen=True)
class EmbeddedCycle:
    """Whose features a row holds. `key` is that of a predictions file; what is not known is blank."""

    key: str
    recording: str
    start_s: float
    end_s: float
    label: str = ""
    patient: str = ""
    part: str = ""


@dataclass(frozen=True)
class Embeddings:
    """Features (cycle, dim), float32, of the cycles; `errors` names in one line each recording that has none.

    `model_sha256` is the hash of the model file, to which alone features belong.
    """

    cycles: tuple[EmbeddedCycle, ...]
    features: NDArray[np.float32]
    model_sha256: str
    errors: tuple[str, ...] = ()

    def __repr__(self) -> str:
        num_cycles, dim = self.features.shape
        return f"<Embeddings: {num_cycles} cycles, {dim} features, {len(self.errors)} errors>"


def embed(
    run: str | Path,
    paths: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    data_root: str | Path | None = None,
    find_by: FindBy = "auto",
    device: str = "cpu",
    console: Console | None = None,
) -> Embeddings:
    """The model's features of recordings, or of all cycles of a corpus; written to `out` (.npz, .csv, .parquet) too.

    The recordings are those in `paths` (files, folders, patterns), their cycles found by `find_by`. Without paths it
    is the corpus in `data_root`, and without that the one that the run was trained on, all parts of it. A recording
    that fails stops no other; errors in a corpus raise, as does SettingsError for an `out` of another kind.
    """
    write = None if out is None else _writer(Path(out))
    recordings = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if recordings and data_root is not None:
        raise SettingsError("give recordings or a corpus (--data DIR, in Python data_root), not both")
    console, folder = console or Console(), Path(run).parent if Path(run).is_file() else Path(run)
    settings = RunFolder(folder).config().data
    trained = load_model(model_file(Path(run)))
    trained.model.to(training.device(device))
    if recordings:
        found = embed_recordings(trained, sound_files(recordings), find_by=find_by, console=console)
    else:
        data = data_to_test(settings, None if data_root is None else Path(data_root), None)
        found = embed_corpus(trained, corpora.corpus(data), console=console)
    if out is not None and write is not None:
        with written_whole(Path(out)) as partial:
            write(found, partial)
    return found


def embed_corpus(trained: TrainedModel, corpus: Corpus, *, console: Console) -> Embeddings:
    """Features of all cycles of a corpus, in its order."""
    names = [
        EmbeddedCycle(
            cycle.key,
            cycle.recording.name,
            cycle.start_s,
            cycle.end_s,
            label=cycle.word,
            patient=cycle.recording.patient,
            part=corpus.split.get(cycle.recording.name, ""),
        )
        for cycle in corpus.cycles
    ]

    def waveforms(_: range, cut: list[Tensor]) -> list[Tensor]:
        return cut

    parts, num_done = [], 0
    with track(console, "features") as on_progress:
        for part in cut_cycles(corpus.cycles, trained.front_end, waveforms, num_workers=torch.get_num_threads()):
            parts.append(features(trained, part))
            num_done += len(part)
            on_progress(num_done, len(names))
    return Embeddings(tuple(names), _stacked(trained, parts), trained.sha256)


def embed_recordings(
    trained: TrainedModel, files: Sequence[Path], *, find_by: FindBy = "auto", console: Console
) -> Embeddings:
    """Features of the cycles of sound files (`load_recording` finds them); the key names the file by its path."""
    parts, names, errors = [], [], []
    with track(console, "features") as on_progress:
        for number, path in enumerate(files, start=1):
            try:
                loaded = load_recording(path, trained.front_end, find_by=find_by)
            except LungsoundError as error:
                errors.append(failure(path, error))
            else:
                parts.append(features(trained, loaded.waveforms))
                names += [
                    EmbeddedCycle(f"{path}#{each.start_s:.3f}-{each.end_s:.3f}", str(path), each.start_s, each.end_s)
                    for each in loaded.stretches
                ]
            on_progress(number, len(files))
    return Embeddings(tuple(names), _stacked(trained, parts), trained.sha256, tuple(errors))


@torch.inference_mode()
def features(trained: TrainedModel, waveforms: Sequence[Tensor]) -> Tensor:
    """What the head of the model is given (cycle, dim), float32, for waveforms as `FrontEnd.cut` gives them."""
    model, front_end = trained.model, trained.front_end
    device = next(model.parameters()).device
    found = torch.empty(len(waveforms), model.encoder.dim)
    for first in range(0, len(waveforms), BATCH_SIZE):
        some = waveforms[first : first + BATCH_SIZE]
        fbank = normalize(front_end.filter_banks_of(some), mean=trained.mean, std=trained.std).to(device)
        own = [front_end.num_own_frames(len(waveform)) for waveform in some]
        num_frames = None if None in own else torch.tensor(own)
        encoded = model.encoder(fbank) if num_frames is None else model.patch_encoder(fbank, num_frames)
        found[first : first + BATCH_SIZE] = encoded.cpu()
    return found


def _stacked(trained: TrainedModel, parts: Sequence[Tensor]) -> NDArray[np.float32]:
    stacked: NDArray[np.float32] = torch.cat([torch.empty(0, trained.model.encoder.dim), *parts]).numpy()
    return stacked


def _writer(out: Path) -> Callable[[Embeddings, Path], None]:
    """How to write a file of this suffix; SettingsError for any other, and without the extra that it needs."""
    writers = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}
    if out.suffix not in writers:
        raise SettingsError(f"features are written as {', '.join(writers)}, got {str(out)!r}: name such a file")
    if out.suffix == ".parquet":
        load_pyarrow()
    return writers[out.suffix]


def _columns(cycles: Sequence[EmbeddedCycle]) -> Iterator[tuple[str, list[str | float]]]:
    for field in fields(EmbeddedCycle):
        yield field.name, [getattr(cycle, field.name) for cycle in cycles]


def _write_npz(found: Embeddings, path: Path) -> None:
    arrays: dict[str, Any] = {name: np.array(values) for name, values in _columns(found.cycles)}
    arrays |= {"features": found.features, "format": np.array(FORMAT), "model_sha256": np.array(found.model_sha256)}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _write_csv(found: Embeddings, path: Path) -> None:
    names = [field.name for field in fields(EmbeddedCycle)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*names, "model_sha256", *(f"feature_{index}" for index in range(found.features.shape[1]))])
        for cycle, row in zip(found.cycles, found.features, strict=True):
            writer.writerow([*astuple(cycle), found.model_sha256, *row])


def _write_parquet(found: Embeddings, path: Path) -> None:
    arrow, parquet = load_pyarrow()
    columns = {name: arrow.array(values) for name, values in _columns(found.cycles)}
    flat = arrow.array(found.features.reshape(-1))
    columns["features"] = arrow.FixedSizeListArray.from_arrays(flat, found.features.shape[1])
    facts = {"format": FORMAT, "model_sha256": found.model_sha256}
    parquet.write_table(arrow.table(columns, metadata={METADATA_KEY: json.dumps(facts)}), path)
