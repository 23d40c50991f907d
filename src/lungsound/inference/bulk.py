"""Answers for many recordings: kept one by one as they come, then written in the formats that were asked for."""

import glob
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from os.path import normpath
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console

from lungsound.audio.io import SUFFIXES
from lungsound.data.corpus import AUDIO_SUFFIXES
from lungsound.data.icbhi import annotation_beside
from lungsound.errors import DataError, LungsoundError, SettingsError
from lungsound.files import write_text
from lungsound.inference.formats.json_lines import prediction_of, record
from lungsound.inference.formats.tables import patients_csv
from lungsound.inference.formats.write import check_names, find_format, write_predictions
from lungsound.inference.pages import write_review_pages
from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.inference.predictor import Predictor
from lungsound.inference.recording import LoadedRecording
from lungsound.progress import track

SOUND_SUFFIXES = (*AUDIO_SUFFIXES, *SUFFIXES)
PAGES = "html"  # a format of its own: it needs the sound and the model
KEPT = "recordings"  # folder of the answers one by one


@dataclass(frozen=True)
class Done:
    """`num_new` were answered now, `num_skipped` were there already; `errors` in one line each; the files written."""

    num_new: int
    num_skipped: int
    errors: tuple[str, ...]
    files: tuple[Path, ...]


def predict_many(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    out: Path,
    formats: Sequence[str] = ("csv",),
    num_workers: int = 2,
    is_existing_skipped: bool = False,
    patient_pattern: str | None = None,
    stethoscope: str | None = None,
    is_explained: bool = False,
    console: Console,
) -> Done:
    """Answer for every recording in `paths` (files, folders, patterns) into the folder `out`.

    Each answer is kept in `out` as soon as it is known; a recording that fails is named in `errors` and stops nothing,
    whatever the reason. Tables hold all answers that the folder keeps of this model and these settings, also those of
    other calls, which may run at the same time. `patient_pattern` is a regular expression whose first group finds the
    patient in a recording's name, `stethoscope` is the device of them all, `is_explained` puts on pages ("html") what
    answers rest on. Raises SettingsError before anything is read for formats, patterns and paths that cannot be, and
    for recordings of one name when a format has a file for each; DataError for a kept answer that is damaged.
    """
    tables = [name for name in formats if name != PAGES]
    for name in tables:
        find_format(name, predictor.trained.label_set)
    patient_of = _patient_of(patient_pattern)
    files, provenance = sound_files(paths), predictor.provenance(datetime.now(UTC))
    check_names(files, tables)
    kept = StoredPredictions(out, provenance)
    wanted = [
        path
        for path in files
        if not (is_existing_skipped and kept.has(path, patient=patient_of(path), device=stethoscope))
    ]
    heard = _listen(predictor, wanted, num_workers)
    errors = _answer(predictor, heard, kept, patient_of, stethoscope, num_recordings=len(wanted), console=console)
    out.mkdir(parents=True, exist_ok=True)
    with kept.lock():
        answers = kept.all()
        written = [file for name in tables for file in write_predictions(answers, provenance, to=name, out=out)]
        if patient_pattern is not None:
            written.append(out / "patients.csv")
            write_text(written[-1], patients_csv(answers, predictor.classes))
        if PAGES in formats:
            written += _pages(predictor, answers, out, provenance, is_explained=is_explained, console=console)
    return Done(len(wanted) - len(errors), len(files) - len(wanted), tuple(errors), tuple(written))


def _answer(
    predictor: Predictor,
    coming: Iterable[tuple[Path, Future[LoadedRecording]]],
    kept: "StoredPredictions",
    patient_of: Callable[[Path], str | None],
    device: str | None,
    *,
    num_recordings: int,
    console: Console,
) -> list[str]:
    """Answer for what is heard, one after another, and keep it; what failed, in one line each."""
    errors = []
    with track(console, "recordings") as on_progress:
        for number, (path, loaded) in enumerate(coming, start=1):
            try:
                answer = predictor.predict_loaded(loaded.result(), patient_of(path), device)
            except Exception as error:  # a mistake of ours in one recording must not lose the others
                errors.append(failure(path, error))
                kept.drop(path)  # what was said of the file that this was before
            else:
                kept.keep(answer)
            on_progress(number, num_recordings)
    return errors


def _pages(
    predictor: Predictor,
    answers: Sequence[RecordingPrediction],
    out: Path,
    provenance: Provenance,
    *,
    is_explained: bool,
    console: Console,
) -> list[Path]:
    with track(console, "pages") as on_progress:
        return write_review_pages(
            predictor,
            answers,
            out / "review",
            created=provenance.created,
            is_explained=is_explained,
            on_progress=on_progress,
        )


