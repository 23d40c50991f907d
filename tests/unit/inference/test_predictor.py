"""A recording in, labelled cycles out."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from benchmarks.sounds import speech

from lungsound.audio.filter_bank import LogMel, normalize
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.audio.io import COUNTS_TOO_LITTLE, NO_LENGTH, fade, read_waveform
from lungsound.audio.quality import MOSTLY_SILENT, SPEECH, TOO_SHORT
from lungsound.config import AudioSettings, ModelSettings
from lungsound.data.icbhi import canonical_name, read_icbhi
from lungsound.errors import AnnotationError, AudioError, WeightsError
from lungsound.evaluation.calibration import Calibration, fit_calibration
from lungsound.evaluation.out_of_domain import Gate, fit_domain, spectral_features
from lungsound.inference.engines import make
from lungsound.inference.prediction import Reason, aggregate_recordings
from lungsound.inference.predictor import (
    OTHER_STETHOSCOPE,
    SILENT_CYCLES,
    STETHOSCOPE_NOT_STATED,
    UNLIKE,
    FindBy,
    Predictor,
)
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import make_classifier
from lungsound.training.model_file import TrainedModel, load_model, save_model
from tests.unit.evaluation.calibrated import GOOD_EVIDENCE, drawn_predictions
from tests.unit.inference.models import NORMALIZED, saved_model

AUDIO = AudioSettings(duration_s=1.0, num_mels=32)
ARCHITECTURE = ModelSettings(size="micro", stride=16)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_classifier(ARCHITECTURE, FrontEnd(AUDIO), LABEL_SETS["sound4"])
    model.initialize(torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.head[1].weight, std=3.0, generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    facts = {"audio": AUDIO, "architecture": ARCHITECTURE, "label_set": LABEL_SETS["sound4"], "evidence": GOOD_EVIDENCE}
    save_model(path, model, mean=-8.0, std=3.0, **facts)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """3.2 s of noise at 8 kHz, which swells twice."""
    path = tmp_path / "any name.wav"
    swelling = 1.1 - np.cos(2 * np.pi * np.arange(25600) / 8000 / 1.6)
    soundfile.write(path, 0.07 * swelling * np.random.default_rng(0).normal(0, 1, 25600), 8000, subtype="PCM_16")
    return path


def test_an_answer_is_the_models_for_the_filter_bank_of_the_span(model_path: Path, recording: Path) -> None:
    trained = load_model(model_path)
    spans_s = [(0.2, 0.9), (1.0, 3.1)]
    answers = Predictor.load(model_path).predict(recording, spans_s=spans_s).cycles
    sound = trained.front_end.read(recording)
    for answer, (start_s, end_s) in zip(answers, spans_s, strict=True):
        clip = trained.front_end.fit(trained.front_end.cut(sound, start_s=start_s, end_s=end_s).waveform)
        fbank = normalize(trained.front_end.filter_banks(clip[np.newaxis]), mean=-8.0, std=3.0)
        expected = trained.model(torch.from_numpy(fbank)).softmax(1)[0].tolist()
        assert list(answer.probabilities) == ["normal", "crackle", "wheeze", "both"]
        assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-5)
        assert answer.probabilities[answer.best_guess] == max(answer.probabilities.values())
        assert (answer.start_s, answer.end_s) == (start_s, end_s)


@pytest.mark.parametrize("find_by", ["annotation", "segmentation", "windows"])
def test_a_normalised_cycle_is_less_the_spectrum_of_its_complete_recording(
    find_by: FindBy, recording: Path, tmp_path: Path
) -> None:
    trained = saved_model(tmp_path / "run", audio=NORMALIZED)
    recording.with_suffix(".txt").write_text("0.2\t0.9\t0\t0\n1.0\t3.1\t0\t0\n")
    waveform = fade(read_waveform(recording, sample_rate_hz=16000), num_samples=1000)
    spectrum = trained.front_end.filter_banks(waveform[np.newaxis]).mean(axis=1)
    predicted = Predictor(trained, find_by=find_by).predict(recording)
    assert len(predicted.cycles) >= 2
    for cycle in predicted.cycles:
        clip = trained.front_end.fit(waveform[int(cycle.start_s * 16000) : int(cycle.end_s * 16000)])
        fbank = normalize(trained.front_end.filter_banks(clip[np.newaxis]) - spectrum, mean=-8.0, std=3.0)
        expected = trained.model(torch.from_numpy(fbank)).softmax(1)[0].tolist()
        assert list(cycle.probabilities.values()) == pytest.approx(expected, abs=1e-5)
    sound, rate_hz = soundfile.read(recording)
    soundfile.write(recording, 2 * sound, rate_hz, subtype="FLOAT")
    as_loud = Predictor(trained, find_by=find_by).predict(recording)
    for cycle, louder in zip(predicted.cycles, as_loud.cycles, strict=True):
        assert list(louder.probabilities.values()) == pytest.approx(list(cycle.probabilities.values()), abs=1e-3)


def test_a_run_folder_and_its_model_file_are_the_same(model_path: Path, recording: Path) -> None:
    by_file, by_folder = Predictor.load(model_path), Predictor.load(str(model_path.parent))
    assert by_file.predict(recording) == by_folder.predict(str(recording))
    assert by_file.classes == ("normal", "crackle", "wheeze", "both")


def test_the_box_is_the_default_and_a_name_before_a_folder(
    box: Path, model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box").mkdir()
    shutil.copy(model_path, "box")
    assert [Predictor.load().path, Predictor.load("box").path] == [box, box]
    for folder in ("./box", Path("box"), tmp_path / "box"):
        assert Predictor.load(folder).path == Path(folder) / "model.safetensors"


def test_cycles_of_the_annotation_beside_it_are_answered_in_order(model_path: Path, recording: Path) -> None:
    recording.with_suffix(".txt").write_text("1.5\t2.5\t1\t1\n0.1\t1.2\t0\t0\n")
    answers = Predictor.load(model_path).predict(recording).cycles
    assert [(answer.start_s, answer.end_s) for answer in answers] == [(0.1, 1.2), (1.5, 2.5)]
    recording.with_suffix(".txt").write_text("1.5\t2.5\t0\t0\n0.1\t1.2\t1\t1\n")
    assert Predictor.load(model_path).predict(recording).cycles == answers


def test_without_breathing_it_is_cut_into_windows(model_path: Path, recording: Path) -> None:
    soundfile.write(recording, np.random.default_rng(0).normal(0, 0.1, 25600), 8000, subtype="PCM_16")
    answer = Predictor.load(model_path).predict(recording)
    assert answer.cycles_from == "windows"
    spans_s = [(cycle.start_s, cycle.end_s) for cycle in answer.cycles]
    assert spans_s == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0), (1.5, 2.5), (2.0, 3.0), (2.2, 3.2)]
    assert any(remark.startswith("no breathing found: ") for remark in answer.quality)


def test_breathing_is_found_and_may_not_be_looked_for(
    model_path: Path, synthetic_corpus_dir: Path, tmp_path: Path
) -> None:
    found = sorted(synthetic_corpus_dir.rglob("*.wav"))[0]
    path = tmp_path / "alone.wav"
    shutil.copy(found, path)
    truth = Predictor.load(model_path).predict(found)
    assert truth.cycles_from == "annotation"
    breathing = Predictor.load(model_path).predict(path)
    assert breathing.cycles_from == "segmentation"
    assert abs(len(breathing.cycles) - len(truth.cycles)) <= 2
    for find_by in ("windows", "segmentation"):
        assert Predictor.load(model_path, find_by=find_by).predict(found).cycles_from == find_by  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match=r"no annotation alone\.txt"):
        Predictor.load(model_path, find_by="annotation").predict(path)


def test_silence_is_never_normal(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(16000), 8000, subtype="PCM_16")
    answer = Predictor.load(model_path).predict(path)
    assert answer.aggregate is None
    assert answer.cycles == ()
    assert "silent" in answer.quality


def test_silence_does_not_tell_of_the_stethoscope(model_path: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write(tmp_path / "half.wav", np.concatenate([np.zeros(8000), noise]), 8000, subtype="PCM_16")
    trained = load_model(model_path)
    ones = np.ones(trained.model.encoder.dim + 2 * trained.front_end.audio.num_mels, np.float32)
    of_all = Gate(0 * ones, ones, np.concatenate([ones, ones]), np.full(1, -1e9, np.float32))
    predictor = Predictor(replace(trained, doubted=of_all))
    for start_s, is_doubted in ((0.0, False), (1.0, True)):
        (cycle,) = predictor.predict(tmp_path / "half.wav", spans_s=[(start_s, start_s + 1)]).cycles
        assert (Reason.NOT_BETTER_THAN_NORMAL in cycle.reasons) == is_doubted


def test_silent_cycles_do_not_count_in_the_whole(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    noise[8000:] = 0
    soundfile.write(path, noise, 8000, subtype="PCM_16")
    path.with_suffix(".txt").write_text("0\t0.9\t0\t0\n1.1\t1.9\t0\t0\n")
    answer = Predictor.load(model_path).predict(path)
    assert [cycle.start_s for cycle in answer.cycles] == [0.0]
    assert answer.aggregate is not None
    assert answer.aggregate.probabilities == answer.cycles[0].probabilities
    assert SILENT_CYCLES in answer.quality


def test_what_cannot_be_answered_is_named(model_path: Path, recording: Path, tmp_path: Path) -> None:
    predictor = Predictor.load(model_path)
    with pytest.raises(AudioError, match=r"none\.wav"):
        predictor.predict(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="no samples from 4 s to 5 s"):
        predictor.predict(recording, spans_s=[(4.0, 5.0)])
    recording.with_suffix(".TXT").write_text("notes of the nurse")
    with pytest.raises(AnnotationError, match=r"any name\.TXT line 1"):
        predictor.predict(recording)
    recording.with_suffix(".TXT").unlink()
    recording.with_suffix(".txt").write_text("0 1 0 0\n1 60 0 0\n")
    with pytest.raises(AnnotationError, match=r"any name\.txt line 2: cycle past the end"):
        predictor.predict(recording)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="give the folder of a run"):
        Predictor.load(tmp_path)


def test_of_an_interrupted_run_it_is_said_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"is not finished: 'lungsound train .* --resume' goes on") as caught:
        Predictor.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("num_patients", "is_scaled"), [(30, True), (4, False)])
def test_a_calibration_scales_probabilities_or_leaves_them(
    num_patients: int, is_scaled: bool, model_path: Path, recording: Path
) -> None:
    trained = load_model(model_path)
    assert not Predictor(trained).is_calibrated
    plain = Predictor(trained).predict(recording).cycles
    calibration = four_classes(fit_calibration(drawn_predictions(0, num_patients=num_patients, temperature=2.5)))
    calibrated = Predictor(replace(trained, calibration=calibration))
    assert calibrated.is_calibrated
    assert calibration.is_scaled == is_scaled
    answers = calibrated.predict(recording).cycles
    assert ([answer.probabilities for answer in answers] == [answer.probabilities for answer in plain]) != is_scaled


def test_a_threshold_for_normal_decides_for_cycles_recordings_and_patients(model_path: Path, recording: Path) -> None:
    trained = load_model(model_path)
    fitted = four_classes(fit_calibration(drawn_predictions(0)))
    for threshold, guesses in ((0.0, {"normal"}), (1.0, {"crackle", "wheeze", "both"})):
        calibration = fitted.model_copy(update={"normal_threshold": threshold})
        prediction = Predictor(replace(trained, calibration=calibration)).predict(recording, patient="1")
        assert {cycle.best_guess for cycle in prediction.cycles} <= guesses
        assert all(cycle.best_guess in cycle.possible for cycle in prediction.cycles)
        for aggregate in (prediction.aggregate, aggregate_recordings([prediction])):
            assert aggregate is not None
            others = {name: share for name, share in aggregate.probabilities.items() if name != "normal"}
            assert aggregate.best_guess == ("normal" if threshold == 0.0 else max(others, key=others.__getitem__))


def four_classes(calibration: Calibration) -> Calibration:
    """The calibration of three classes for those of the model."""
    sets = tuple(
        each.model_copy(update={"of_class": (0.0,) * 4, "num_class_patients": (each.num_patients,) * 4})
        for each in calibration.sets
    )
    return calibration.model_copy(update={"classes": ("normal", "crackle", "wheeze", "both"), "sets": sets})


def test_no_spans_give_no_answers(model_path: Path, recording: Path) -> None:
    assert Predictor.load(model_path).predict(recording, spans_s=[]).cycles == ()


def with_domain(model_path: Path, recording: Path, *, scale: float = 1.0) -> TrainedModel:
    """The model as if trained on windows of this recording, from eight patients, as loud as `scale` says."""
    trained = load_model(model_path)
    sound = Sound(scale * trained.front_end.read(recording).waveform)
    starts_s = np.linspace(0, 2.2, 80)
    parts = [trained.front_end.cut(sound, start_s=start_s, end_s=start_s + 1) for start_s in starts_s]
    features = spectral_features(trained.front_end.filter_banks_of(parts))
    patients = [f"p{row % 8}" for row in range(80)]
    return replace(trained, domain=fit_domain(features, patients, generator=np.random.default_rng(0)))


def test_what_is_like_the_training_part_is_answered_and_what_is_unlike_it_withheld(
    model_path: Path, recording: Path
) -> None:
    answer = Predictor(with_domain(model_path, recording)).predict(recording)
    assert answer.out_of_domain is not None
    assert 0.1 < answer.out_of_domain < 0.95
    assert UNLIKE not in answer.quality
    assert not any(cycle.is_uncertain for cycle in answer.cycles)
    strange = Predictor(with_domain(model_path, recording, scale=1e-3)).predict(recording)
    assert strange.out_of_domain == 1.0
    assert UNLIKE in strange.quality
    assert strange.aggregate is not None
    assert strange.aggregate.label == "uncertain"
    assert [cycle.best_guess for cycle in strange.cycles] == [cycle.best_guess for cycle in answer.cycles]
    assert Predictor(load_model(model_path)).predict(recording).out_of_domain is None


@pytest.mark.parametrize(
    ("name", "reason"), [("gate", Reason.NO_BREATHING), ("doubted", Reason.NOT_BETTER_THAN_NORMAL)]
)
def test_what_a_gate_stops_is_withheld(name: str, reason: Reason, model_path: Path, recording: Path) -> None:
    trained = load_model(model_path)
    cycles = [trained.front_end.cut(trained.front_end.read(recording), start_s=s, end_s=s + 0.9) for s in (0.0, 1.0)]
    ones = np.ones(trained.model.encoder.dim + 2 * trained.front_end.audio.num_mels, np.float32)
    asked = Gate(0 * ones, ones, np.concatenate([ones, 0 * ones]), np.zeros(1, np.float32))
    features = make("torch", trained).predict(cycles)[1]
    between = asked.scores(features).mean(keepdims=True)
    gate = replace(asked, threshold=between)
    with_gate: dict[str, Any] = {name: gate}
    predictor = Predictor(replace(trained, **with_gate))
    stopped = asked.scores(features) > between
    assert stopped.sum() == 1
    # Half of the cycles tell of the whole recording; where the stethoscope is stated, its own evidence counts.
    for stethoscope in (None, "Meditron"):
        expected = stopped if name == "gate" else np.array([stethoscope is None] * 2)
        answer = predictor.predict(recording, spans_s=[(0.0, 0.9), (1.0, 1.9)], stethoscope=stethoscope)
        assert [cycle.reasons == (reason,) for cycle in answer.cycles] == expected.tolist()
    now = datetime.now(UTC)
    assert predictor.provenance(now).settings[name] == gate.id
    assert Predictor(trained).provenance(now).settings[name] is None


def test_a_recording_is_doubted_with_half_of_its_cycles(model_path: Path, recording: Path) -> None:
    trained, spans_s = load_model(model_path), [(0.0, 0.9), (1.0, 1.9), (2.0, 2.9)]
    sound = trained.front_end.read(recording)
    features = make("torch", trained).predict([trained.front_end.cut(sound, start_s=s, end_s=e) for s, e in spans_s])[1]
    ones = np.ones(features.shape[1], np.float32)
    asked = Gate(0 * ones, ones, np.concatenate([ones, 0 * ones]), np.zeros(1, np.float32))
    lowest, middle, highest = np.sort(asked.scores(features))
    for threshold, is_doubted in ((highest, False), ((middle + highest) / 2, False), ((lowest + middle) / 2, True)):
        gate = replace(asked, threshold=np.full(1, threshold, np.float32))
        answer = Predictor(replace(trained, doubted=gate)).predict(recording, spans_s=spans_s)
        assert {Reason.NOT_BETTER_THAN_NORMAL in cycle.reasons for cycle in answer.cycles} == {is_doubted}


@pytest.mark.parametrize("kind", ["noise", "tone"])
@pytest.mark.parametrize("is_annotated", [False, True])
def test_a_steady_sound_is_no_breathing_however_its_cycles_are_given(
    kind: str, is_annotated: bool, model_path: Path, tmp_path: Path
) -> None:
    time_s = np.arange(64000) / 8000
    sound = {"noise": np.random.default_rng(0).normal(0, 0.3, 64000), "tone": np.sin(2 * np.pi * 440 * time_s)}[kind]
    soundfile.write(tmp_path / "steady.wav", 0.3 * sound, 8000, subtype="PCM_16")
    if is_annotated:
        lines = (f"{start_s:.1f}\t{start_s + 0.6:.1f}\t0\t0\n" for start_s in np.arange(0, 7, 0.6))
        (tmp_path / "steady.txt").write_text("".join(lines))
    answer = Predictor.load(model_path).predict(tmp_path / "steady.wav")
    assert {cycle.reasons for cycle in answer.cycles} == {(Reason.NO_BREATHING,)}
    assert any(remark.startswith("no breathing found: ") for remark in answer.quality)


def test_a_score_is_the_median_of_its_sounding_cycles(model_path: Path, recording: Path) -> None:
    trained = with_domain(model_path, recording)
    assert trained.domain is not None
    sound, rate_hz = soundfile.read(recording)
    sound[16000:] = 0
    soundfile.write(recording, sound, rate_hz, subtype="PCM_16")
    recording.with_suffix(".txt").write_text("0\t0.9\t0\t0\n0.5\t1.5\t0\t0\n1\t2\t0\t0\n2.1\t3.1\t0\t0\n")
    loaded = trained.front_end.read(recording)
    cut = [trained.front_end.cut(loaded, start_s=a, end_s=b) for a, b in ((0, 0.9), (0.5, 1.5), (1, 2))]
    scores = trained.domain.scores(spectral_features(trained.front_end.filter_banks_of(cut)))
    answer = Predictor(trained).predict(recording)
    assert answer.out_of_domain == sorted(scores.tolist())[1]
    assert len(answer.cycles) == 3


def test_a_device_that_nobody_names_or_that_was_not_trained_on_is_remarked_on(
    model_path: Path, recording: Path
) -> None:
    predictor = Predictor(replace(load_model(model_path), devices=("Litt3200", "Meditron")))
    assert STETHOSCOPE_NOT_STATED in predictor.predict(recording).quality
    assert OTHER_STETHOSCOPE in predictor.predict(recording, stethoscope="AKGC417L").quality
    known = predictor.predict(recording, stethoscope="meditron").quality
    assert STETHOSCOPE_NOT_STATED not in known
    assert OTHER_STETHOSCOPE not in known
    nowhere_trained = Predictor(load_model(model_path))
    assert predictor.predict(recording, stethoscope="AKGC417L").cycles[0].reasons == (Reason.STETHOSCOPE_OUTSIDE,)
    assert predictor.predict(recording).cycles[0].reasons == ()
    for name in (None, "AKGC417L"):
        remarks = set(nowhere_trained.predict(recording, stethoscope=name).quality)
        assert not {STETHOSCOPE_NOT_STATED, OTHER_STETHOSCOPE} & remarks, name


def test_a_score_is_remarked_on_from_nineteen_twentieths(
    model_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(with_domain(model_path, recording))
    for score, expected in ((0.949, ()), (0.95, (UNLIKE,)), (1.0, (UNLIKE,))):
        scores = np.full(6, score)
        monkeypatch.setattr(type(predictor.trained.domain), "scores", lambda *_, scores=scores: scores)
        answer = predictor.predict(recording, spans_s=[(start_s, start_s + 0.5) for start_s in range(3)] * 2)
        assert (answer.out_of_domain, answer.quality) == (score, expected)
        expected = (Reason.OUT_OF_DOMAIN,) if score == 1.0 else ()
        assert {cycle.reasons for cycle in answer.cycles} == {expected}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (TOO_SHORT, lambda sound: sound[:8000]),
        (MOSTLY_SILENT, lambda sound: sound * (np.arange(len(sound)) % 8000 < 3500)),
        (SPEECH, lambda sound: 0.1 * speech(len(sound), 8000, np.random.default_rng(0))),
    ],
)
def test_an_answer_is_withheld_where_there_is_too_little_breath(
    kind: str, change: Callable[[np.ndarray], np.ndarray], model_path: Path, recording: Path
) -> None:
    soundfile.write(recording, change(soundfile.read(recording)[0]), 8000, subtype="PCM_16")
    answer = Predictor.load(model_path, find_by="windows").predict(recording)
    assert kind in answer.quality
    assert bool(answer.cycles) == (kind != MOSTLY_SILENT)
    assert all(cycle.label == "uncertain" for cycle in answer.cycles)
    assert answer.aggregate is None or answer.aggregate.label == "uncertain"


def test_what_a_header_leaves_out_or_counts_wrongly_stands_among_the_remarks(model_path: Path, recording: Path) -> None:
    whole, predictor = recording.read_bytes(), Predictor.load(model_path)
    size = len(whole) - 44
    for count, remark, duration_s in ((0, NO_LENGTH, 3.2), (size // 2, f"{COUNTS_TOO_LITTLE}: 1.6 s of 3.2 s", 1.6)):
        recording.write_bytes(whole[:40] + count.to_bytes(4, "little") + whole[44:])
        prediction = predictor.predict(recording)
        assert prediction.quality[0] == remark
        assert prediction.duration_s == duration_s
    recording.write_bytes(whole[:-1000])
    with pytest.raises(AudioError, match="is truncated"):
        predictor.predict(recording)


def test_a_short_recording_that_somebody_annotated_is_answered(model_path: Path, recording: Path) -> None:
    soundfile.write(recording, soundfile.read(recording)[0][:8000], 8000, subtype="PCM_16")
    recording.with_suffix(".txt").write_text("0\t1\t0\t0\n")
    answer = Predictor.load(model_path).predict(recording)
    assert TOO_SHORT not in answer.quality
    assert answer.aggregate is not None
    assert answer.aggregate.label != "uncertain"


@pytest.mark.parametrize("is_padding_encoded", [True, False])
def test_each_filter_bank_is_made_once(
    is_padding_encoded: bool, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = AUDIO.model_copy(update={"is_padding_encoded": is_padding_encoded})
    saved_model(tmp_path, audio=audio)
    trained, made = with_domain(tmp_path / "model.safetensors", recording), []
    as_ever = LogMel.__call__
    monkeypatch.setattr(LogMel, "__call__", lambda self, clips: made.append(len(clips)) or as_ever(self, clips))
    prediction = Predictor(trained).predict(recording)
    assert prediction.out_of_domain is not None
    assert sum(made) == len(prediction.cycles)


@pytest.mark.parametrize("name", ["torch", "onnx", "openvino"])
@pytest.mark.slow
def test_every_engine_gives_the_same_features(name: str, model_path: Path, recording: Path) -> None:
    if name != "torch":
        pytest.importorskip({"onnx": "onnxruntime"}.get(name, name), reason=f"needs the extra {name}")
    trained = with_domain(model_path, recording)
    cycles = [Sound(trained.front_end.read(recording).waveform[:length]) for length in (9000, 16000, 20000)]
    fbanks = trained.front_end.filter_banks_of(cycles)
    with torch.inference_mode():
        given = torch.from_numpy(normalize(fbanks, mean=trained.mean, std=trained.std))
        encoded = trained.model.encode(given)
    expected = np.concatenate([encoded.numpy(), spectral_features(fbanks)], axis=1)
    np.testing.assert_allclose(make(name, trained).predict(cycles)[1], expected, atol=1e-3)


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".tXt"])
def test_an_annotation_is_found_as_a_corpus_finds_it(suffix: str, model_path: Path, recording: Path) -> None:
    predictor = Predictor.load(model_path, find_by="annotation")
    sound = recording.rename(recording.with_name("226_1b1_Al_sc_LittC2SE.WAV"))
    names = [sound.stem, canonical_name(sound.stem)]  # ICBHI's two
    assert len(set(names)) == 2
    for stem in names:
        annotation = sound.with_name(stem + suffix)
        annotation.write_text("0.1\t1.2\t0\t0\n")
        assert [(cycle.start_s, cycle.end_s) for cycle in predictor.predict(sound).cycles] == [(0.1, 1.2)]
        (recorded,) = read_icbhi(sound.parent).cycles
        assert (recorded.start_s, recorded.end_s) == (0.1, 1.2)
        annotation.unlink()
    for stem in names:
        sound.with_name(stem + suffix).write_text("0.1\t1.2\t0\t0\n")
    with pytest.raises(AnnotationError, match="remove all but one"):
        predictor.predict(sound)
    assert "duplicate annotation" in {problem.kind for problem in read_icbhi(sound.parent).problems}
