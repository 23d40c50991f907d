"""The real corpora, where they are on disk: every count that is published or known of them."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile

from lungsound.data.check import corpus_table
from lungsound.data.icbhi import official_split
from lungsound.data.reader import read_corpus
from lungsound.data.tree import manifest_rows
from lungsound.labels import LABEL_SETS


@pytest.fixture
def icbhi_dir(shared_dir):
    return shared_dir / "data" / "icbhi"


def cycles_by_part(table):
    return {part: (counts.num_recordings, *counts.cycles) for part, counts in table.parts.items()}


def test_icbhi_as_far_as_it_is_here(icbhi_dir):
    corpus = read_corpus(icbhi_dir / "ICBHI_final_database")
    table = corpus_table(corpus)
    assert cycles_by_part(table) == {"train": (193, 1173, 402, 170, 84), "test": (96, 639, 102, 140, 39)}
    assert table.completeness.startswith("289 of the 920 published recordings")
    assert table.devices == {
        "AKGC417L": {"train": 61, "test": 0},
        "Litt3200": {"train": 5, "test": 55},
        "LittC2SE": {"train": 41, "test": 0},
        "Meditron": {"train": 86, "test": 41},
    }
    assert all(recording.diagnosis is not None for recording in corpus.recordings)
    assert corpus.recordings[0].bmi == pytest.approx(19.0 / 0.99**2)
    assert read_corpus(icbhi_dir).fingerprint == corpus.fingerprint


def test_single_channel_icbhi_is_complete(icbhi_dir):
    corpus = read_corpus(icbhi_dir).keep(lambda recording: recording.mode == "sc")
    table = corpus_table(corpus)
    assert cycles_by_part(table) == {"train": (92, 740, 147, 120, 42), "test": (96, 639, 102, 140, 39)}
    assert len(corpus.cycles) == 1969


def test_shipped_manifests_are_the_files_of_the_corpus(icbhi_dir):
    lines = (icbhi_dir / "official_split.txt").read_text().splitlines()
    assert dict(line.split("\t") for line in lines) == official_split()
    folds = [line.split() for line in (icbhi_dir / "patient_list_foldwise.txt").read_text().splitlines()]
    assert sorted(folds) == [list(row) for row in manifest_rows("icbhi_folds.tsv")]
    others = (icbhi_dir / "filename_differences.txt").read_text().replace("'", "").split()
    assert sorted(others) == sorted(other for _, other in manifest_rows("icbhi_other_names.tsv"))


def write_all_annotations_with_silence(icbhi_dir, root):
    """All 920 annotations, each with a small silent sound file as long as its last cycle."""
    for path in (icbhi_dir / "annotations_all").iterdir():
        text = path.read_text()
        end_s = max(float(line.split()[1]) for line in text.splitlines())
        (root / path.name).write_text(text)
        soundfile.write(root / f"{path.stem}.wav", np.zeros(round(end_s * 100) + 1, dtype=np.int16), 100)


def test_annotations_of_the_whole_of_icbhi_in_both_namings(icbhi_dir, tmp_path):
    write_all_annotations_with_silence(icbhi_dir, tmp_path)
    official = corpus_table(read_corpus(tmp_path))
    assert official.completeness == "whole"
    assert [own == published for own, published in official.comparisons.values()] == [True] * 3
    assert official.shared_patients == {("train", "test"): ("156", "218")}
    assert official.devices == {
        "AKGC417L": {"train": 361, "test": 285},
        "Litt3200": {"train": 5, "test": 55},
        "LittC2SE": {"train": 87, "test": 0},
        "Meditron": {"train": 86, "test": 41},
    }
    for name, other in manifest_rows("icbhi_other_names.tsv"):
        for suffix in (".wav", ".txt"):
            (tmp_path / f"{name}{suffix}").rename(tmp_path / f"{other}{suffix}")
    corpus = read_corpus(tmp_path)
    renamed = corpus_table(corpus)
    assert renamed.completeness == "whole"
    assert (renamed.parts, renamed.devices) == (official.parts, official.devices)
    assert corpus.notes[1].startswith("91 recordings are in the other naming")


def test_sprsound_is_whole_and_sound(shared_dir):
    corpus = read_corpus(shared_dir / "data" / "sprsound")
    table = corpus_table(corpus)
    assert cycles_by_part(table) == {
        "train": (1949, 5159, 961, 506, 30),
        "inter": (355, 1040, 83, 305, 1),
        "intra": (379, 688, 189, 124, 3),
    }
    assert table.completeness == "whole"
    assert [own == published for own, published in table.comparisons.values()] == [True] * 4
    assert {pair: len(patients) for pair, patients in table.shared_patients.items()} == {("train", "intra"): 162}
    assert corpus.notes == (
        "187 recordings are annotated as without any event: they have no cycles",
        "41279835_14.1_0_p1_2945 (train) and 41279835_14.1_0_p1_2050 (intra) hold the same sound",
    )


def test_sprsounds_tasks_count_what_its_json_says(shared_dir):
    root = shared_dir / "data" / "sprsound"
    folders = {"train": "train_json", "inter": "test_json/inter_test_json", "intra": "test_json/intra_test_json"}
    events, records = Counter(), Counter()
    for part, folder in folders.items():
        for path in (root / folder).glob("*.json"):
            content = json.loads(path.read_text())
            records[part, content["record_annotation"]] += 1
            events.update((part, event["type"]) for event in content["event_annotation"])
    assert (sum(events.values()), sum(records.values())) == (9089, 2683)
    for unit, fine, coarse, counts in (
        ("cycle", "sprsound_event7", "sprsound_event2", events),
        ("recording", "sprsound_record5", "sprsound_record3", records),
    ):
        corpus = read_corpus(root, unit=unit)
        folded = Counter()
        for (part, word), number in counts.items():
            folded[part, word if word in ("Normal", "Poor Quality") else "Adventitious"] += number
        assert class_counts(corpus, fine) == counts
        assert class_counts(corpus, coarse) == folded


def class_counts(corpus, name):
    """Cycles by part of the split and class of a label set."""
    classes = LABEL_SETS[name].classes
    label = LABEL_SETS[name].label
    return Counter((corpus.split[c.recording.name], classes[label(sound=c.sound, term=c.term)]) for c in corpus.cycles)
