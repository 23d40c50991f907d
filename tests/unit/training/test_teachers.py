"""Soft labels of trained models: their mean, each by its own front end, and whom they may not have heard."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from lungsound.audio.filter_bank import normalize
from lungsound.config import RunConfig, load_config
from lungsound.data.corpus import Corpus, join
from lungsound.data.reader import read_corpus
from lungsound.data.splits import Parts
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS
from lungsound.training.run import RunFacts, RunFolder
from lungsound.training.teachers import ask_teachers, patients_of
from tests.unit.data.trees import write_icbhi
from tests.unit.inference.models import AUDIO, saved_model
from tests.unit.training.small import CPU

ANNOTATION = "0.1\t0.5\t0\t0\n0.5\t1.5\t1\t0\n"
PARTS = Parts(train=(3, 0, 1), validation=(4,), test=(6,), calibration=(5,))  # of patients 101, 101, 102, 102, ...


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Two cycles of each of four patients, of noise."""
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    names = [f"10{patient}_1b1_Al_sc_Meditron" for patient in range(1, 5)]
    folder = write_icbhi(tmp_path / "corpus", dict.fromkeys(names, ANNOTATION))
    for place, name in enumerate(names):
        soundfile.write(folder / f"{name}.wav", np.random.default_rng(place).normal(0, 0.1, 8000), 4000)
    return read_corpus(folder, is_strict=False)


def asked(corpus: Corpus, *teachers: Path, parts: Parts = PARTS) -> tuple[dict[str, str], torch.Tensor | None]:
    return ask_teachers(settings(*teachers), corpus, parts, device=CPU, console=Console(quiet=True))


def settings(*teachers: Path) -> RunConfig:
    return load_config("demo", {"objective.teachers": [str(teacher) for teacher in teachers]})


def write_facts(folder: Path, corpus: Corpus, parts: Parts) -> RunFacts:
    facts = RunFacts.of(corpus, parts, None, {}, command="", device="cpu", precision="fp32")
    RunFolder(folder).write_facts(facts)
    return facts


def test_soft_labels_are_the_mean_of_the_teachers_each_by_its_own_front_end(corpus: Corpus, tmp_path: Path) -> None:
    """In the order of the training cycles; one by one, without a store and without batches."""
    own = AUDIO.model_copy(update={"num_mels": 48, "is_recording_normalized": True, "statistics": "corpus"})
    unpadded = AUDIO.model_copy(update={"is_padding_encoded": False})
    models = [saved_model(tmp_path / name, audio=audio) for name, audio in {"a": own, "b": unpadded}.items()]
    hashes, soft_labels = asked(corpus, tmp_path / "a", tmp_path / "b" / "model.safetensors")
    assert list(hashes.values()) == [model.sha256 for model in models]
    assert soft_labels is not None
    for row, found in zip(PARTS.train, soft_labels, strict=True):
        cycle, total = corpus.cycles[row], torch.zeros(4)
        for model in models:
            recording = model.front_end.read(cycle.recording.path)
            sound = model.front_end.cut(recording, start_s=cycle.start_s, end_s=cycle.end_s)
            fbank = normalize(model.front_end.filter_banks_of([sound]), mean=model.mean, std=model.std)
            num_own = model.front_end.num_own_frames(len(sound.waveform))
            num_frames = None if num_own is None else torch.tensor([num_own])
            with torch.no_grad():
                logits = model.model(
                    torch.from_numpy(fbank), None if num_frames is None else torch.tensor([num_frames])
                )
            total += logits[0].softmax(0)
        assert torch.allclose(found, total / 2, atol=1e-5)
        assert found.sum().item() == pytest.approx(1, abs=1e-6)
    again = asked(corpus, tmp_path / "a", tmp_path / "b" / "model.safetensors")[1]
    assert again is not None
    assert torch.equal(soft_labels, again)  # as when a run is resumed


def test_without_teachers_there_are_no_soft_labels(corpus: Corpus) -> None:
    assert asked(corpus) == ({}, None)


def test_a_teacher_that_was_trained_on_a_held_out_or_test_patient_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    saved_model(teacher)
    for parts, names in (
        (replace(PARTS, train=(0, 4)), "103"),  # validates here
        (replace(PARTS, train=(0, 6)), "104"),  # is tested here
        (replace(PARTS, train=(0, 5, 7)), "103, 104"),
    ):
        write_facts(teacher, corpus, parts)
        with pytest.raises(SettingsError, match=rf"trained on . patient\(s\) whom this run .*\({names}\)") as error:
            asked(corpus, teacher)
        assert "train.division_seed" in str(error.value)
        (teacher / "run.json").unlink()
    # Others of the same patients, and patients who train here too, are no leak: the test may share them by design.
    write_facts(teacher, corpus, PARTS)
    assert asked(corpus, teacher, parts=replace(PARTS, validation=(), test=(2,)))[1] is not None


def test_patients_are_known_under_the_names_of_their_corpus_here(corpus: Corpus, tmp_path: Path) -> None:
    joined = join({"own": corpus, "other": replace(corpus, name="sprsound", split={})}, LABEL_SETS["sound4"])
    alone = write_facts(tmp_path / "alone", corpus, PARTS)
    assert patients_of(alone, corpus) == {"101", "102"}
    assert patients_of(alone, joined) == {"own/101", "own/102"}
    together = write_facts(tmp_path / "together", joined, Parts(train=(0, 8, 12), validation=(), test=()))
    assert together.patients["train"] == ("other/101", "other/103", "own/101")
    assert patients_of(together, corpus) == {"101"}
    assert patients_of(together, joined) == {"own/101", "other/101", "other/103"}
    assert patients_of(together, replace(corpus, name="synthetic", split=dict.fromkeys(corpus.split, "x"))) == set()


def test_a_model_file_alone_is_remarked_on(corpus: Corpus, tmp_path: Path) -> None:
    saved_model(tmp_path / "teacher")
    console = Console(record=True, width=200)
    ask_teachers(settings(tmp_path / "teacher"), corpus, PARTS, device=CPU, console=console)
    assert "whom it was trained on is not known" in console.export_text()


def test_a_teacher_of_other_classes_and_one_that_is_missing_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    saved_model(tmp_path / "teacher")
    config = load_config("demo", {"objective.teachers": [str(tmp_path / "teacher")], "data.label_set": "sound2"})
    with pytest.raises(SettingsError, match=r"classes of sound4 apart, but data.label_set is 'sound2'"):
        ask_teachers(config, corpus, PARTS, device=CPU, console=Console(quiet=True))
    with pytest.raises(SettingsError, match="no such file, and no known name"):
        asked(corpus, tmp_path / "missing")


def test_a_teacher_that_has_changed_is_refused_when_the_run_goes_on(corpus: Corpus, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    facts = write_facts(tmp_path, corpus, PARTS).model_copy(update={"teachers": {"teacher": "a" * 64}})
    (tmp_path / "run.json").unlink()
    run.write_facts(facts)
    run.write_facts(facts)
    with pytest.raises(SettingsError, match=r"teacher is not the teacher that .* was started with"):
        run.write_facts(facts.model_copy(update={"teachers": {"teacher": "b" * 64}}))
