"""A folder of recordings for review by hand: the most doubtful first, and what was corrected in a table beside them."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
from filelock import FileLock

from lungsound.answers.answer import RecordingAnswer
from lungsound.answers.whole import doubt
from lungsound.app.predict_many import sound_files
from lungsound.audio.waveform import probe, read_channels
from lungsound.data.annotations import table_text
from lungsound.data.corpus import Cycle
from lungsound.data.table import read_table
from lungsound.errors import LungsoundError, SettingsError
from lungsound.files import write_text
from lungsound.labels import LabelSet
from lungsound.serve.corrected import (
    CorrectedCycle,
    corpus_of,
    cycles_of,
    formats_of,
    recording_of,
)
from lungsound.serve.refusals import Refusal
from lungsound.serve.uploads import told

CORRECTIONS = "corrections"
TABLE = "corrections.csv"
ID_LENGTH = 16


@dataclass(frozen=True)
class Reviewed:
    """A recording of the folder: its answer, or why there is none, or neither as long as nobody asked the model."""

    id: str
    path: Path
    name: str
    answer: RecordingAnswer | None = None
    error: str | None = None

    @property
    def doubt(self) -> float | None:
        return None if self.answer is None else doubt(self.answer)


class ReviewFolder:
    """The recordings of a folder, and the corrections beside them, in a table that several may write."""

    def __init__(self, folder: Path, label_set: LabelSet) -> None:
        if not folder.is_dir():
            raise SettingsError(f"{folder} is no folder: give the folder of the recordings to review")
        if not formats_of(label_set):
            raise SettingsError(
                f"label set {label_set.name!r} is of whole recordings or patients, and review is of cycles: "
                "take a model of another label set"
            )
        self.folder = folder.resolve()
        self.label_set = label_set
        self.table = self.folder / CORRECTIONS / TABLE
        paths = [path for path in sound_files([self.folder]) if path.is_file()]
        names = {path: _name(path.relative_to(self.folder)) for path in paths}
        ids = {path: hashlib.sha256(name.encode()).hexdigest()[:ID_LENGTH] for path, name in names.items()}
        self._found = {ids[path]: Reviewed(ids[path], path, name) for path, name in names.items()}
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Reviewed]:
        """Most doubtful first; then those that nobody asked the model for yet, then those without an answer."""
        with self._lock:
            found = list(self._found.values())
        return iter(sorted(found, key=lambda each: (each.error is not None, each.doubt is None, -(each.doubt or 0.0))))

    def __getitem__(self, id: str) -> Reviewed:
        with self._lock:
            if id not in self._found:
                raise Refusal("not found", "no recording has this id; GET /v1/recordings lists them")
            return self._found[id]

    def answered(self, id: str, answer: Callable[[Path], RecordingAnswer]) -> Reviewed:
        """The recording with its answer, which is asked for once."""
        found = self[id]
        if found.answer is not None or found.error is not None:
            return found
        try:
            new = Reviewed(found.id, found.path, found.name, answer=answer(found.path))
        except (LungsoundError, Refusal) as error:
            new = Reviewed(found.id, found.path, found.name, error=told(error, found.path))
        with self._lock:
            self._found[id] = new
        return new

    def corrections(self) -> dict[str, list[CorrectedCycle]]:
        """The corrected cycles of each recording that has any, by its id."""
        found: dict[str, list[CorrectedCycle]] = {}
        by_name = {each.name: each.id for each in self}
        for cycle in self._read():
            name = cycle.recording.name
            corrected = CorrectedCycle(start_s=cycle.start_s, end_s=cycle.end_s, label=cycle.word)
            if name in by_name:
                found.setdefault(by_name[name], []).append(corrected)
        return found

    def correct(self, id: str, given: Sequence[CorrectedCycle]) -> None:
        """Keep the corrected cycles of a recording, in place of earlier ones; on disk when this returns."""
        reviewed = self[id]
        info = probe(reviewed.path)
        recording = recording_of(
            reviewed.path,
            duration_s=info.num_samples / info.sample_rate_hz,
            sample_rate_hz=info.sample_rate_hz,
            name=reviewed.name,
        )
        new = cycles_of(given, recording, self.label_set)
        self.table.parent.mkdir(exist_ok=True)
        with self._lock, FileLock(self.table.parent / "lock"):
            cycles = [cycle for cycle in self._read() if cycle.recording.name != reviewed.name] + new
            recordings = {cycle.recording.name: cycle.recording for cycle in cycles}.values()
            corpus = corpus_of(recordings, cycles, self.label_set, self.table.parent)
            write_text(self.table, table_text(corpus, self.table.parent))

    def _read(self) -> list[Cycle]:
        """The cycles of the table. CorpusError when somebody made it a table that cannot be read whole."""
        return list(read_table(self.table).require_sound().cycles) if self.table.exists() else []


def _name(path: Path) -> str:
    """The path as text that JSON holds."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode()


def wav_bytes(path: Path) -> bytes:
    """The recording as WAV of 16 bits, with its rate and channels: every browser plays that."""
    channels, rate_hz = read_channels(path)
    content = io.BytesIO()
    soundfile.write(content, channels.T, rate_hz, format="WAV", subtype="PCM_16")
    return content.getvalue()
