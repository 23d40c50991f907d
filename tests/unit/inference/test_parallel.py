"""Recordings predicted together and in processes of their own: the same predictions, and no recording costs another."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.inference import parallel
from lungsound.inference.parallel import Asked, Group, for_each, predict_group
from lungsound.inference.prediction import RecordingPrediction
from lungsound.inference.predictor import Predictor
from tests.unit.inference.models import AUDIO, saved_model

Result = RecordingPrediction | str
OWN_LENGTH = AUDIO.model_copy(update={"is_padding_encoded": False})


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    saved_model(tmp_path / "run", audio=OWN_LENGTH)
    return Predictor.load(tmp_path / "run", engine="torch", find_by="windows")


@pytest.fixture
def asked(tmp_path: Path) -> list[Asked]:
    """Noises of several lengths; the second is no sound file."""
    found, rng = [], np.random.default_rng(0)
    for number, num_samples in enumerate([9000, 0, 30000, 12345, 20000, 9000]):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(num_samples), 8000)
        found.append(Asked(path, f"p{number}", "Meditron", 40.0 + number))
    found[1].path.write_text("nothing")
    return found


def numbers(results: Sequence[Result]) -> list[object]:
    """Predictions without their probabilities, which are compared to the digits that a batch leaves."""
    return [each if isinstance(each, str) else (each.path, each.patient, len(each.cycles)) for each in results]


def assert_same(found: Sequence[Result], expected: Sequence[Result]) -> None:
    assert numbers(found) == numbers(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, RecordingPrediction) and isinstance(other, RecordingPrediction):
            for cycle, wanted in zip(one.cycles, other.cycles, strict=True):
                given = cycle.probabilities
                assert given == pytest.approx(wanted.probabilities, abs=1e-6)
                assert asdict(cycle) | {"probabilities": 0} == asdict(wanted) | {"probabilities": 0}


def alone(predictor: Predictor, each: Asked) -> Result:
    (result,) = predict_group(predictor, [each])
    return result


def test_a_group_has_the_predictions_of_each_alone(predictor: Predictor, asked: list[Asked]) -> None:
    found = predict_group(predictor, asked)
    assert isinstance(found[1], str)
    assert found[1].startswith(str(asked[1].path))
    assert_same(found, [alone(predictor, each) for each in asked])


def test_cycles_of_a_group_are_computed_together(
    predictor: Predictor, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, run_batch = [], predictor.engine.run_batch
    monkeypatch.setattr(
        predictor.engine, "run_batch", lambda *inputs: batches.append(len(inputs[0])) or run_batch(*inputs)
    )
    found = predict_group(predictor, asked)
    num_cycles = sum(len(each.cycles) for each in found if not isinstance(each, str))
    assert sum(batches) == num_cycles
    assert len(batches) < num_cycles / 2  # windows of a second but for the last of a recording


def test_a_mistake_of_ours_in_the_model_costs_only_its_recording(
    predictor: Predictor, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    longest, predict = 50_000, predictor.engine.predict

    def with_a_bug(cycles: Sequence[object]) -> object:
        if any(len(each.waveform.base) > longest for each in cycles):  # type: ignore[attr-defined]
            raise ZeroDivisionError("planted")
        return predict(cycles)  # type: ignore[arg-type]

    expected = [alone(predictor, each) for each in asked]
    monkeypatch.setattr(predictor.engine, "predict", with_a_bug)
    found = predict_group(predictor, asked)
    assert isinstance(found[2], str)
    assert "internal error (bug): ZeroDivisionError: planted" in found[2]
    assert_same(found[:2] + found[3:], expected[:2] + expected[3:])


def die_of_the_fourth(predictor: Predictor, group: Group) -> list[Result]:
    if any(each.path.name == "3.wav" for each in group):
        os._exit(7)
    return predict_group(predictor, group)


def test_processes_give_the_same_and_one_that_ends_costs_only_its_recording(
    predictor: Predictor, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "LEAST_FOR_PROCESSES", 2)
    monkeypatch.setattr(parallel, "GROUP_SIZE", 2)
    expected = predict_group(predictor, asked)
    in_processes = parallel._in_processes
    started = []
    monkeypatch.setattr(
        parallel, "_in_processes", lambda groups, *more: started.append(len(groups)) or in_processes(groups, *more)
    )
    results = dict(for_each(predictor, asked, die_of_the_fourth, num_workers=2))
    assert list(results) == asked
    found = [results[each] for each in asked]
    assert found[3] == f"{asked[3].path}: ended the process that read and predicted it"
    assert_same(found[:3] + found[4:], expected[:3] + expected[4:])
    assert started[0] == 3