def failure(path: Path, error: Exception) -> str:
    """One line that names the recording and says why it has no answer; our own mistakes are raised on demand."""
    told = " ".join(str(error).splitlines())
    if not isinstance(error, LungsoundError):
        if os.environ.get("LUNGSOUND_DEBUG") == "1":
            raise error
        told = f"internal error (bug): {type(error).__name__}: {told}; LUNGSOUND_DEBUG=1 shows where"
    return told if str(path) in told else f"{path}: {told}"


def sound_files(paths: Iterable[Path]) -> list[Path]:
    """The sound files that are named, lie anywhere in a folder, or fit a pattern; each once. SettingsError for none."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SOUND_SUFFIXES)
        elif path.exists() or not glob.has_magic(str(path)):
            inside = [path]  # one that is not there fails by its name, beside those that are
        else:
            inside = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (may be absolute)
        if not inside:
            raise SettingsError(f"no sound files in {path}: give files ({', '.join(SOUND_SUFFIXES)}) or their folder")
        found |= dict.fromkeys(inside)
    return list(found)


class StoredPredictions:
    """Answers of one model with its settings, a file each, in the folder `out`."""

    def __init__(self, out: Path, provenance: Provenance) -> None:
        self.folder = out / KEPT
        self.provenance = provenance
        made_by = (provenance.model_sha256, provenance.calibration, sorted(provenance.settings.items()))
        self.made_by = hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]

    def has(self, recording: Path, *, patient: str | None, device: str | None) -> bool:
        """Whether the answer is there for this recording of this patient and device, as it and its annotation are."""
        kept = self._file(recording)
        if not kept.is_file():
            return False
        values = _kept(kept)
        found = values["record"]
        return (values["stamp"], found["patient"], found["device"]) == (_stamp(recording), patient, device)

    def keep(self, answer: RecordingPrediction) -> None:
        # The path as it is, which need not be UTF-8, in place of the one for tables.
        values = {"stamp": _stamp(answer.path), "record": {**record(answer, self.provenance), "path": str(answer.path)}}
        write_text(self._file(answer.path), json.dumps(values, allow_nan=False) + "\n", is_shared=True)

    def drop(self, recording: Path) -> None:
        if self._file(recording).exists():
            with self.lock():
                self._file(recording).unlink(missing_ok=True)

    def lock(self) -> FileLock:
        """Of the tables: another call may be reading `all`."""
        return FileLock(self.folder.parent / "lock")

    def all(self) -> list[RecordingPrediction]:
        """All that is kept, by path."""
        files = self.folder.glob(f"*.{self.made_by}.json")
        found = (prediction_of(_kept(file)["record"]) for file in files)
        return sorted(found, key=lambda answer: answer.path)

    def _file(self, recording: Path) -> Path:
        # Not resolved: links to one file may lie beside annotations of their own.
        place = hashlib.sha256(os.fsencode(normpath(recording.absolute()))).hexdigest()[:12]
        return self.folder / f"{place}.{self.made_by}.json"


def _kept(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # a machine that lost its power may leave an empty file
        raise DataError(f"{file} is damaged; remove it, and its recording is answered again") from None


def _stamp(recording: Path) -> list[int]:
    """Sizes and times of change of the recording and its annotation: what has changed is answered again."""
    there = [path.stat() for path in (recording, annotation_beside(recording)) if path and path.exists()]
    return [fact for facts in there for fact in (facts.st_size, facts.st_mtime_ns)]


def _listen(
    predictor: Predictor, paths: Sequence[Path], num_workers: int
) -> Iterator[tuple[Path, Future[LoadedRecording]]]:
    """Recordings in their order, read and cut by `num_workers` threads while the model answers for those before."""
    with ThreadPoolExecutor(num_workers, thread_name_prefix="listen") as pool:
        coming: deque[tuple[Path, Future[LoadedRecording]]] = deque()
        for path in paths:
            coming.append((path, pool.submit(predictor.load_recording, path)))
            if len(coming) > 2 * num_workers:
                yield coming.popleft()
        yield from coming


def _patient_of(pattern: str | None) -> Callable[[Path], str | None]:
    """The patient of a recording by its name."""
    if pattern is None:
        return lambda _: None
    try:
        finder = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"patient pattern {pattern!r} is no regular expression ({error})") from None
    if finder.groups < 1:
        raise SettingsError(f"patient pattern {pattern!r} has no group: put the patient's part in ( )")

    def patient(path: Path) -> str | None:
        match = finder.search(path.stem)
        return match.group(1) or None if match else None

    return patient
