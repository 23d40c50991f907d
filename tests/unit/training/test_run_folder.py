"""The folder of a run: made once, taken up again only by the same run, complete and readable."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig, load_config
from lungsound.data.batches import Batch
from lungsound.data.icbhi import read_icbhi
from lungsound.data.splits import Parts
from lungsound.errors import SettingsError, WeightsError
from lungsound.models.classifier import initial_classifier
from lungsound.training.checkpoint import CHECKPOINT_FORMAT, read_checkpoint
from lungsound.training.model_file import FACTS_KEY
from lungsound.training.objectives import make_objective
from lungsound.training.run import RunFacts, RunFolder, revision
from lungsound.training.trainer import Progress, TrainStep
from tests.unit.data.trees import DAMAGED, NORMAL, write_icbhi

SMALL = ["audio.duration_s=0.5", "audio.num_mels=32", "model.stride=16"]
CPU = torch.device("cpu")


def small_config(*overrides: str) -> RunConfig:
    return load_config("demo", [*SMALL, *overrides])


def small_step(*overrides: str) -> TrainStep:
    config = small_config(*overrides)
    model, _ = initial_classifier(config, FrontEnd(config.audio))
    objective = make_objective(config.objective, config.patchmix, class_counts=[1, 1, 1, 1], device=CPU)
    return TrainStep(model, objective, config.train, device=CPU)


def take_step(step: TrainStep) -> None:
    encoder = step.model.encoder
    fbank = torch.randn(4, 48, 16 * encoder.grid.freq, generator=torch.Generator().manual_seed(0))
    step(Batch(fbank, torch.arange(4)), learning_rate=1e-3, generator=torch.Generator().manual_seed(0))


# ---- starting ----


def test_a_new_run_writes_its_settings_first(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run")
    with run.lock():
        run.start(small_config())
    assert {path.name for path in run.path.iterdir()} == {"config.json", ".lock"}
    assert run.config() == small_config()


def test_two_trainings_cannot_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunFolder(folder).lock():
        with pytest.raises(SettingsError, match="another training is at work"), RunFolder(folder).lock():
            pytest.fail("the folder was taken twice")
        RunFolder(folder).start(small_config())
    with RunFolder(folder).lock():
        assert RunFolder(folder).config() == small_config()


def test_a_folder_in_which_nothing_started_is_taken_away(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="bad corpus"), RunFolder(tmp_path / "run").lock():
        raise SettingsError("bad corpus")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_run_is_not_used_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start(small_config())
    with pytest.raises(SettingsError, match=r"already holds a run: give another folder, or go on with it by --resume"):
        run.check(small_config("train.epochs=1"), is_resumed=False)
    assert run.config() == small_config()


def test_the_same_run_may_be_resumed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start(small_config("data.devices=['Meditron']"))
    run.check(small_config("data.devices=['Meditron']"), is_resumed=True)


def test_another_wording_of_the_recipe_is_no_other_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start(load_config("demo"))
    run.check(load_config("demo", ["name=renamed", "description=said better"]), is_resumed=True)


def test_other_settings_are_named_one_by_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.start(small_config())
    with pytest.raises(SettingsError) as caught:
        run.check(small_config("train.epochs=3", "objective.alpha=0.5"), is_resumed=True)
    assert f"{tmp_path} was started with other settings" in str(caught.value)
    assert f"train.epochs was {small_config().train.epochs}, now 3" in str(caught.value)
    assert "objective.alpha was 1.0, now 0.5" in str(caught.value)
    assert run.config() == small_config()


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"is not the folder of a run: it has no config\.json"):
        RunFolder(tmp_path / "none").check(small_config(), is_resumed=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "no valid JSON"),
        (b'{"name": "x", "colour": 1}', "unknown key 'colour'"),
        (b"{}", "name"),
        *((each, r"config\.json") for each in DAMAGED),
    ],
)
def test_settings_that_cannot_be_read_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(SettingsError, match=message) as caught:
        RunFolder(tmp_path).config()
    assert str(tmp_path) in str(caught.value)


# ---- checkpoints ----


def test_without_a_checkpoint_a_run_starts_at_its_beginning(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).restore(small_step()) == Progress()


def test_a_checkpoint_holds_weights_moments_and_progress(tmp_path: Path) -> None:
    run, step = RunFolder(tmp_path), small_step()
    take_step(step)
    progress = Progress(
        epoch=2,
        step=3,
        loss_sums={"loss": 0.1 + 0.2},
        confusion=[[1, 2], [3, 4]],
        history=[{"epoch": 1, "loss": float("nan")}],
        best_scores={"test": 0.7},
        best_epochs={"test": 1},
    )
    run.save(step, progress)
    other = small_step("train.seed=1")
    found = run.restore(other)
    assert repr(found) == repr(progress)
    assert repr(run.progress()) == repr(progress)
    assert step.tensors().keys() == other.tensors().keys()
    assert all(torch.equal(other.tensors()[name], value) for name, value in step.tensors().items())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize("facts", ["{}", '{"progress": 5}', "[]", "[" * 100_000, '{"progress": {"epoch": "x"}}'])
def test_a_checkpoint_without_its_progress_is_refused(facts: str, tmp_path: Path) -> None:
    run, step = RunFolder(tmp_path), small_step()
    run.save(step, Progress())
    if facts.startswith("{"):
        facts = json.dumps(json.loads(facts) | {"format": CHECKPOINT_FORMAT})
    save_file(load_file(run.checkpoint), run.checkpoint, metadata={FACTS_KEY: facts})
    for read in (run.progress, lambda: run.restore(step)):
        with pytest.raises(WeightsError, match=r"checkpoint\.safetensors"):
            read()


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    runs, step = [RunFolder(tmp_path / str(seed)) for seed in (0, 1)], small_step()
    for seed, run in enumerate(runs):
        run.start(load_config("tiny_ce", {"train.seed": seed}))
        run.save(step, Progress(epoch=seed))
    runs[1].start(load_config("tiny_ce", {"train.seed": 1, "name": "renamed"}))  # which trains alike
    assert (runs[1].progress().epoch, runs[1].restore(step).epoch) == (1, 1)
    shutil.copy(runs[0].checkpoint, runs[1].checkpoint)
    for read in (runs[1].progress, lambda: runs[1].restore(step)):
        with pytest.raises(WeightsError, match=r"checkpoint\.safetensors is another run's"):
            read()


def test_new_settings_make_an_old_report_void(tmp_path: Path) -> None:
    run, report = RunFolder(tmp_path), tmp_path / "report.json"
    for name, is_kept in (("first", True), ("first", True), ("second", False)):
        run.start(load_config("tiny_ce", {"name": name}))
        if name == "first":
            report.write_text("{}")
        assert report.exists() == is_kept


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    run, step = RunFolder(tmp_path), small_step()
    take_step(step)
    run.save(step, Progress())
    with pytest.raises(WeightsError, match=r"checkpoint\.safetensors does not fit this run") as caught:
        run.restore(small_step("audio.num_mels=64"))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save(small_step(), Progress())
    with pytest.raises(WeightsError, match="pos_embed"):
        run.restore(small_step("audio.num_mels=64"))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save(small_step(), Progress())
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        run.restore(small_step())


def test_a_checkpoint_needs_no_pickle(tmp_path: Path) -> None:
    run, step = RunFolder(tmp_path), small_step()
    run.save(step, Progress(epoch=5))
    _, facts = read_checkpoint(run.checkpoint)
    assert facts == {"format": CHECKPOINT_FORMAT, "progress": Progress(epoch=5).model_dump(), "scaler": {}} | {
        "settings_sha256": None
    }


# ---- log and facts ----


def test_the_log_has_a_row_for_each_epoch(tmp_path: Path) -> None:
    progress = Progress()
    with RunFolder(tmp_path) as run:
        for epoch in (1, 2):
            progress.step, progress.loss_sums = 3, {"loss": 1.5, "ce": 0.75}
            run.on_step(progress, num_steps=3, learning_rate=1e-3)
            progress.end_epoch({"epoch": epoch, "loss": 0.5 / epoch, "score": 0.25})
            run.on_epoch(progress)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{"epoch": "1", "loss": "0.5", "score": "0.25"}, {"epoch": "2", "loss": "0.25", "score": "0.25"}]
    assert len(list((tmp_path / "events").iterdir())) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_the_log_of_a_run_that_an_older_program_began_has_all_columns(tmp_path: Path) -> None:
    progress = Progress(history=[{"epoch": 1, "loss": 0.5}])
    with RunFolder(tmp_path) as run:
        progress.end_epoch({"epoch": 2, "loss": 0.25, "data_seconds": 1.5})
        run.on_epoch(progress)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["data_seconds"] for row in rows] == ["", "1.5"]


def test_facts_say_on_what_and_with_what_a_run_was_made(tmp_path: Path) -> None:
    tree = write_icbhi(tmp_path / "corpus", {"101_1b1_Al_sc_Meditron": NORMAL})
    corpus = read_icbhi(tree)
    run = RunFolder(tmp_path)
    parts = Parts((0,), (), ())
    written = RunFacts.of(corpus, parts, None, {}, command="lungsound train x", device="cpu", precision="fp32")
    run.write_facts(written)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert written == run.facts()
    assert facts["command"] == "lungsound train x"
    assert facts["corpus"]["fingerprint"] == corpus.fingerprint
    assert (facts["corpus"]["num_recordings"], facts["corpus"]["num_cycles"]) == (1, 1)
    assert facts["num_cycles"] == {"train": 1, "validation": 0, "calibration": 0, "test": 0}
    assert facts["patients"] == {"train": ["101"], "validation": [], "calibration": [], "test": []}
    assert {"lungsound", "torch", "numpy", "soundfile", "safetensors", "python", "system"} == set(facts["versions"])
    assert facts["revision"] == revision()


def test_facts_that_are_damaged_are_refused(tmp_path: Path) -> None:
    for damaged in (b'{"command": "lungsound train x"}', *DAMAGED):
        (tmp_path / "run.json").write_bytes(damaged)
        with pytest.raises(SettingsError, match=r"run\.json.*train the run again"):
            RunFolder(tmp_path).facts()


def test_the_revision_is_a_commit_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = revision()
    assert found is None or (len(found.removesuffix("+")) == 40 and int(found.removesuffix("+"), 16))
    monkeypatch.setenv("PATH", "")
    assert revision() is None
