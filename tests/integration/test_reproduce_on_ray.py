"""A table trained on a Ray cluster of two workers: the runs of the plain command, whatever is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lungsound.data.synthetic import synthesize
from lungsound.training.run import RunFolder

pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="needs pip install 'lungsound[ray]'")

SETTINGS = ("model.size=micro", "model.stride=16", "audio.duration_s=1", "audio.num_mels=32", "train.batch_size=16")
MORE = ("model.pretrained=none", "train.checkpoint_every_steps=1", "train.precision=fp32")
LONGEST_S = 300.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    synthesize(folder / "corpus", num_patients=14, seed=0)
    return folder


def start(folder: Path, out: str, *words: str, num_epochs: int = 2) -> "subprocess.Popen[str]":
    settings = [word for each in (*SETTINGS, *MORE) for word in ("--set", each)]
    command = ["reproduce", "negatives", "--data", "corpus", "--out", out, "--seeds", "2", *settings, *words]
    return subprocess.Popen(
        [sys.executable, "-m", "lungsound", *command, "--epochs", str(num_epochs)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LUNGSOUND_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", exit_code: int = 0) -> str:
    output = process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == exit_code, output
    return output


def weights(folder: Path, out: str) -> dict[str, bytes]:
    root = folder / out / "runs"
    return {str(each.relative_to(root)): each.read_bytes() for each in sorted(root.rglob("model.safetensors"))}


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, bytes]:
    finish(start(folder, "plain"))
    return weights(folder, "plain")


def workers(pid: int) -> list[int]:
    """Processes in which a run is trained: Ray names them by the task."""
    found, wanted = [], [pid]
    for each in wanted:  # which grows
        wanted += [int(child) for child in Path(f"/proc/{each}/task/{each}/children").read_text().split()]
        if ", seed " in Path(f"/proc/{each}/cmdline").read_bytes().decode(errors="replace"):
            found.append(each)
    return found


def wait_for_step(process: "subprocess.Popen[str]", out: Path) -> None:
    end_s = time.monotonic() + LONGEST_S
    while not list(out.rglob("checkpoint.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_a_cluster_trains_the_runs_of_the_plain_command(folder: Path, plain: dict[str, bytes]) -> None:
    output = finish(start(folder, "cluster", "--on", "ray", "--workers", "2"))
    assert len(plain) == 4
    assert weights(folder, "cluster") == plain
    assert (folder / "cluster" / "negatives.md").read_text() == (folder / "plain" / "negatives.md").read_text()
    facts = RunFolder(folder / "cluster" / "runs" / next(iter(plain)).removesuffix("/model.safetensors")).facts()
    assert "reproduce negatives" in facts.command
    assert output.count("training Score") == 8  # of the workers: 4 runs of 2 epochs
    again = finish(start(folder, "cluster", "--on", "ray"))
    assert again.count("done already") == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_costs_no_byte(number: signal.Signals, folder: Path, plain: dict[str, bytes]) -> None:
    out = number.name
    process = start(folder, out, "--on", "ray", "--workers", "2")
    wait_for_step(process, folder / out)
    os.kill(workers(process.pid)[0], number)
    finish(process)
    assert weights(folder, out) == plain


def test_a_command_that_is_killed_goes_on(folder: Path, plain: dict[str, bytes]) -> None:
    process = start(folder, "driver", "--on", "ray", "--workers", "2")
    wait_for_step(process, folder / "driver")
    process.kill()
    process.communicate(timeout=LONGEST_S)
    assert weights(folder, "driver").keys() < plain.keys()
    finish(start(folder, "driver", "--on", "ray", "--workers", "2"))
    assert weights(folder, "driver") == plain


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_to_be_stopped_is_one_line(number: signal.Signals, folder: Path) -> None:
    out = f"stopped-{number.name}"
    process = start(folder, out, "--on", "ray", "--workers", "2", num_epochs=50)
    wait_for_step(process, folder / out)
    process.send_signal(number)
    output = finish(process, exit_code=130)
    assert "stopped; the same command goes on from there" in output
    assert "Traceback" not in output


def test_a_run_that_fails_costs_no_other(folder: Path, plain: dict[str, bytes]) -> None:
    """A mistake in a run's folder."""
    (name, *others) = plain
    config = folder / "mistake" / "runs" / Path(name).parent / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text("{")
    output = finish(start(folder, "mistake", "--on", "ray", "--workers", "2"), exit_code=2)
    assert weights(folder, "mistake") == {each: plain[each] for each in others}
    assert "Traceback" not in output
