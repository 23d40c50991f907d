"""Predictions for many recordings: each stored as soon as it is made, then all written in the wanted formats."""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from os.path import normpath
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from lungsound.audio.io import SUFFIXES
from lungsound.data.corpus import AUDIO_SUFFIXES
from lungsound.data.icbhi import annotations_beside
from lungsound.data.tree import Below, files_below
from lungsound.errors import SettingsError
from lungsound.files import as_text, own_folder, read_record, require_room, write_record, write_text
from lungsound.inference.formats.tables import patients_csv
from lungsound.inference.formats.write import PAGES, check_formats, write_format
from lungsound.inference.pages import write_review_pages
from lungsound.inference.parallel import Asked, failure, for_each, predict_group
from lungsound.inference.prediction import Provenance, RecordingPrediction
from lungsound.inference.predictor import Predictor
from lungsound.processor import num_threads
from lungsound.progress import track

SOUND_SUFFIXES = (*AUDIO_SUFFIXES, *SUFFIXES)
STORE, STORE_FORMAT = "recordings", "7"  # folder of the predictions one by one
MAX_EXPLAINED = 8  # cycles of a recording


@dataclass(frozen=True)
class BulkResult:
    """Recordings predicted now and before, hidden files passed over; `errors` in a line each; the files written."""

    num_new: int
    num_skipped: int
    errors: tuple[str, ...]
    files: tuple[Path, ...]
    num_hidden: int = 0


def predict_many(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    out: Path,
    formats: Sequence[str] = ("csv",),
    num_workers: int | None = None,
    is_existing_skipped: bool = False,
    patient_pattern: str | None = None,
    stethoscope: str | None = None,
    age_years: float | None = None,
    is_explained: bool = False,
    console: Console,
) -> BulkResult:
    """Predict every recording in `paths` (files, folders, patterns) into the folder `out`.

    Each prediction is stored in `out` as soon as it is made; a recording that fails is named in `errors` and stops no
    other, whatever the reason. Tables hold all predictions that the folder stores of this model and these settings,
    also those of other calls, which may run at the same time. `patient_pattern` is a regular expression whose first
    group is the patient in a recording's name, `stethoscope` and `age_years` hold for all of them, `is_explained` draws
    on pages ("html") the relevance of the most uncertain cycles. Raises SettingsError before anything is read for
    formats, patterns and paths that cannot be. A stored prediction that is damaged is named in `errors` too.
    `num_workers` processes predict (`parallel.for_each`), by default as many as there are processors.
    """
    if is_explained:
        _check_explainable(predictor)
    tables = [name for name in formats if name != PAGES]
    patient_of = patient_finder(patient_pattern)
    found, provenance = find_sounds(paths), predictor.provenance(datetime.now(UTC))
    files = found.files
    check_formats(tables, predictor.trained.label_set, files)
    store = PredictionStore(require_room(out), provenance)
    wanted = [
        path
        for path in files
        if not (is_existing_skipped and store.has(path, (patient_of(path), stethoscope, age_years)))
    ]
    errors, asked = [], [Asked(path, patient_of(path), stethoscope, age_years) for path in wanted]
    with track(console, "recordings") as on_progress:
        results = for_each(predictor, asked, predict_group, num_workers=num_workers or num_threads())
        for number, (each, result) in enumerate(results, start=1):
            if isinstance(result, str):
                errors.append(result)
                store.drop(each.path)  # what was predicted for an earlier content of the file
            else:
                store.add(result)
            on_progress(number, len(wanted))
    num_new = len(wanted) - len(errors)
    with store.lock():
        predictions, damaged = store.all()
        written = [file for name in tables for file in write_format(predictions, provenance, to=name, out=out)]
        if patient_pattern is not None:
            written.append(out / "patients.csv")
            write_text(written[-1], patients_csv(predictions, predictor.classes))
        if PAGES in formats:
            num, created = MAX_EXPLAINED if is_explained else 0, provenance.created
            written += write_review_pages(
                predictor, predictions, own_folder(out, "review"), created=created, num_explained=num, console=console
            )
    return BulkResult(
        num_new=num_new,
        num_skipped=len(files) - len(wanted),
        errors=(*errors, *found.unreadable, *damaged),
        files=tuple(written),
        num_hidden=found.num_hidden,
    )


def explain_many(predictor: Predictor, paths: Sequence[Path], *, out: Path, console: Console) -> BulkResult:
    """Write a page and an `.npz` with the relevance of every cycle (`write_review_pages`) for each recording."""
    _check_explainable(predictor)
    found, predictions, errors = find_sounds(paths), [], []
    with track(console, "recordings") as on_progress:
        for number, path in enumerate(found.files, start=1):
            try:
                predictions.append(predictor.predict(path))
            except Exception as error:  # as in `predict_many`
                errors.append(failure(path, error))
            on_progress(number, len(found.files))
    written: list[Path] = []
    if predictions:
        created = datetime.now(UTC)
        written = write_review_pages(predictor, predictions, out, created=created, num_explained=None, console=console)
    return BulkResult(len(predictions), 0, (*errors, *found.unreadable), tuple(written), found.num_hidden)


