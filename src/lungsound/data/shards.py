"""Packed corpora: recordings in tar files, the shards, beside an index of all that their annotations say.

A shard holds of each recording the sound file, byte for byte, and its facts and cycles as JSON, under the same number:
what WebDataset and other programs that read tar files call a sample. The index has the place of each sound file in its
shard, and its hash: a recording is read alone, by the range of its bytes, from a disk, or by fsspec from a URI.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lungsound.data.corpus import Corpus, Cycle, Packed, Problem, Recording
from lungsound.data.tree import usable_cycles
from lungsound.errors import AudioError, CorpusError, SettingsError
from lungsound.files import decoded, parse_json, private_folder, to_json, validated, write_json, written_folder
from lungsound.labels import Unit
from lungsound.progress import OnProgress
from lungsound.storage import as_uri, place_named, reached

INDEX = "packed_corpus.json"
MAX_INDEX_BYTES = 2**30  # of some 700,000 recordings
MB = 1_000_000


class PackedCycle(BaseModel, extra="forbid"):
    """A cycle of the recording beside which it stands."""

    model_config = ConfigDict(from_attributes=True, allow_inf_nan=False)

    start_s: float
    end_s: float
    has_crackle: bool
    has_wheeze: bool
    term: str | None = None
    position: int


class PackedRecording(BaseModel, extra="forbid"):
    """A recording, whose `path` is a name in its shard, the place of its sound, its part of the split, its cycles."""

    recording: Recording
    sound: Packed
    part: str
    cycles: tuple[PackedCycle, ...]


class Index(BaseModel):
    """All of a packed corpus but its sound."""

    format: Literal["lungsound packed corpus 1"] = "lungsound packed corpus 1"
    name: str
    unit: Unit
    vocabulary: str
    split_origin: str
    known_patient_parts: tuple[str, ...]
    notes: tuple[str, ...]
    recordings: tuple[PackedRecording, ...]


def in_shards(corpus: Corpus, shard_mb: int) -> Corpus:
    """The corpus in shards of recordings in their order, each of at most so many MB unless one recording has more."""
    number, filled, recordings = 0, 0, dict[str, Recording]()
    for recording in corpus.recordings:
        num_bytes = recording.path.stat().st_size if recording.packed is None else recording.packed.num_bytes
        if filled and filled + num_bytes > shard_mb * MB:
            number, filled = number + 1, 0
        filled += num_bytes
        recordings[recording.name] = replace(recording, shard=f"shard-{number:05}.tar")
    cycles = tuple(replace(cycle, recording=recordings[cycle.recording.name]) for cycle in corpus.cycles)
    return replace(corpus, recordings=tuple(recordings.values()), cycles=cycles)


def pack(corpus: Corpus, out: str | Path, *, shard_mb: int, unit: Unit, on_progress: OnProgress) -> int:
    """Write a corpus into the new or empty folder or URI `out`, the index last; the number of shards.

    The same corpus gives the same bytes. CorpusError for a corpus with problems, SettingsError for a place that is not
    empty.
    """
    corpus = in_shards(corpus.require_sound(), shard_mb)
    cycles: dict[str, list[PackedCycle]] = {recording.name: [] for recording in corpus.recordings}
    for cycle in corpus.cycles:
        cycles[cycle.recording.name].append(PackedCycle.model_validate(cycle))
    packed: list[PackedRecording] = []
    with _destination(out) as (folder, keep):
        for shard, recordings in groupby(corpus.recordings, key=lambda recording: recording.shard):
            with tarfile.open(folder / shard, "w", format=tarfile.USTAR_FORMAT) as tar:
                for recording in recordings:
                    part, own = corpus.split[recording.name], tuple(cycles[recording.name])
                    packed.append(_add(tar, recording, part, own, number=len(packed)))
                    on_progress(len(packed), len(corpus.recordings))
            keep(folder / shard)
        index = Index(
            name=corpus.name,
            unit=unit,
            vocabulary=corpus.vocabulary,
            split_origin=corpus.split_origin,
            known_patient_parts=tuple(sorted(corpus.known_patient_parts)),
            notes=corpus.notes,
            recordings=tuple(packed),
        )
        write_json(folder / INDEX, index.model_dump(mode="json", exclude_none=True), is_sealed=True)
        keep(folder / INDEX)
    return len({each.recording.shard for each in packed})


def _add(
    tar: tarfile.TarFile, recording: Recording, part: str, cycles: tuple[PackedCycle, ...], *, number: int
) -> PackedRecording:
    """Add a recording to its shard, as the sample of this number."""
    with sound_file(recording) as path:
        content = path.read_bytes()
    # WebDataset takes all after the first dot of a name for its kind, and names of recordings may hold dots.
    name = f"{number:08}{recording.path.suffix.lower()}"
    _add_file(tar, name, content)
    first = tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    sound = Packed(recording.shard, first, len(content), hashlib.sha256(content).hexdigest())
    named = replace(recording, path=Path(recording.shard) / name, packed=None)
    entry = PackedRecording(recording=named, sound=sound, part=part, cycles=cycles)
    facts = entry.model_dump(mode="json", exclude_none=True, exclude={"recording": {"path", "shard"}, "sound": True})
    _add_file(tar, f"{number:08}.json", to_json(facts, indent=None).encode())
    return entry


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file without owner and time, which would differ from call to call."""
    facts = tarfile.TarInfo(name)
    facts.size = len(content)
    tar.addfile(facts, io.BytesIO(content))


