"""An archive on a Ray cluster of two workers, near and in an object store: as `predict` does, whatever is killed."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from lungsound.inference import graph
from lungsound.training.model_file import load_model, write_rounded
from tests.documents import free_port
from tests.unit.inference.models import AUDIO, saved_model

pytestmark = pytest.mark.slow
REASON = "pip install 'lungsound[ray]' 's3fs' 'moto[server]'"
for name in ("onnxscript", "ray", "s3fs", "moto.server"):
    pytest.importorskip(name, reason=REASON)
fsspec = pytest.importorskip("fsspec", reason=REASON)
parquet = pytest.importorskip("pyarrow.parquet", reason=REASON)

NUM_RECORDINGS = 5 * 64 + 10
LONGEST_S = 600.0
# Of every process that the command starts: one recording ends whoever reads it.
POISON = """
import os
from lungsound.inference import predictor
load = predictor.load_recording
def load_recording(path, *args, **more):
    if path.name == "poison.wav":
        os._exit(9)
    return load(path, *args, **more)
predictor.load_recording = load_recording
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and recordings: some with annotations, some that are broken, two of one name."""
    folder, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(0)
    saved_model(folder / "made", audio=AUDIO.model_copy(update={"is_padding_encoded": False}))
    (folder / "run").mkdir()
    write_rounded(folder / "made" / "model.safetensors", folder / "run" / "model.safetensors")
    graph.write_beside(load_model(folder / "run" / "model.safetensors"))  # the workers start without torch
    sounds = folder / "sounds"
    for number in range(NUM_RECORDINGS):
        path = sounds / f"{number % 3}" / f"{number // 3:03}_a.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, 8000 + 160 * (number % 50)), 4000)
        if number % 20 == 0:
            path.with_suffix(".txt").write_text("0.2\t0.9\t0\t0\n1.0\t1.9\t0\t0\n")
        if number % 50 == 0:
            path.write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[dict[str, str]]:
    """An object store on this machine that holds the recordings; what tells a program where it is."""
    port = free_port()
    environment = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
    environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        system = fsspec.filesystem("s3")
        end_s = time.monotonic() + 60
        while True:
            try:
                system.mkdir("bucket")
                break
            except Exception:
                assert time.monotonic() < end_s
                time.sleep(0.2)
        system.put(str(folder / "sounds"), "bucket/sounds", recursive=True)
        yield environment
        server.kill()
        server.wait()


def start(folder: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "lungsound", "predict", *words, "--model", str(folder / "run")]
    return subprocess.Popen(
        [*command, "--workers", "2"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "LUNGSOUND_CACHE": str(folder / "cache"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    output = process.communicate(timeout=LONGEST_S)[0]
    assert process.returncode == 1, output  # some recordings cannot be read
    assert "internal error" not in output, output
    return output


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[tuple[str, str, float], dict[str, Any]]:
    """What `predict` writes without a cluster."""
    finish(start(folder, "sounds", "--out", "plain", "--format", "parquet"))
    return by_key(parquet.read_table(folder / "plain" / "answers.parquet").to_pylist())


def by_key(table: list[dict[str, Any]]) -> dict[tuple[str, str, float], dict[str, Any]]:
    keys = [(row["path"].rpartition("sounds/")[2], row["unit"], row["start_s"]) for row in table]
    assert max(Counter(keys).values()) == 1
    return dict(zip(keys, table, strict=True))


def parts(out: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(out, use_listings_cache=False)
    system.invalidate_cache()
    return [each for each in system.find(root) if each.endswith(".parquet")]


def assert_as_plain(out: str, folder: Path, plain: dict[tuple[str, str, float], dict[str, Any]], *lost: str) -> None:
    """Each cycle once, as `predict` has it; each recording that failed once, with its reason."""
    system, _ = fsspec.core.url_to_fs(out)
    table = [row for part in parts(out) for row in parquet.read_table(system.open(part)).to_pylist()]
    failed = [row for row in table if row["error"] is not None]
    found = by_key([row for row in table if row["error"] is None])
    expected = {key: row for key, row in plain.items() if key[0] not in lost}
    assert found.keys() == expected.keys()
    for key, wanted in expected.items():
        for name, value in wanted.items():
            given = found[key][name]
            if name == "path":
                assert given.endswith(f"sounds/{key[0]}")
            elif isinstance(value, float):
                assert math.isclose(given, value, rel_tol=0, abs_tol=1e-6), (key, name)
            else:
                assert given == value, (key, name)
    broken = {row["path"].rpartition("sounds/")[2] for row in failed}
    every = {str(path.relative_to(folder / "sounds")) for path in (folder / "sounds").rglob("*.wav")}
    assert broken == every - {key[0] for key in expected}
    assert len(failed) == len(broken) > 0
    assert all(row["error"].startswith(row["path"]) for row in failed)


def descendants(pid: int) -> list[int]:
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(each for child in children for each in descendants(child))]


def actors(pid: int) -> list[int]:
    """Processes of the workers that hold the model."""
    named = {each: Path(f"/proc/{each}/cmdline").read_bytes() for each in descendants(pid)}
    return [each for each, name in named.items() if b"PartPredictor" in name]


def wait_for_part(process: "subprocess.Popen[str]", out: str) -> None:
    end_s = time.monotonic() + LONGEST_S
    while not parts(out):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end_s
        time.sleep(0.05)


def test_a_folder_has_the_rows_of_predict(folder: Path, plain: dict[Any, Any]) -> None:
    output = finish(start(folder, "sounds", "--out", "near", "--on", "ray"))
    assert_as_plain(str(folder / "near"), folder, plain)
    assert len(parquet.read_table(folder / "near").to_pylist()) > len(plain)
    again = start(folder, "sounds", "--out", "near", "--on", "ray")
    assert f"0 predicted, {NUM_RECORDINGS} skipped, 0 failed" in again.communicate(timeout=LONGEST_S)[0]
    assert f"{NUM_RECORDINGS // 50 + 1} failed" in output


@pytest.mark.usefixtures("store")
def test_a_worker_that_is_killed_costs_nothing(folder: Path, plain: dict[Any, Any]) -> None:
    process = start(folder, "s3://bucket/sounds", "--out", "s3://bucket/worker", "--on", "ray")
    wait_for_part(process, "s3://bucket/worker")
    first, second = actors(process.pid)
    os.kill(first, signal.SIGKILL)
    assert first != second
    finish(process)
    assert_as_plain("s3://bucket/worker", folder, plain)


@pytest.mark.usefixtures("store")
def test_a_command_that_is_killed_goes_on(folder: Path, plain: dict[Any, Any]) -> None:
    words = ("s3://bucket/sounds", "--out", "s3://bucket/driver", "--on", "ray")
    process = start(folder, *words)
    wait_for_part(process, "s3://bucket/driver")
    workers = actors(process.pid)
    process.kill()
    process.communicate(timeout=LONGEST_S)
    num_there = len(parts("s3://bucket/driver"))
    assert 0 < num_there < NUM_RECORDINGS // 64
    output = finish(start(folder, *words))
    assert " 0 skipped" not in output
    assert_as_plain("s3://bucket/driver", folder, plain)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_recording_that_ends_its_worker_fails_alone(folder: Path, plain: dict[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(POISON)
    paths = [str(folder / "sounds" / "1"), str(folder / "sounds" / "2")]
    poison = folder / "sounds" / "1" / "poison.wav"
    poison.write_bytes((folder / "sounds" / "1" / "001_a.wav").read_bytes())
    try:
        search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        output = finish(start(folder, *paths, "--out", "poison", "--on", "ray", PYTHONPATH=search))
    finally:
        poison.unlink()
    assert output.count("ended the process") == 1
    table = [row for part in parts(str(folder / "poison")) for row in parquet.read_table(part).to_pylist()]
    found = by_key([row for row in table if row["error"] is None])
    assert found.keys() == {key for key in plain if not key[0].startswith("0/")}


def is_listening(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.usefixtures("store")
def test_a_cluster_at_an_address_predicts(folder: Path, plain: dict[Any, Any]) -> None:
    ports = free_port(), free_port()
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=2", "--include-dashboard=false"]
    command = [*ray, "--block", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    environment = {**os.environ, **token, "OMP_NUM_THREADS": "1", "LUNGSOUND_CACHE": str(folder / "cache")}
    cluster = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end_s = time.monotonic() + LONGEST_S
        while not is_listening(ports[1]):
            assert time.monotonic() < end_s
            time.sleep(0.5)
        words = ("s3://bucket/sounds", "--out", "s3://bucket/cluster", "--on", f"ray://127.0.0.1:{ports[1]}")
        finish(start(folder, *words, **token))
    finally:
        cluster.terminate()
        cluster.wait()
    assert_as_plain("s3://bucket/cluster", folder, plain)
    manifest = json.loads(fsspec.filesystem("s3").cat_file("bucket/cluster/_manifest.json"))
    assert len(manifest["recordings"]) == len(parts("s3://bucket/cluster"))
