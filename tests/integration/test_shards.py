"""Training from shards gives, to the byte, the weights of the folder that is read in their order."""

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lungsound.config import load_config
from lungsound.data.reader import read_corpus
from lungsound.data.shards import pack
from lungsound.recipe import train
from lungsound.training.run import RunFolder
from tests.integration.command import lungsound
from tests.integration.test_reproducible import KILLED_WHILE_SAVING

# Eight shards of 2 MB, two of them mixed; inputs of their own length and changed waveforms need facts and sounds too.
SETTINGS = {
    "audio.duration_s": 1.0,
    "audio.num_mels": 32,
    "audio.is_padding_encoded": False,
    "augment.waveform": ["noise"],
    "model.stride": 16,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.checkpoint_every_steps": 2,
    "train.shuffle_shards": 2,
    "train.is_test_watched": False,
    "train.device": "cpu",
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(synthetic_corpus_dir: Path, tmp_path: Path) -> Path:
    pack(read_corpus(synthetic_corpus_dir), tmp_path / "shards", shard_mb=2, unit="cycle", on_progress=lambda *_: None)
    return tmp_path / "shards"


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def trained(root: Path, run: Path, *, is_resumed: bool = False, **more: object) -> str:
    """Hash of the weights after a training in this process, without a report."""
    settings = SETTINGS | {"data.root": str(root)} | {name.replace("__", "."): each for name, each in more.items()}
    train(load_config("demo", settings), run, is_resumed=is_resumed, is_reported=False)
    return weights(run)


class Stopped(Exception):
    """In the place of what ends a process."""


def test_shards_train_the_weights_of_the_folder_also_when_resumed(
    synthetic_corpus_dir: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: RunFolder, progress: object, **__: object) -> None:
        if progress.step == 3:  # type: ignore[attr-defined]
            raise Stopped

    expected = trained(synthetic_corpus_dir, tmp_path / "folder", data__shard_mb=2, train__epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "on_step", stop)
        with pytest.raises(Stopped):
            trained(shards, tmp_path / "run", train__epochs=1)
    assert trained(shards, tmp_path / "run", is_resumed=True, train__epochs=1) == expected
    assert not list((tmp_path / "cache").glob(".*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"train__sampling_power": 1.0}, {"train__shuffle_shards": 100}])
def test_whole_runs_and_their_predictions_are_equal(
    changes: dict[str, object], synthetic_corpus_dir: Path, shards: Path, tmp_path: Path
) -> None:
    settings = SETTINGS | {name.replace("__", "."): each for name, each in changes.items()}
    sets = [
        part for name, each in settings.items() for part in ("--set", f"{name}={str(each).replace('False', 'false')}")
    ]
    order = [] if changes.get("train__shuffle_shards") else ["--set", "data.shard_mb=2"]
    given: dict[str, tuple[Path, list[str]]] = {"a": (shards, []), "b": (synthetic_corpus_dir, order)}
    for name, (data, more) in given.items():
        assert lungsound("train", "demo", "--data", data, "--out", tmp_path / name, *sets, *more) == 0
    for name in ("model.safetensors", "predictions.csv", "epochs/last.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert lungsound("evaluate", tmp_path / "a", "--data", shards, "--out", tmp_path / "again") == 0


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(shards: Path, tmp_path: Path) -> None:
    sets = [
        part for name, each in SETTINGS.items() for part in ("--set", f"{name}={str(each).replace('False', 'false')}")
    ]
    command = ["train", "demo", "--data", str(shards), *sets, "--out"]
    killed = [sys.executable, "-c", KILLED_WHILE_SAVING, *command, str(tmp_path / "run")]
    assert subprocess.run(killed, capture_output=True, check=False, timeout=300).returncode == -signal.SIGKILL
    assert list((tmp_path / "cache").glob(".*.partial"))  # what the next one to start removes
    assert lungsound(*command, tmp_path / "run", "--resume") == 0
    assert lungsound(*command, tmp_path / "whole") == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert not list((tmp_path / "cache").glob(".*.partial"))
