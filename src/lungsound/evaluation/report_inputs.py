"""What a report shows beside the scores: groups of patients, the hardest cycles with their sound, the three columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Corpus, Recording
from lungsound.data.splits import DEVICE_SPLIT, VALIDATION
from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.hardest import HardCycle, hardest_rows
from lungsound.evaluation.predictions import Predictions
from lungsound.evaluation.rescore import CycleTable, metric_table_blocks, rescore
from lungsound.evaluation.scores import Subgroups, age_groups, score_subgroups
from lungsound.evaluation.selection import COLUMN_HEAD, RULE, Columns, column_rows, read_columns
from lungsound.page import Block, Heading, Paragraph, Table

KNOWN, VALIDATED, NEW = "known to the training set", "in validation", "new"
SPLIT_NOTE = "split: "  # how the readers' notes on the split begin


@dataclass(frozen=True)
class KnownPatients:
    """Patients of the test whom the run has met: who train, and who validate."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()

    def group(self, patient: str) -> str:
        if patient in self.train:
            return KNOWN
        return VALIDATED if patient in self.validation else NEW


def known_patients(facts: Mapping[str, Any], predictions: Predictions) -> KnownPatients:
    """Who of the patients that were answered for trained the run with these facts, and who validated."""
    parts = (sorted(set(facts["patients"][part]) & set(predictions.patients)) for part in ("train", VALIDATION))
    return KnownPatients(*map(tuple, parts))


def subgroups(corpus: Corpus, predictions: Predictions, known: KnownPatients) -> tuple[Subgroups, ...]:
    """Scores by place, age group, sex, diagnosis; and by whether the run had met the patient, where it had met any."""
    recordings = _recordings(corpus, predictions)
    facts: dict[str, Sequence[str]] = {
        "location": [recording.location or "" for recording in recordings],
        "age group": age_groups([recording.age_years for recording in recordings]),
        "sex": [recording.sex or "" for recording in recordings],
        "diagnosis": [recording.diagnosis or "" for recording in recordings],
    }
    if known != KnownPatients():
        facts["patient"] = [known.group(patient) for patient in predictions.patients]
    return score_subgroups(predictions, facts)


def hard_cycles(corpus: Corpus, predictions: Predictions, front_end: FrontEnd) -> list[HardCycle]:
    """The hardest cycles with their sound, as the front end cuts them, before they are fitted to the input's length."""
    cycle_of = {cycle.key: cycle for cycle in corpus.cycles}
    found = []
    for row in hardest_rows(predictions):
        cycle = cycle_of[predictions.keys[row]]
        whole = front_end.read(cycle.recording.path)
        waveform = front_end.cut(whole, start_s=cycle.start_s, end_s=cycle.end_s).numpy()
        found.append(HardCycle.of_row(predictions, row, waveform=waveform, sample_rate_hz=front_end.sample_rate_hz))
    return found


def columns_of(
    columns: Mapping[str, Predictions], epochs: Mapping[str, int], unwatched: Mapping[str, str]
) -> list[Columns]:
    """The three columns of a run, for each part of the test; none of a run that keeps no answers."""
    parts = sorted({part for answers in columns.values() for part in answers.parts} - {VALIDATION})
    return [read_columns([columns], [epochs], part=part, unwatched=unwatched) for part in parts]


def column_blocks(columns: Sequence[Columns]) -> list[Block]:
    """The columns as tables, with the difference that the choice on the test makes."""
    if not columns:
        return []
    blocks: list[Block] = [
        Heading("Three ways to choose the epoch"),
        Paragraph(
            "One training, its answers at each chosen epoch. The last column is the Score of the epoch that was chosen "
            "on the test minus that of the line, in points, paired over the same patients."
        ),
    ]
    for each in columns:
        if len(columns) > 1:
            blocks.append(Heading(each.part, level=3))
        blocks.append(Table(COLUMN_HEAD, column_rows(each)))
    return [*blocks, Paragraph(RULE)]


def metric_blocks(predictions: Predictions) -> list[Block]:
    """Every metric in use for each part of the test, and which published column it may stand beside."""
    table = CycleTable.of(predictions)
    parts = table.part_names()
    blocks: list[Block] = [Heading("Every metric in use")]
    for part in parts:
        result = rescore(table.counts([part]), epoch="unknown", bootstrap=Bootstrap())
        blocks += [Heading(part or "unknown part", level=3)] if len(parts) > 1 else []
        blocks += metric_table_blocks(result)
    return blocks


def protocol_sentence(name: str, facts: Mapping[str, Any]) -> str:
    """How the run was divided, from the settings' name of the protocol and the run's facts."""
    patients = {part: len(names) for part, names in facts["patients"].items()}
    if name == "published":
        return "published: all of the training set trains, no patient is held out"
    left_out = facts["left_out_patients"]
    shared = f"{len(left_out)} that the test has too left out" if left_out else "none left out"
    return f"strict: {patients['train']} patients train, {patients['validation']} validate, {shared}"


def split_words(corpus_name: str, notes: Sequence[str], setting: str) -> str:
    """Where the parts of a corpus come from: what its reader noted, else what its kind has.

    `setting` is data.split, which says no more than "official" of corpora that have one split only.
    """
    if setting.startswith(DEVICE_SPLIT):
        return f"the device {setting.removeprefix(DEVICE_SPLIT)} against all others"
    noted = [note.removeprefix(SPLIT_NOTE) for note in notes if note.startswith(SPLIT_NOTE)]
    own = {"table": "that of the table", "folders": "that of the folders"}.get(corpus_name, setting)
    return "; ".join(noted) or own


def _recordings(corpus: Corpus, predictions: Predictions) -> list[Recording]:
    recording_of = {cycle.key: cycle.recording for cycle in corpus.cycles}
    return [recording_of[key] for key in predictions.keys]
