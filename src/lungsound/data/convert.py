"""Annotations written back: as ICBHI's `.txt`, SPRSound's `.json`, or a table (`lungsound.data.table`).

No audio is written, and patients' facts only in a table. Reading it back gives the same cycles: times are as in the
published files, seconds in as few digits as give the same number (ICBHI), or milliseconds as strings (SPRSound).
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal

from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.icbhi import SPLIT_FILES, is_icbhi_name
from lungsound.data.sprsound import is_sprsound_name
from lungsound.data.table import FACTS
from lungsound.errors import CorpusError
from lungsound.files import as_text, csv_text, written_folder
from lungsound.labels import LABEL_SETS, shipped_map, sound_of

Format = Literal["icbhi", "sprsound", "table"]
TABLE_FILE = "annotations.csv"
# Folder of each part; a part of another corpus that is called "test" is written as new patients.
_SPRSOUND_FOLDERS = {
    "train": "train_json",
    "inter": "test_json/inter_test_json",
    "intra": "test_json/intra_test_json",
    "test": "test_json/inter_test_json",
}


def write_annotations(corpus: Corpus, out: Path, *, to: Format, is_lossy: bool = False) -> list[str]:
    """Write the annotations of a corpus into the new or empty folder `out`; returns what was lost, a sentence each.

    icbhi: `<name>.txt` and `official_split.txt`; sprsound: train_json and test_json; table: `annotations.csv`, with the
    paths of the sounds from `out`. Names are those of the sound files. CorpusError, before anything is written, when
    something would be lost and `is_lossy` is false, and for what cannot be written at all.
    """
    corpus.require_sound()
    if any(recording.packed for recording in corpus.recordings):
        raise CorpusError(f"{corpus.root} is packed, and annotations are named as sound files: convert, then pack")
    _check_possible(corpus, to)
    lost = losses(corpus, to)
    if lost and not is_lossy:
        raise CorpusError(f"{to} cannot say everything: {'; '.join(lost)}. To go without, add --lossy")
    cycles: dict[Recording, list[Cycle]] = {recording: [] for recording in corpus.recordings}
    for cycle in corpus.cycles:
        cycles[cycle.recording].append(cycle)
    if to == "table":
        texts = {TABLE_FILE: table_text(corpus, out)}
    elif to == "icbhi":
        annotated = {recording: own for recording, own in cycles.items() if own}
        texts = {f"{recording.path.stem}.txt": icbhi_text(own) for recording, own in annotated.items()}
        split = [f"{recording.path.stem}\t{corpus.split[recording.name]}\n" for recording in annotated]
        texts[SPLIT_FILES[0]] = "".join(split)
    else:
        folder_of = {recording: _SPRSOUND_FOLDERS[corpus.split[recording.name]] for recording in cycles}
        texts = {
            f"{folder_of[recording]}/{recording.path.stem}.json": sprsound_text(recording.term, own)
            for recording, own in cycles.items()
        }
    with written_folder(out) as partial:
        for place, text in texts.items():
            path = partial / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return lost


def icbhi_text(cycles: Sequence[Cycle]) -> str:
    """Lines `start end crackle wheeze` with tabs, in the order in which the cycles were written."""
    return "".join(
        f"{_shortest(cycle.start_s)}\t{_shortest(cycle.end_s)}\t{int(cycle.has_crackle)}\t{int(cycle.has_wheeze)}\n"
        for cycle in _as_written(cycles)
    )


def sprsound_text(record_annotation: str | None, cycles: Sequence[Cycle]) -> str:
    """JSON with the word for the recording (left out when None) and its events, in the order of their writing."""
    events = [
        {"start": _milliseconds(cycle.start_s), "end": _milliseconds(cycle.end_s), "type": cycle.word}
        for cycle in _as_written(cycles)
    ]
    record = {} if record_annotation is None else {"record_annotation": record_annotation}
    return json.dumps({**record, "event_annotation": events})


def table_text(corpus: Corpus, folder: Path) -> str:
    """A CSV of all cycles, with known facts and the paths of sounds from `folder`; no times for a whole recording."""
    has_flags = corpus.vocabulary == "sound4"
    facts = [name for name in FACTS if any(getattr(recording, name) is not None for recording in corpus.recordings)]
    sound_columns = ("crackle", "wheeze") if has_flags else ("label",)
    rows: list[list[object]] = [["path", "start_s", "end_s", *sound_columns, "patient", "split", *facts, "name"]]
    for cycle in corpus.cycles:
        recording = cycle.recording
        path = as_text(Path(os.path.relpath(recording.path.absolute(), folder.absolute())).as_posix())
        is_whole = (cycle.start_s, cycle.end_s) == (0.0, recording.duration_s)
        times = ("", "") if is_whole else (_shortest(cycle.start_s), _shortest(cycle.end_s))
        words = (int(cycle.has_crackle), int(cycle.has_wheeze)) if has_flags else (cycle.word,)
        values, part = (getattr(recording, name) for name in facts), corpus.split[recording.name]
        rows.append([path, *times, *words, recording.patient, part, *values, recording.name])
    return csv_text(rows)


def losses(corpus: Corpus, to: Format) -> list[str]:
    """Parts of the annotations that this format cannot hold, a sentence each; empty when all of it comes back."""
    lost = ["that a program made the recordings"] if corpus.is_synthetic else []
    if to == "icbhi" and corpus.vocabulary != "sound4":
        lost.append(f"words of {corpus.vocabulary} are written as the four sounds")
        lost += shipped_map(corpus.vocabulary, "sound4").losses(_words(corpus))
    if to != "table":
        is_own_name = is_icbhi_name if to == "icbhi" else is_sprsound_name
        num_others = sum(not is_own_name(recording.path.stem) for recording in corpus.recordings)
        if num_others:
            lost.append(f"{num_others} recordings are not named as those of {to}, so their patients are lost")
    if to == "sprsound":
        return [*lost, *(["the part 'test' is written as 'inter'"] if "test" in corpus.parts else [])]
    num_words = sum(recording.term is not None for recording in corpus.recordings)
    if num_words:
        lost.append(f"{num_words} recordings have a word for the whole recording, which is not written")
    num_silent = len(corpus.recordings) - len({cycle.recording.name for cycle in corpus.cycles})
    if num_silent:
        lost.append(f"{num_silent} recordings without any cycle are not written")
    known = sorted(corpus.known_patient_parts & set(corpus.parts))
    if known:
        lost.append(f"that patients of {', '.join(known)} are in train by design")
    return lost


def _check_possible(corpus: Corpus, to: Format) -> None:
    """CorpusError for what cannot be written in this format, whatever is given up."""
    if to == "table":
        return
    target = LABEL_SETS["sound4" if to == "icbhi" else "sprsound_event7"]
    unsaid = [w for w in _words(corpus) if (sound_of(w) is None if to == "icbhi" else w not in target.classes)]
    if unsaid:
        raise CorpusError(
            f"{to} has no word for {', '.join(map(repr, unsaid))}; its words are {', '.join(target.classes)}. "
            f'Give a label map to them with --label-map FILE (label_set = "{target.name}")'
        )
    names = [recording.path.stem for recording in corpus.recordings]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise CorpusError(f"{to} needs a name of its own for each recording; several are called {twice[0]}")
    if to == "sprsound":
        why = f"parts are {', '.join(_SPRSOUND_FOLDERS)}"
        unsaid = [part for part in corpus.parts if part not in _SPRSOUND_FOLDERS]
    else:
        why, unsaid = "a split file cannot hold blanks", [n for n in (*corpus.parts, *names) if len(n.split()) > 1]
    if unsaid:
        raise CorpusError(f"{to} cannot say {unsaid[0]!r}: {why}")


def _words(corpus: Corpus) -> list[str]:
    return sorted({cycle.word for cycle in corpus.cycles})


def _as_written(cycles: Sequence[Cycle]) -> list[Cycle]:
    return sorted(cycles, key=lambda cycle: cycle.position)


def _shortest(seconds: float) -> str:
    """In as few digits as read back as the same number, without an exponent."""
    return format(Decimal(repr(seconds)), "f").removesuffix(".0")


def _milliseconds(seconds: float) -> str:
    return format((Decimal(repr(seconds)) * 1000).normalize(), "f")