def patient_finder(pattern: str | None) -> Callable[[Path], str | None]:
    """The patient in a recording's name, by the first group of the pattern. SettingsError for one that cannot be."""
    try:
        finder = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"patient pattern {pattern!r} is no regular expression ({error})") from None
    if finder is not None and finder.groups < 1:
        raise SettingsError(f"patient pattern {pattern!r} has no group: put the patient's part in ( )")

    def patient_of(path: Path) -> str | None:
        match = None if finder is None else finder.search(path.stem)
        return as_text(match[1]) if match and match[1] else None

    return patient_of


def _check_explainable(predictor: Predictor) -> None:
    from lungsound.inference.explain import check_explainable  # late: it needs torch

    check_explainable(predictor.trained)


def sound_files(paths: Iterable[Path]) -> list[Path]:
    """The files of `find_sounds`."""
    return find_sounds(paths).files


def find_sounds(paths: Iterable[Path]) -> Below:
    """The sound files that are named, lie anywhere in a folder, or fit a pattern; each once. SettingsError for none."""
    files: dict[Path, None] = {}
    found = Below()
    for path in paths:
        if path.is_dir():
            below = files_below(path, SOUND_SUFFIXES)
            inside = below.files
            found.unreadable += below.unreadable
            found.num_hidden += below.num_hidden
        elif path.exists() or not glob.has_magic(str(path)):
            inside = [path]  # one that is not there fails by its name, beside those that are
        else:
            inside = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (may be absolute)
        if not inside:
            why = "".join(f" ({line})" for line in found.unreadable[:1])
            raise SettingsError(
                f"no sound files in {path}{why}: give files ({', '.join(SOUND_SUFFIXES)}) or their folder"
            )
        files |= dict.fromkeys(inside)
    found.files = list(files)
    return found


class PredictionStore:
    """Predictions of one model with its settings, a file each, in the folder `out`."""

    def __init__(self, out: Path, provenance: Provenance) -> None:
        self.folder = own_folder(out, STORE)
        settings = sorted(provenance.settings.items())
        made_by = (STORE_FORMAT, provenance.model_sha256, provenance.calibration, settings)
        self.made_by = hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]

    def has(self, recording: Path, stated: tuple[str | None, str | None, float | None]) -> bool:
        """True if this recording, as it and its annotation are now, is stored for this patient, stethoscope and age."""
        file = self._file(recording)
        if (stored := _read_stored(file)) is None:
            return False
        stamp, prediction = stored
        of_prediction = (prediction.patient, prediction.stethoscope, prediction.age_years)
        return stamp == stamp_of(recording) and of_prediction == stated

    def add(self, prediction: RecordingPrediction) -> None:
        # A path need not be UTF-8; JSON in ASCII holds it all the same.
        values = {**asdict(prediction), "path": str(prediction.path)}
        file = self._file(prediction.path)
        write_record(file, [stamp_of(prediction.path), values], made_for=file.name)

    def drop(self, recording: Path) -> None:
        if self._file(recording).exists():
            with self.lock():
                self._file(recording).unlink(missing_ok=True)

    def lock(self) -> FileLock:
        """Lock of the tables: another call may be reading `all`."""
        return FileLock(self.folder.parent / "lock")

    def all(self) -> tuple[list[RecordingPrediction], list[str]]:
        """All stored predictions, by path, and a line on each file that does not hold what was written to it."""
        stored = {file: _read_stored(file) for file in sorted(self.folder.glob(f"*.{self.made_by}.json"))}
        damaged = [
            f"{file} is damaged and was left out: predict its recording again, or remove the file"
            for file, each in stored.items()
            if each is None
        ]
        return sorted((each[1] for each in stored.values() if each), key=lambda each: each.path), damaged

    def _file(self, recording: Path) -> Path:
        # Not resolved: links to one file may lie beside annotations of their own.
        place = hashlib.sha256(os.fsencode(normpath(recording.absolute()))).hexdigest()[:12]
        return self.folder / f"{place}.{self.made_by}.json"


def _read_stored(file: Path) -> tuple[list[int], RecordingPrediction] | None:
    """The stamp and the prediction; None without the file, and where it is not as it was written."""
    if (stored := read_record(file, made_for=file.name)) is None:
        return None
    stamp, values = stored
    return stamp, RecordingPrediction(**{**values, "path": Path(values["path"])})


def stamp_of(recording: Path) -> list[int]:
    """Sizes and times of change of the recording and its annotations: when they change, it is predicted again.

    The time of the last change of its entry is among them: a copy may have the size and the time of what it replaces.
    """
    existing = [path.stat() for path in (recording, *annotations_beside(recording)) if path.exists()]
    return [number for facts in existing for number in (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)]
