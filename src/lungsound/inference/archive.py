"""Predictions for an archive, near or far: a Parquet file for each part of it, predicted by actors of a Ray cluster.

Parts follow from the recordings alone, and a part that is there is whole: whatever was killed, the same call goes on.
Local paths, http(s), s3, gs, az and what else fsspec has a library for are read; it finds keys where these always do.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from rich.console import Console

from lungsound.cluster import HERE, joined_cluster, num_of
from lungsound.data.icbhi import annotation_names
from lungsound.errors import DataError, FetchError, SettingsError
from lungsound.extras import load
from lungsound.files import RECORD_SUFFIX, as_text, decoded, parse_json, private_folder, written_whole
from lungsound.inference.bulk import SOUND_SUFFIXES, BulkResult, find_sounds, patient_finder
from lungsound.inference.formats.tables import FORMAT_VERSION, Value, column_types, parquet_table, rows
from lungsound.inference.parallel import GROUP_SIZE, Asked, failure, for_groups, predict_group
from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.inference.predictor import FindBy, Predictor
from lungsound.processor import map_ahead
from lungsound.progress import track
from lungsound.storage import as_uri, reached

PART_SIZE = 64  # recordings
MANIFEST = "_manifest.json"  # programs that read a folder of Parquet files pass over names that begin so
ERROR = "error"  # the column that this table has besides those of `tables`
MAX_FETCHED_BYTES = 2**32  # 2^30 samples, the most that are read of a recording, of 4 bytes
BLOCK_BYTES = 2**20
NEAR = "file://"
POLL_S = 5.0


class Recording(NamedTuple):
    """A path or URI, those of the annotations that are fetched with it, and its size (None: not known)."""

    uri: str
    beside: tuple[str, ...] = ()
    num_bytes: int | None = None


class Part(NamedTuple):
    name: str
    recordings: tuple[Recording, ...]


@dataclass(frozen=True)
class Job:
    """What every worker needs to know: where local paths begin, the model and its settings, what is stated."""

    folder: str
    out: str
    model: Path
    model_sha256: str
    engine: str
    find_by: FindBy
    patient_pattern: str | None
    stethoscope: str | None
    age_years: float | None


def predict_archive(
    predictor: Predictor,
    uris: Sequence[str],
    *,
    out: str,
    on: str,
    num_workers: int | None = None,
    patient_pattern: str | None = None,
    stethoscope: str | None = None,
    age_years: float | None = None,
    console: Console,
) -> BulkResult:
    """Predict every recording in `uris` (files, folders) into Parquet files in the folder `out`, those there skipped.

    The cluster `on` ("ray" starts one here, ray://HOST:PORT is an address) predicts, by `num_workers` actors of one
    thread each. A row for each recording has its aggregate or its `error`, and is followed by the rows of its cycles.
    Raises SettingsError or FetchError before anything is predicted, also where `out` holds parts of other recordings,
    another model or other settings.
    """
    load("ray", extra="ray")
    patient_finder(patient_pattern)
    if predictor.path is None:
        raise SettingsError("an archive is predicted by a model that lies in a file: give --model")
    recordings, num_hidden, unreadable = find_recordings([each.removeprefix(NEAR) for each in uris])
    parts = parts_of(recordings)
    out = out.removeprefix(NEAR)
    out = as_uri(out) or str(Path(out).absolute())
    provenance = predictor.provenance(datetime.now(UTC))
    stated = {"patient_pattern": patient_pattern, "stethoscope": stethoscope, "age_years": age_years}
    there = open_out(out, manifest_of(parts, provenance, stated))
    missing = [part for part in parts if part.name not in there]
    engine, model = predictor.engine.name, predictor.path.absolute()
    sha256, find_by = predictor.trained.sha256, predictor.find_by
    job = Job(str(Path.cwd()), out, model, sha256, engine, find_by, patient_pattern, stethoscope, age_years)
    num_missing, num_done = sum(len(part.recordings) for part in missing), 0
    errors: list[str] = []
    with track(console, "recordings") as on_progress:
        for num_recordings, failed in _on_cluster(job, missing, on, num_workers):
            num_done += num_recordings
            errors += failed
            on_progress(num_done, num_missing)
    num_skipped = len(recordings) - num_missing
    return BulkResult(num_done - len(errors), num_skipped, (*errors, *unreadable), (), num_hidden)


# ---- recordings and parts ----


def find_recordings(uris: Sequence[str]) -> tuple[list[Recording], int, list[str]]:
    """The recordings that are named or lie in a folder, each once, in order; number of hidden; unreadable folders."""
    found: dict[str, Recording] = {}
    num_hidden, unreadable = 0, list[str]()
    for uri in uris:
        if far := as_uri(uri):
            inside, num = _find_far(far)
        else:
            near = find_sounds([Path(uri)])
            inside = [Recording(str(path), (), path.stat().st_size if path.is_file() else None) for path in near.files]
            num = near.num_hidden
            unreadable += near.unreadable
        num_hidden += num
        found |= {each.uri: each for each in inside}
    return [found[uri] for uri in sorted(found)], num_hidden, unreadable


def _find_far(uri: str) -> tuple[list[Recording], int]:
    with reached(uri) as (system, root):
        place, folder = uri.rstrip("/"), root.rstrip("/")
        if _is_sound(folder):
            sizes = {folder: system.info(root).get("size") if system.exists(root) else None}
            folder, _, name = folder.rpartition("/")
            place = place.rpartition("/")[0]
            sizes |= dict.fromkeys(each for each in _beside(folder, name) if system.exists(each))
        else:
            sizes = {each: facts.get("size") for each, facts in system.find(root, detail=True).items()}
    sounds = [each for each in sizes if _is_sound(each)]
    if not sounds:
        raise SettingsError(f"no sound files in {uri}: give files ({', '.join(SOUND_SUFFIXES)}) or their folder")

    def whole(name: str) -> str:
        return place + name.removeprefix(folder)

    recordings, has_others = list[Recording](), len(sizes) > len(sounds)
    for sound in sounds:
        if "/." not in sound.removeprefix(folder):
            beside = [each for each in _beside(*sound.rsplit("/", 1)) if each in sizes] if has_others else []
            recordings.append(Recording(whole(sound), tuple(map(whole, beside)), sizes[sound]))
    return recordings, len(sounds) - len(recordings)


def _is_sound(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SOUND_SUFFIXES


def _beside(folder: str, name: str) -> list[str]:
    """Places where an annotation of the recording may lie, and the record by which a predicted one is known."""
    places = [f"{folder}/{each}" for each in annotation_names(PurePosixPath(name).stem)]
    return [*places, *(f"{each}{RECORD_SUFFIX}" for each in places)]


def parts_of(recordings: Sequence[Recording]) -> list[Part]:
    """Parts of PART_SIZE recordings, named by their place and by what is in them."""
    parts: list[Part] = []
    for first in range(0, len(recordings), PART_SIZE):
        inside = tuple(recordings[first : first + PART_SIZE])
        content = hashlib.sha256(json.dumps(inside).encode()).hexdigest()[:16]
        parts.append(Part(f"part-{len(parts):05}-{content}.parquet", inside))
    return parts


# ---- storage ----


def _read_far(uri: str, place: Path) -> None:
    with reached(uri) as (system, path), system.open(path, "rb") as source, place.open("wb") as target:
        while block := source.read(BLOCK_BYTES):
            if target.tell() + len(block) > MAX_FETCHED_BYTES:
                raise FetchError(f"{uri} has more than {MAX_FETCHED_BYTES} bytes; cut it into parts")
            target.write(block)


def _read(out: str, name: str) -> bytes | None:
    """Content of a file in the folder; None where there is none."""
    with reached(out) as (system, root):
        try:
            content: bytes = system.cat_file(f"{root.rstrip('/')}/{name}")
        except FileNotFoundError:
            return None
        return content


def _remove(out: str, name: str) -> None:
    with reached(out) as (system, root), suppress(FileNotFoundError):  # another call is done with it
        system.rm_file(f"{root.rstrip('/')}/{name}")


def _write(out: str, name: str, content: bytes) -> None:
    """Write a file into the folder as a whole: put to an object store, renamed where there are names."""
    if as_uri(out):
        with reached(out) as (system, root):
            system.pipe_file(f"{root.rstrip('/')}/{name}", content)
    else:
        with written_whole(Path(out) / name) as place:
            place.write_bytes(content)


def manifest_of(parts: Sequence[Part], provenance: Provenance, stated: Mapping[str, Value]) -> dict[str, Any]:
    """All that the rows of an archive depend on."""
    return {
        "format_version": FORMAT_VERSION,
        "model_sha256": provenance.model_sha256,
        "calibration": provenance.calibration,
        "settings": provenance.settings,
        **stated,
        "part_size": PART_SIZE,
        "recordings": [part.name for part in parts],
    }


def open_out(out: str, manifest: Mapping[str, Any]) -> set[str]:
    """Names of the parts that are there; the manifest is written where there is none. SettingsError for another one."""
    if out.startswith(("http://", "https://")):
        raise SettingsError(f"--out {out}: nothing can be written there; give a folder, s3://, gs:// or az://")
    with reached(out) as (system, root):
        there = {PurePosixPath(each).name for each in system.find(root, maxdepth=1)}
    known = _read(out, MANIFEST)
    if known is None:
        if there:
            raise SettingsError(f"--out {out} holds files and no {MANIFEST}: give a new folder")
        _write(out, MANIFEST, f"{json.dumps(manifest, indent=1)}\n".encode())
        return there
    damaged = SettingsError(f"{out}/{MANIFEST} is damaged: give a new --out")
    try:
        earlier = parse_json(decoded(known, DataError), DataError, path=Path(MANIFEST))
    except DataError:
        raise damaged from None
    if not isinstance(earlier, dict):
        raise damaged
    for name, value in manifest.items():
        if earlier.get(name) != value:
            given = "" if name == "recordings" else f" ({earlier.get(name)}, now {value})"
            raise SettingsError(f"--out {out} is of a call with other {name}{given}: call as then, or give a new --out")
    return there


# ---- a worker ----


class PartPredictor:
    """A model that predicts part after part; Ray makes one in each actor."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.patient_of = patient_finder(job.patient_pattern)

    @cached_property
    def predictor(self) -> Predictor:
        os.environ["OMP_NUM_THREADS"] = "1"
        predictor = Predictor.load(self.job.model, engine=self.job.engine, find_by=self.job.find_by)
        if predictor.trained.sha256 != self.job.model_sha256:
            raise SettingsError(f"{self.job.model} is another model on a node of the cluster; give all the same")
        return predictor

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a part; `fault` is what stops all of them."""
        name, recordings = json.loads(row["part"])
        part = Part(name, tuple(Recording(*each) for each in recordings))
        errors, fault = list[str](), None
        try:
            errors = self.write(part)
        except OSError as error:
            fault = f"{error.filename or part.name}: {error.strerror or error}"
        except Exception as error:  # in one line, which Ray's would not be
            fault = failure(Path(part.name), error)
        return {"name": name, "errors": json.dumps(errors), "fault": fault}

    def write(self, part: Part) -> list[str]:
        """Predict the recordings of a part and write its file; the line of each that failed.

        A mark beside it counts the tries: Ray repeats one that ended the worker, without end. From the third on a
        process of its own predicts each group, and each recording of one that ended it.
        """
        provenance, mark = self.predictor.provenance(datetime.now(UTC)), f"_{part.name}.begun"
        tries = _read(self.job.out, mark) or b""
        _write(self.job.out, mark, tries + b"1")
        types = column_types(provenance) | {ERROR: "string"}
        groups = [part.recordings[first : first + GROUP_SIZE] for first in range(0, len(part.recordings), GROUP_SIZE)]
        table, errors = list[dict[str, Value]](), list[str]()
        with private_folder() as folder, ThreadPoolExecutor(1) as pool:
            for fetched in map_ahead(pool, partial(self.fetch, folder), groups, num_ahead=1):
                for uri, result in self.predict(fetched, is_careful=len(tries) > 1):
                    table += _table(uri, result, provenance)
                    errors += [result] if isinstance(result, str) else []
        _write(self.job.out, part.name, parquet_table(table, types, provenance))
        _remove(self.job.out, mark)
        return errors

    def fetch(self, folder: Path, group: Sequence[Recording]) -> list[tuple[str, Asked | str]]:
        """The recordings of a group where they can be read, or the line on why one cannot."""
        fetched: list[tuple[str, Asked | str]] = []
        for each in group:
            path = Path(self.job.folder, each.uri)
            try:
                if as_uri(each.uri):
                    own = folder / hashlib.sha256(each.uri.encode()).hexdigest()[:16]  # two may have one name
                    own.mkdir()
                    for uri in (*each.beside, each.uri):
                        path = own / PurePosixPath(uri).name
                        _read_far(uri, path)
                asked = Asked(path, self.patient_of(path), self.job.stethoscope, self.job.age_years)
                fetched.append((each.uri, asked))
            except FetchError as error:
                fetched.append((each.uri, str(error)))
        return fetched

    def predict(
        self, fetched: Sequence[tuple[str, Asked | str]], *, is_careful: bool
    ) -> Iterator[tuple[str, RecordingPrediction | str]]:
        """Prediction of each recording, or the line on why there is none, in which its URI stands for its copy."""
        asked = [each for _, each in fetched if isinstance(each, Asked)]
        if is_careful:
            start = (predict_group, self.job.model, self.job.engine, self.job.find_by)
            results = dict(for_groups([asked], start, 1))
        else:
            results = dict(zip(asked, predict_group(self.predictor, asked), strict=True))
        for uri, each in fetched:
            result = results[each] if isinstance(each, Asked) else each
            if isinstance(result, str) and isinstance(each, Asked):
                result = result.replace(str(each.path), uri)
            yield uri, result


def _table(uri: str, result: RecordingPrediction | str, provenance: Provenance) -> list[dict[str, Value]]:
    """Rows of a recording and its cycles; the one row of a recording that failed."""
    if isinstance(result, RecordingPrediction):
        types = column_types(provenance)
        return [dict(zip(types, row, strict=True)) | {"path": as_text(uri)} for row in rows([result], provenance)]
    by = {"model_sha256": provenance.model_sha256, "calibration": provenance.calibration}
    return [{"format_version": FORMAT_VERSION, "path": as_text(uri), "unit": "recording", **by, ERROR: as_text(result)}]


# ---- the cluster ----


def _on_cluster(job: Job, parts: Sequence[Part], on: str, num_workers: int | None) -> Iterator[tuple[int, list[str]]]:
    """Have the parts predicted: of each that is written the number of recordings, the lines of those that failed."""
    if not parts:
        return
    num_recordings = {part.name: len(part.recordings) for part in parts}
    with joined_cluster(on, num_workers) as ray:
        for row in (_rows if on == HERE else _rows_there)(job, parts, num_workers or num_of(ray, "CPU")):
            if row["fault"] is not None:
                raise SettingsError(row["fault"])
            yield num_recordings[row["name"]], json.loads(row["errors"])


def _rows(job: Job, parts: Sequence[Part], num_workers: int) -> Iterator[dict[str, Any]]:
    """Results of the parts as they are done, by actors of which each has one part at a time."""
    data = load("ray.data", extra="ray")
    data.DataContext.get_current().enable_progress_bars = False
    items = [{"part": json.dumps(part)} for part in parts]
    actors = data.ActorPoolStrategy(size=min(num_workers, len(items)), max_tasks_in_flight_per_actor=1)
    dataset = data.from_items(items, override_num_blocks=len(items))
    yield from dataset.map(PartPredictor, fn_constructor_args=(job,), compute=actors, num_cpus=1).iter_rows()


def _rows_there(job: Job, parts: Sequence[Part], num_workers: int) -> Iterator[dict[str, Any]]:
    """As `_rows`, which a task in the cluster runs: Ray Data knows no driver outside of it."""
    ray, queues = load("ray", extra="ray"), load("ray.util.queue", extra="ray")
    queue = queues.Queue(actor_options={"num_cpus": 0})
    task = ray.remote(num_cpus=0, max_retries=0)(_put_rows).remote(queue, job, parts, num_workers)
    num_left = len(parts)
    while num_left:
        try:
            row = queue.get(timeout=POLL_S)
        except queues.Empty:
            if ray.wait([task], timeout=0)[0]:
                ray.get(task)  # raises what ended it
            continue
        num_left -= 1
        yield row


def _put_rows(queue: Any, job: Job, parts: Sequence[Part], num_workers: int) -> None:
    for row in _rows(job, parts, num_workers):
        queue.put(row)
