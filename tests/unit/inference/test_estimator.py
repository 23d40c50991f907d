"""The classifier with scikit-learn's methods: it is what `train` makes, and scikit-learn's tools take it."""

import importlib.metadata
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from lungsound.audio.io import read_waveform
from lungsound.config import RunConfig
from lungsound.data.corpus import Corpus, Cycle
from lungsound.data.reader import read_corpus
from lungsound.errors import AudioError, LungsoundError, SettingsError
from lungsound.inference.estimator import LungSoundClassifier, label_set_of
from lungsound.inference.prediction import Reason
from lungsound.inference.predictor import Predictor
from lungsound.recipe import train
from lungsound.training.run import RunFolder

RATE_HZ = 4000
SMALL = {"train.epochs": 1, "train.batch_size": 8, "audio.duration_s": 1.0}
# scikit-learn's checks that need no X; the others give 2-D float matrices, which are no sounds.
CHECKS = (
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
)


def small(**more: Any) -> LungSoundClassifier:
    return LungSoundClassifier(settings=SMALL, device="cpu", **more)


def described(cycles: tuple[Cycle, ...]) -> tuple[list[tuple[str, float, float]], list[str], list[str]]:
    """X, y and groups."""
    rows = [(str(cycle.recording.path), cycle.start_s, cycle.end_s) for cycle in cycles]
    return rows, [cycle.word for cycle in cycles], [cycle.recording.patient for cycle in cycles]


@pytest.fixture(scope="module")
def cycles(synthetic_corpus_dir: Path) -> tuple[Cycle, ...]:
    """Half of the cycles of eight patients."""
    return read_corpus(synthetic_corpus_dir).cycles[::2]


