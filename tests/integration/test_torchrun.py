"""A training of two processes that torchrun starts: as one process does, to the byte after a kill."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lungsound.data.reader import read_corpus
from lungsound.data.synthetic import synthesize

pytestmark = pytest.mark.slow
SETTINGS = ["audio.duration_s=1.0", "audio.num_mels=32", "model.stride=16", "train.epochs=3", "train.batch_size=8"]
SETTINGS += ["train.checkpoint_every_steps=3", "train.device=cpu"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    synthesize(folder / "corpus", num_patients=10)
    return folder


def start(folder: Path, out: str, *launcher: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "LUNGSOUND_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    sets = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, *launcher, "-m", "lungsound", "train", "demo", *sets, "--data", "corpus", "--out", out]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Path:
    process = start(folder, "two", *TORCHRUN)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert output.count("report: ") == 1
    return folder / "two"


def losses(run: Path) -> list[float]:
    with (run / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_train_as_one(undisturbed: Path, folder: Path) -> None:
    process = start(folder, "one")
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert losses(undisturbed) == pytest.approx(losses(folder / "one"), rel=1e-4)
    rows = {}
    for run in (undisturbed, folder / "one"):
        with (run / "epochs" / "last.csv").open(newline="") as file:
            rows[run] = [row["key"] for row in csv.DictReader(file)]
    assert rows[undisturbed] == rows[folder / "one"]
    assert max(Counter(rows[undisturbed]).values()) == 1
    assert len(read_corpus(folder / "corpus").cycles) > len(rows[undisturbed]) > 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_costs_nothing(rank: int, undisturbed: Path, folder: Path) -> None:
    """torchrun starts both again, from the last checkpoint."""
    run = folder / f"killed{rank}"
    process = start(folder, run.name, *TORCHRUN)
    end_s = time.monotonic() + 120
    while not (run / "checkpoint.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < end_s
        time.sleep(0.02)
    time.sleep(0.5)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in children}
    (victim,) = [int(pid) for pid, environment in ranks.items() if f"RANK={rank}".encode() in environment]
    assert not (run / "report.md").exists()
    os.kill(victim, signal.SIGKILL)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "internal error" not in output
    assert (run / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert (run / "predictions.csv").read_bytes() == (undisturbed / "predictions.csv").read_bytes()
