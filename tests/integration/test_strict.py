"""A strict run as a person makes one: columns, calibration in the model, the page; kept; devices left out."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lungsound.data.reader import read_corpus
from lungsound.evaluation.calibration import fit_calibration
from lungsound.evaluation.evidence import Measured
from lungsound.evaluation.out_of_domain import spectral_features
from lungsound.evaluation.predictions import read_predictions
from lungsound.experiments.study import keep_run
from lungsound.files import short_names
from lungsound.inference.predictor import OTHER_STETHOSCOPE, STETHOSCOPE_NOT_STATED, Predictor
from lungsound.training.model_file import load_model
from lungsound.training.run import RunFolder
from tests.integration.command import lungsound

SETTINGS = (
    "audio.duration_s=1.5",
    "audio.num_mels=16",
    "train.batch_size=8",
    "train.epochs=2",
    "train.warmup_epochs=0",
)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("LUNGSOUND_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def sets(*settings: str) -> list[str]:
    return [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]


@pytest.fixture(scope="module")
def run(synthetic_corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("strict") / "run"
    assert lungsound("train", "demo", "--data", synthetic_corpus_dir, "--out", out, *sets()) == 0
    return out


def test_the_columns_hold_validation_and_test_rows_and_the_last_is_what_the_run_answers(
    run: Path, synthetic_corpus_dir: Path
) -> None:
    last = read_predictions(run / "epochs" / "last.csv")
    corpus = read_corpus(synthetic_corpus_dir)
    test = [cycle.key for cycle in corpus.part("test")]
    assert sorted(last.of_part("test").keys) == sorted(test)
    held = set(last.of_part("validation").patients)
    assert held == set(RunFolder(run).facts().patients["validation"])
    assert held < {cycle.recording.patient for cycle in corpus.part("train")}
    kept, of_last = read_predictions(run / "predictions.csv"), last.of_part("test")
    order = [of_last.keys.index(key) for key in kept.keys]
    assert np.allclose(kept.probabilities, of_last.probabilities[order], atol=1e-5)


def test_the_report_shows_the_columns_and_the_log_both_parts(run: Path) -> None:
    text = (run / "report.md").read_text()
    assert "Three ways to choose the epoch" in text
    assert re.search(r"\| last epoch \| 2 \| [\d.]+ \(n/a\)", text)
    assert re.search(
        r"- Data: synthetic, \d+ recordings; split official, from official_split.txt; tested on test", text
    )
    assert re.search(r"- Trained on: synthetic, \d+ cycles; split official, from .*; strict: \d+ patients", text)
    header = (run / "log.csv").read_text().splitlines()[0]
    assert "validation_score" in header
    assert "test_score" in header


def test_the_page_stands_alone_and_the_card_says_what_it_is(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("<audio") >= 1
    assert "Calibration and abstention" in page
    assert "Every metric in use" in page
    card = (run / "MODEL_CARD.md").read_text()
    assert "Intended use" in card
    assert "Not to diagnose" in card


def test_the_model_keeps_its_calibration_and_answers_with_it(run: Path, synthetic_corpus_dir: Path) -> None:
    trained = load_model(RunFolder(run).model)
    assert trained.calibration is not None
    held = RunFolder(run).columns()["last"].of_part("validation")
    assert trained.calibration.num_cycles == len(held.keys)
    evidence = trained.evidence
    assert evidence is not None
    assert evidence.held_out is not None
    measured = Measured.of(held, name="patients held out", ages_years=())
    assert evidence.held_out == measured.model_copy(update={"ages_years": evidence.held_out.ages_years})
    assert evidence.is_synthetic
    predictor = Predictor.load(run)
    assert predictor.is_calibrated
    recording = sorted(synthetic_corpus_dir.glob("*.wav"))[0]
    for answer in predictor.predict(recording).cycles:
        assert sum(answer.probabilities.values()) == pytest.approx(1.0)
        assert answer.possible


def test_the_model_keeps_what_it_was_trained_on(run: Path, synthetic_corpus_dir: Path) -> None:
    """Devices and the domain are those of the training cycles; a training recording is like them."""
    trained, corpus = load_model(RunFolder(run).model), read_corpus(synthetic_corpus_dir)
    patients = set(RunFolder(run).facts().patients["train"])
    train = [cycle for cycle in corpus.part("train") if cycle.recording.patient in patients]
    assert trained.devices == tuple(sorted({cycle.recording.device for cycle in train if cycle.recording.device}))
    assert trained.domain is not None
    assert len(trained.domain.cycles) == len(trained.domain.distances) == len(train)
    recording = train[0].recording
    answer = Predictor.load(run).predict(recording.path, stethoscope=recording.device)
    waveform = trained.front_end.read(recording.path)
    cuts = [
        trained.front_end.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
        for cycle in train
        if cycle.recording == recording
    ]
    scores = trained.domain.scores(spectral_features(trained.front_end.filter_banks_of(cuts)))
    assert answer.out_of_domain == pytest.approx(float(np.median(scores)))
    assert not {STETHOSCOPE_NOT_STATED, OTHER_STETHOSCOPE} & set(answer.quality)


@pytest.mark.slow
def test_patients_held_out_for_calibration_are_asked_for_nothing_else(
    synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = sets("train.calibration_share=0.3", "train.epochs=1", "train.is_test_watched=false")
    assert lungsound("train", "demo", "--data", synthetic_corpus_dir, "--out", out, *settings) == 0
    run, patients = RunFolder(out), RunFolder(out).facts().patients
    parts = [set(patients[part]) for part in ("train", "validation", "calibration", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set().union(*parts))
    last, calibration = run.columns()["last"], load_model(run.model).calibration
    assert set(last.of_part("calibration").patients) == parts[2]
    assert calibration is not None
    assert calibration.num_cycles == len(last.of_part("calibration").keys)
    evidence = load_model(run.model).evidence
    assert evidence is not None
    assert evidence.held_out is not None
    assert evidence.held_out.num_patients == len(parts[2])
    assert set(read_predictions(out / "predictions.csv").parts) == {"test"}
    assert f"{len(parts[2])} calibrate" in (out / "report.md").read_text()
    assert lungsound("calibrate", out) == 0


@pytest.mark.slow
def test_a_threshold_is_chosen_on_validation_and_decides_wherever_the_model_predicts(
    synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    threshold_chosen = ("train.is_threshold_chosen=true", "train.calibration_share=0.3")
    settings = sets("train.epochs=1", *threshold_chosen, "train.precision=fp32")
    assert lungsound("train", "demo", "--data", synthetic_corpus_dir, "--out", out, *settings) == 0
    calibration = load_model(out / "model.safetensors").calibration
    assert calibration is not None
    threshold = calibration.normal_threshold
    last = read_predictions(out / "epochs" / "last.csv")
    assert threshold is not None
    assert calibration == fit_calibration(last.of_part("calibration"), threshold_on=last.of_part("validation"))
    for predictions in (last, read_predictions(out / "predictions.csv")):
        assert np.array_equal(predictions.predicted, calibration.predicted(predictions.probabilities))
    assert f"Normal is predicted from a probability of {threshold:.4f} on" in (out / "report.md").read_text()
    # The files of the run stay as they are when the same calibration is kept once more, and when it is evaluated again.
    before = {name: (out / name).read_bytes() for name in ("model.safetensors", "predictions.csv")}
    assert lungsound("calibrate", out, "--keep") == 0
    assert lungsound("evaluate", out) == 0
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_published_run_holds_nobody_out_and_is_not_calibrated(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    published = sets("data.protocol=published", "train.is_test_watched=false", "train.epochs=1")
    assert lungsound("train", "demo", "--data", synthetic_corpus_dir, "--out", out, *published) == 0
    assert load_model(RunFolder(out).model).calibration is None
    assert not Predictor.load(out).is_calibrated
    answers = read_predictions(out / "epochs" / "last.csv")
    assert set(answers.parts) == {"test"}
    assert "validation_score" not in (out / "log.csv").read_text()
    report = (out / "report.md").read_text()
    assert "| chosen on validation | none (no patient was held out) |" in report
    assert "| chosen on test (as published) | none (not watched) |" in report
    facts = RunFolder(out).facts()
    assert facts.num_cycles["train"] == len(read_corpus(synthetic_corpus_dir).part("train"))


def test_a_run_is_kept_without_validation_rows_and_reads_back(tmp_path: Path, run: Path) -> None:
    keep_run(run, tmp_path / "kept", columns=("last", "test"))
    kept = read_predictions(tmp_path / "kept" / "epochs" / "last.csv.gz")
    whole = read_predictions(run / "epochs" / "last.csv")
    rows = [row for row, part in enumerate(whole.parts) if part != "validation"]
    assert 0 < len(kept.keys) == len(rows) < len(whole.keys)
    assert kept.predicted.tolist() == whole.predicted[rows].tolist()
    assert np.abs(kept.probabilities - whole.probabilities[rows]).max() <= 5e-5
    facts = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert facts["epochs"]["last"] == 2
    assert set(facts["patients"]["validation"]) == set(whole.of_part("validation").patients)
    assert len(facts["patients"]["train"]) == facts["num_patients"]["train"]
    assert "root" not in json.dumps(facts["settings"])


def test_keeping_a_run_says_what_was_written(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "study" / "method" / "seed0"
    assert lungsound("study", "keep", run, kept, "--column", "last") == 0
    written = [f"written: {kept / 'epochs' / 'last.csv.gz'}", f"written: {kept / 'run.json'}"]
    assert capsys.readouterr().out.splitlines() == written


@pytest.mark.slow
def test_each_device_is_left_out_in_turn(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cross"
    command = ("cross", "demo", "--data", synthetic_corpus_dir, "--out", out, *sets("train.epochs=1"))
    assert lungsound(*command) == 0
    corpus = read_corpus(synthetic_corpus_dir)
    devices = sorted({recording.device for recording in corpus.recordings if recording.device})
    page = (out / "cross.md").read_text()
    for device in devices:
        (folder,) = (out / "runs").glob(f"*device_{device}/seed0")
        answers = read_predictions(folder / "predictions.csv")
        assert set(answers.devices) == {device}
        facts = RunFolder(folder).facts()
        assert not set(facts.patients["train"]) & set(answers.patients)
        tested = f"| {device} | {len(answers.keys)} | {len(set(answers.patients))} |"
        assert f"{tested} {facts.num_cycles['train']} | {len(facts.patients['train'])} |" in page
    assert f"| all together | {len(corpus.cycles)} |" in page
    assert (out / "cross.html").is_file()
    capsys.readouterr()
    assert lungsound(*command) == 0  # nothing is trained twice
    assert capsys.readouterr().out.count("done already") == len(devices)


@pytest.mark.slow
def test_a_model_is_tried_on_another_corpus_with_the_labels_that_are_lost(
    synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    table = tmp_path / "other"
    assert lungsound("data", "convert", synthetic_corpus_dir, "--to", "table", "--out", table, "--lossy") == 0
    out = tmp_path / "cross"
    command = ("cross", "demo", "--data", synthetic_corpus_dir, "--on", table, "--out", out, *sets("train.epochs=1"))
    assert lungsound(*command) == 0
    page = (out / "cross.md").read_text()
    assert "nothing is lost" in page
    rows = [line.split(" | ")[1:] for line in page.splitlines() if " | test | " in line]
    assert len(rows) == 2
    assert rows[0] == rows[1]  # the same sounds


@pytest.mark.slow
def test_corpora_of_one_name_have_a_line_and_a_folder_each(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    there = tmp_path / "far" / synthetic_corpus_dir.name
    assert lungsound("data", "synthesize", there, "--patients", 5, "--seed", 7) == 0
    out = tmp_path / "cross"
    command = ("cross", "demo", "--data", synthetic_corpus_dir, "--on", there, "--out", out, *sets("train.epochs=1"))
    assert lungsound(*command) == 0
    home, other = short_names([synthetic_corpus_dir, there])
    lines = [line for line in (out / "cross.md").read_text().splitlines() if " | test | " in line]
    numbers = [len(read_corpus(folder).part("test")) for folder in (synthetic_corpus_dir, there)]
    assert [line.split(" | ")[:3] for line in lines] == [
        [f"| {name}", "test", str(number)] for name, number in zip((home, other), numbers, strict=True)
    ]
    (folder,) = (out / "runs").glob("*/seed0")
    assert len(read_predictions(folder / f"on-{other}" / "predictions.csv").keys) == numbers[1]


OWN_WORDS = {"normal": "clear", "crackle": "crepitations", "wheeze": "whistle", "both": "mixed"}


@pytest.fixture(scope="module")
def own_words(synthetic_corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The synthetic corpus as a table in words of its own, and the label map that reads them."""
    folder = tmp_path_factory.mktemp("own")
    head, lines = "path,start_s,end_s,label,patient,split", []
    corpus = read_corpus(synthetic_corpus_dir)
    for cycle in corpus.cycles:
        recording = cycle.recording
        where = f"{recording.path},{cycle.start_s},{cycle.end_s}"
        lines.append(f"{where},{OWN_WORDS[cycle.word]},{recording.patient},{corpus.split[recording.name]}")
    (folder / "own.csv").write_text("\n".join([head, *lines]))
    classes = "".join(f'"{own}" = "{word}"\n' for word, own in OWN_WORDS.items())
    (folder / "own.toml").write_text(f'label_set = "sound4"\n[classes]\n{classes}')
    return folder / "own.csv", folder / "own.toml"