@pytest.fixture(scope="module")
def run_dir(cycles: tuple[Cycle, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of its own folder, on the test set of which a report is asked for; what is in it is tested elsewhere."""
    out = tmp_path_factory.mktemp("estimator") / "run"
    X, y, groups = described(cycles)
    fitted, reported = small(out=out), []

    def report_on(run: RunFolder, corpus: Corpus, rows: Sequence[int], **_: object) -> Path:
        reported.append({corpus.cycles[row].recording.patient for row in rows})
        return run.path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lungsound.recipe.report_on", report_on)
        assert fitted.fit(X, y, groups) is fitted
    assert reported == [set(RunFolder(out).facts().patients["test"])]
    return out


def test_probabilities_are_those_of_the_run_in_the_order_of_the_classes(
    cycles: tuple[Cycle, ...], run_dir: Path
) -> None:
    X, y, _ = described(cycles[:6])
    loaded = LungSoundClassifier.load(run_dir)
    assert loaded.classes_.tolist() == ["both", "crackle", "normal", "wheeze"]
    shuffled = np.random.default_rng(0).permutation(len(X))
    found = loaded.predict_proba([X[place] for place in shuffled])
    predictor = Predictor.load(run_dir)
    for row, (path, start_s, end_s) in zip(found, [X[place] for place in shuffled], strict=True):
        (answer,) = predictor.predict(path, spans_s=[(start_s, end_s)]).cycles
        assert row.tolist() == pytest.approx([answer.probabilities[name] for name in loaded.classes_], abs=1e-5)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)
    predicted = loaded.classes_[found[shuffled.argsort()].argmax(axis=1)].tolist()
    assert loaded.predict(X).tolist() == predicted
    assert loaded.score(X, y) == accuracy_score(y, predicted)


def test_what_is_withheld_has_its_reasons_in_the_order_of_the_sounds(cycles: tuple[Cycle, ...], run_dir: Path) -> None:
    """Of a model that was not measured; the classes are the same, as scikit-learn needs one for each sound."""
    X, _, _ = described(cycles[:6])
    loaded = LungSoundClassifier.load(run_dir)
    loaded.predictor_.trained = replace(loaded.predictor_.trained, evidence=None)
    found = loaded.predict_with_reasons(X[::-1])
    assert [(each.start_s, each.end_s) for each in found] == [tuple(row[1:]) for row in X[::-1]]
    assert [each.best_guess for each in found] == loaded.predict(X)[::-1].tolist()
    assert all(each.label == "uncertain" and Reason.NOT_MEASURED in each.reasons for each in found)
    assert loaded.predict_with_reasons([]) == []
    assert loaded.predict([]).shape == (0,)
    assert loaded.predict_proba([]).shape == (0, 4)


@pytest.mark.parametrize(("threshold", "is_normal"), [(0.0, True), (1.0, False)])
def test_a_threshold_is_that_of_the_normal_class(
    threshold: float, is_normal: bool, cycles: tuple[Cycle, ...], run_dir: Path
) -> None:
    X, _, _ = described(cycles[:3])
    loaded = LungSoundClassifier.load(run_dir)
    trained = loaded.predictor_.trained
    assert trained.calibration is not None
    calibration = trained.calibration.model_copy(update={"normal_threshold": threshold})
    loaded.predictor_.trained = replace(trained, calibration=calibration)
    assert (loaded.predict(X) == "normal").tolist() == [is_normal] * 3


def test_no_patient_is_in_two_parts_of_the_run(cycles: tuple[Cycle, ...], run_dir: Path) -> None:
    facts = RunFolder(run_dir).facts()
    parts = facts.patients
    everybody = [patient for part in ("train", "validation", "test") for patient in parts[part]]
    assert all(parts[part] for part in ("train", "validation", "test"))
    assert sorted(everybody) == sorted({cycle.recording.patient for cycle in cycles})
    assert sum(facts.num_cycles.values()) == len(cycles)


def test_a_row_a_path_and_a_waveform_of_the_same_sound_are_answered_alike(
    cycles: tuple[Cycle, ...], run_dir: Path
) -> None:
    recording = cycles[0].recording
    waveform = read_waveform(recording.path, sample_rate_hz=recording.sample_rate_hz)
    loaded = LungSoundClassifier.load(run_dir, sample_rate_hz=recording.sample_rate_hz)
    whole = (recording.path, 0.0, recording.duration_s)
    found = loaded.predict_proba([str(recording.path), recording.path, whole, waveform, waveform.astype(np.float64)])
    np.testing.assert_allclose(found, np.repeat(found[:1], 5, axis=0), atol=1e-6)
    as_arrays = loaded.predict_proba(np.array([whole], dtype=object))
    np.testing.assert_allclose(as_arrays, found[:1], atol=1e-6)


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[str]]]:
    """The patients of each run in memory, by part: its folder is gone after fit."""
    found = []

    def spied(config: RunConfig, out: Path, **more: Any) -> Path:
        path = train(config, out, **more)
        patients = RunFolder(out).facts().patients
        found.append({part: list(names) for part, names in patients.items()})
        return path

    monkeypatch.setattr("lungsound.inference.estimator.train", spied)
    return found


def test_scikit_learn_validates_it_over_patients(
    cycles: tuple[Cycle, ...], trained_on: list[dict[str, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On waveforms, with scores of probabilities, which need the order of the classes; nobody is held for a report."""
    monkeypatch.setattr("lungsound.recipe.report_on", None)  # what is kept in memory pays for no report
    sounds = {cycle.recording.path: read_waveform(cycle.recording.path, sample_rate_hz=RATE_HZ) for cycle in cycles}
    cuts = [(int(cycle.start_s * RATE_HZ), int(cycle.end_s * RATE_HZ)) for cycle in cycles]
    X = [sounds[c.recording.path][first:end] for c, (first, end) in zip(cycles, cuts, strict=True)]
    _, y, groups = described(cycles)
    scores = cross_val_score(
        small(sample_rate_hz=RATE_HZ),
        X,
        y,
        groups=groups,
        params={"groups": groups},
        cv=GroupKFold(2),
        scoring="neg_log_loss",
        error_score="raise",
    )
    assert np.isfinite(scores).all()
    assert (scores > -3).all()  # of four classes by chance: -1.4
    for strict in trained_on:
        assert strict["test"] == []
        assert min(len(strict["train"]), len(strict["validation"])) > 0
        assert len({*strict["train"], *strict["validation"]}) == len(set(groups)) // 2


def test_in_memory_the_published_protocol_tests(
    cycles: tuple[Cycle, ...], trained_on: list[dict[str, list[str]]]
) -> None:
    X, y, groups = described(cycles)
    small().set_params(settings={**SMALL, "data.protocol": "published"}).fit(X, y, groups)
    (published,) = trained_on
    assert published["validation"] == []
    assert sorted(published["train"] + published["test"]) == sorted(set(groups))


class Frame:
    """What is used of a data frame of pandas or polars: its length, and its rows as an array."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return iter(["path", "start_s", "end_s"])  # its columns

    def to_numpy(self) -> NDArray[Any]:
        return np.array(self.rows, dtype=object)


def test_it_takes_a_pipeline_and_data_frames(cycles: tuple[Cycle, ...]) -> None:
    X, y, groups = described(cycles)
    pipeline = Pipeline([("same", FunctionTransformer()), ("model", small())])
    fitted = clone(pipeline).fit(Frame(X), Frame(y), model__groups=Frame(groups))
    np.testing.assert_array_equal(fitted.predict_proba(X[:5]), fitted.predict_proba(Frame(X[:5])))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_scikit_learns_own_checks(check: Any) -> None:
    check("LungSoundClassifier", LungSoundClassifier())


def test_it_is_a_classifier_that_can_be_cloned_and_pickled(cycles: tuple[Cycle, ...], run_dir: Path) -> None:
    given = LungSoundClassifier("ce", settings={"train.epochs": 2}, random_state=3)
    assert is_classifier(given)
    assert clone(given).get_params() == given.get_params()
    assert repr(given) == "LungSoundClassifier(recipe='ce', settings={'train.epochs': 2}, random_state=3)"
    assert given.set_params(random_state=4).random_state == 4
    with pytest.raises(SettingsError, match="no parameter 'epochs': the parameters are recipe, settings, out"):
        given.set_params(epochs=3)
    X, _, _ = described(cycles[:4])
    loaded = LungSoundClassifier.load(run_dir)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loaded)).predict_proba(X), loaded.predict_proba(X))


def test_scikit_learn_is_no_dependency_at_runtime() -> None:
    needed = importlib.metadata.requires("lungsound") or []
    assert [line for line in needed if line.startswith("scikit-learn") and "extra" not in line] == []
    assert sklearn.__version__


def test_a_run_is_not_written_over(cycles: tuple[Cycle, ...], run_dir: Path) -> None:
    before = (run_dir / "corpus" / "table.csv").read_bytes()
    X, y, groups = described(cycles[:40])
    with pytest.raises(SettingsError, match="already holds a run"):
        small(out=run_dir).fit(X, y, groups)
    assert (run_dir / "corpus" / "table.csv").read_bytes() == before


def test_labels_name_their_label_set() -> None:
    assert label_set_of(["crackle", "normal"]).name == "sound4"
    assert label_set_of(["abnormal", "normal"]).name == "sound2"
    assert label_set_of(["Normal", "Stridor"]).name == "sprsound_event7"
    assert label_set_of(["Normal", "DAS"]).name == "sprsound_record5"
    for words in (["0", "1"], ["normal", "Stridor"], []):
        with pytest.raises(SettingsError, match="are not words of one label set: y must have those of normal, crackle"):
            label_set_of(words)


NOISE = np.zeros(8000)


@pytest.mark.parametrize(
    ("given", "X", "y", "groups", "told"),
    [
        ({}, ["a.wav"], ["normal", "both"], None, "1 sounds with 2 labels"),
        ({}, ["a.wav"], ["normal"], [1, 2], "must have the same length"),
        ({}, None, ["normal"], None, "X is 'None': give a list, one entry for each sound"),
        ({}, "a.wav", ["normal"], None, "X is 'a.wav': give a list"),
        ({}, [NOISE], None, None, "y is 'None': give a list"),
        ({}, [NOISE], ["normal"], None, r"say at what rate, LungSoundClassifier\(sample_rate_hz=4000\)"),
        ({"sample_rate_hz": 0}, [NOISE], ["normal"], None, "say at what rate"),
        ({}, [NOISE[None]], ["normal"], None, r"X\[0\] has 2 dimensions of type float64"),
        ({}, [NOISE.astype(np.int16)], ["normal"], None, "of type int16: .*divide by 32768"),
        ({}, [3], ["normal"], None, r"X\[0\] has 0 dimensions"),
        ({}, [("a.wav", 1.0)], ["normal"], None, r"X\[0\] has 1 dimensions of type <U"),
        ({}, [NOISE * np.nan], ["normal"], None, r"X\[0\] has no samples, or some that are infinite or not a number"),
        ({}, [NOISE[:0]], ["normal"], None, r"X\[0\] has no samples"),
        ({}, [("a.wav", 2.0, 1.0)], ["normal"], None, r"X\[0\] is from 2.0 to 1.0: give seconds from 0"),
        ({}, [("a.wav", "0", "x")], ["normal"], None, r"X\[0\] is from 0 to x"),
        ({}, [("a.wav", 0.0, np.nan)], ["normal"], None, r"X\[0\] is from 0.0 to nan"),
        ({"settings": "train.epochs=1"}, [NOISE], ["normal"], None, "settings 'train.epochs=1': give a mapping"),
        ({"test_share": None}, ["a.wav"], ["normal"], None, "test_share is None"),
        ({"sample_rate_hz": 4000}, [NOISE] * 3, ["normal"] * 3, [1, 1, 2], "sounds of 2 patients"),
        ({"test_share": 1.0}, ["a.wav"], ["normal"], None, "test_share is 1.0"),
        ({"settings": {"train.epoch": 1}}, ["a.wav"], ["normal"], None, "unknown key 'train.epoch'"),
        ({"recipe": "none"}, ["a.wav"], ["normal"], None, "no recipe 'none'"),
        ({}, ["a.wav", "b.wav", "c.wav"], ["normal"] * 3, None, r"3 problem\(s\) .*/a\.wav"),
    ],
)
def test_a_mistake_is_told_in_one_line(given: Any, X: Any, y: Any, groups: Any, told: str, tmp_path: Path) -> None:
    given = {"recipe": "demo", **given}
    with pytest.raises(LungsoundError, match=told) as caught:
        LungSoundClassifier(given.pop("recipe"), out=tmp_path / "run", **given).fit(X, y, groups)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"file cannot be made a folder .*: give another out"):
        small(out=tmp_path / "file").fit(["a.wav"], ["normal"])


def test_in_memory_two_patients_are_enough_and_one_is_told() -> None:
    with pytest.raises(
        SettingsError, match=r"sounds of 1 patients .*: fit needs 2 or more, to train and to calibrate$"
    ):
        small().fit(["a.wav", "b.wav"], ["normal"] * 2, [1, 1])


def test_a_score_is_of_as_many_labels_as_sounds(run_dir: Path) -> None:
    loaded = LungSoundClassifier.load(run_dir)
    for X, y in (([], []), (["a.wav"], [])):
        with pytest.raises(SettingsError, match=f"{len(X)} sounds with 0 labels"):
            loaded.score(X, y)


def test_what_is_not_fitted_does_not_answer(tmp_path: Path, run_dir: Path) -> None:
    with pytest.raises(SettingsError, match="not fitted yet: call fit"):
        LungSoundClassifier().predict(["a.wav"])
    with pytest.raises(AudioError, match="cannot be read"):
        LungSoundClassifier.load(run_dir).predict([tmp_path / "a.wav"])


def test_settings_become_those_of_the_run(run_dir: Path) -> None:
    config = json.loads((run_dir / "config.json").read_text())
    assert config["name"] == "demo"
    assert (config["train"]["epochs"], config["audio"]["duration_s"]) == (1, 1.0)
    assert config["data"]["root"] == str(run_dir / "corpus" / "table.csv")