@contextmanager
def _destination(out: str | Path) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """A folder to write to, and what to call with each file in it that is complete."""
    uri = as_uri(out)
    if uri is None:
        with written_folder(Path(out)) as folder:
            yield folder, lambda _: None
        return
    with reached(uri, CorpusError) as (system, place):
        is_taken = system.exists(f"{place}/{INDEX}")
    if is_taken:
        raise SettingsError(f"{uri} has a packed corpus already: remove it, or give another place")

    def upload(path: Path) -> None:
        with place_named(uri, CorpusError):
            system.put_file(str(path), f"{place}/{path.name}")
        path.unlink()

    with private_folder() as folder:
        yield folder, upload


def read_packed(root: str | Path, *, unit: Unit) -> Corpus:
    """The corpus that was packed into a folder or URI, as its reader gave it; CorpusError for none, or one damaged."""
    path, place = Path(root) / INDEX, str(root).rstrip("/")
    text = decoded(_read(f"{place}/{INDEX}", 0, MAX_INDEX_BYTES), CorpusError, path=path)
    advice = "pack the corpus again, with this version of lungsound"
    index = validated(parse_json(text, CorpusError, path=path), Index, CorpusError, path=path, advice=advice)
    if unit != index.unit:
        raise CorpusError(
            f"{root} was packed with labels of each {index.unit}, and those of each {unit} are asked for: "
            f"pack the corpus with --unit {unit}"
        )
    recordings, cycles, problems = [], list[tuple[str, Cycle]](), list[Problem]()
    for entry in index.recordings:
        sound = replace(entry.sound, file=f"{place}/{entry.sound.file}")
        recording = replace(entry.recording, packed=sound)
        recordings.append(recording)
        cycles += [(recording.name, Cycle(recording, **dict(cycle))) for cycle in entry.cycles]
    return Corpus(
        name=index.name,
        root=root,
        recordings=tuple(recordings),
        cycles=tuple(usable_cycles(cycles, problems)),
        problems=tuple(problems),
        split={entry.recording.name: entry.part for entry in index.recordings},
        notes=index.notes,
        known_patient_parts=frozenset(index.known_patient_parts),
        vocabulary=index.vocabulary,
        split_origin=index.split_origin,
    )


@contextmanager
def sound_file(recording: Recording) -> Iterator[Path]:
    """File of a recording's sound: its own, or a copy out of the shard that is gone when the block ends.

    CorpusError for bytes of a shard that are missing, or are not what was packed.
    """
    packed = recording.packed
    if packed is None:
        yield recording.path
        return
    content = _read(packed.file, packed.offset, packed.num_bytes)
    place = f"{packed.file}: {recording.path.name} ({recording.name})"
    if len(content) > packed.num_bytes:
        raise CorpusError(f"{place}: the server gives more than the bytes asked for: it needs to know range requests")
    if hashlib.sha256(content).hexdigest() != packed.sha256:
        raise CorpusError(f"{place} is cut or damaged: it is not what was packed; copy the shard again")
    with private_folder() as folder:
        path = folder / recording.path.name
        path.write_bytes(content)
        try:
            yield path
        except AudioError as error:
            error.path = recording.path
            raise


def _read(file: str, first: int, num_bytes: int) -> bytes:
    """Bytes of a file, by path or URI, fewer where it ends before; CorpusError for one that is not reached."""
    uri = as_uri(file)
    if uri is None:
        with place_named(file, CorpusError), Path(file).open("rb") as opened:
            opened.seek(first)
            return opened.read(num_bytes)
    with reached(uri, CorpusError) as (system, place):
        content: bytes = system.cat_file(place, start=first, end=first + num_bytes)
        return content