@pytest.mark.slow
def test_a_corpus_in_words_of_its_own_is_evaluated(
    run: Path, own_words: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, label_map = own_words
    command = ("evaluate", run, "--data", table, "--out", tmp_path / "report")
    assert lungsound(*command) == 2
    assert "--label-map FILE" in capsys.readouterr().err
    assert lungsound(*command, "--label-map", label_map) == 0
    answers, home = (read_predictions(folder / "predictions.csv") for folder in (tmp_path / "report", run))
    assert sorted(answers.labels) == sorted(home.labels)
    report = (tmp_path / "report" / "report.md").read_text()
    assert re.search(
        r"- Data: table, \d+ recordings; labels read by own.toml; split that of the table; tested on", report
    )


@pytest.mark.slow
def test_a_run_on_words_of_its_own_is_evaluated_and_crossed(
    synthetic_corpus_dir: Path, own_words: tuple[Path, Path], tmp_path: Path
) -> None:
    table, label_map = own_words
    out = tmp_path / "run"
    own = sets("train.epochs=1", f"data.label_map={label_map}")
    assert lungsound("train", "demo", "--data", table, "--out", out, *own) == 0
    assert lungsound("evaluate", out, "--data", table, "--out", tmp_path / "again") == 0
    again, first = (read_predictions(folder / "predictions.csv") for folder in (tmp_path / "again", out))
    assert again.keys == first.keys
    assert np.allclose(again.probabilities, first.probabilities, atol=1e-6)
    assert lungsound("evaluate", out, "--data", synthetic_corpus_dir, "--out", tmp_path / "there") == 0
    cross = (
        "cross",
        "demo",
        "--data",
        synthetic_corpus_dir,
        "--on",
        f"{table}={label_map}",
        "--out",
        tmp_path / "cross",
    )
    assert lungsound(*cross, *sets("train.epochs=1")) == 0
    page = (tmp_path / "cross" / "cross.md").read_text()
    assert "label map own.toml to sound4: nothing is lost" in page
    rows = [line.split(" | ")[1:] for line in page.splitlines() if " | test | " in line]
    assert len(rows) == 2
    assert rows[0] == rows[1]  # the same sounds


def test_a_corpus_of_one_device_cannot_leave_it_out(
    synthetic_corpus_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = read_corpus(synthetic_corpus_dir).recordings[0].device
    command = ("cross", "demo", "--data", synthetic_corpus_dir, "--out", tmp_path / "x")
    assert lungsound(*command, *sets(f'data.devices=["{device}"]')) == 2
    assert "leaving one device out needs two or more" in capsys.readouterr().err
