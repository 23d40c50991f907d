"""Archives in parts: what is found, how it is divided and resumed, and what a worker writes of a part."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from lungsound.cli.main import app
from lungsound.errors import FetchError, SettingsError
from lungsound.inference import archive
from lungsound.inference.archive import (
    MANIFEST,
    Job,
    PartPredictor,
    find_recordings,
    manifest_of,
    open_out,
    parts_of,
    predict_archive,
)
from lungsound.inference.formats.tables import COLUMN_TYPES, rows
from lungsound.inference.parallel import Asked, predict_group
from lungsound.inference.predictor import Predictor
from tests.unit.inference.models import saved_model
from tests.unit.inference.test_bulk import NOON, QUIET

fsspec = pytest.importorskip("fsspec", reason="archives need pip install 'lungsound[ray]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="archives need pip install 'lungsound[ray]'")


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    saved_model(tmp_path / "run")
    return Predictor.load(tmp_path / "run", engine="torch")


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """Recordings in two folders, two of one name, one with an annotation, one broken, one hidden."""
    rng, folder = np.random.default_rng(0), tmp_path / "sounds"
    for name in ("101_a.wav", "102_b.flac", "in/101_a.WAV", "in/.103_a.wav"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(folder / name, rng.normal(0, 0.1, 24000), 8000)
    (folder / "in" / "101_a.txt").write_text("0.2\t0.9\t0\t0\n1.0\t2.9\t0\t0\n")
    (folder / "text.wav").write_text("no sound")
    return folder


@pytest.fixture
def far(near: Path) -> Iterator[str]:
    """The same in a storage that is no folder."""
    system = fsspec.filesystem("memory")
    system.put(str(near), "/bucket/sounds", recursive=True)
    yield "memory://bucket/sounds"
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def served(near: Path) -> Iterator[str]:
    """The same on a web server that lists its folders."""
    pytest.importorskip("aiohttp", reason="http needs pip install aiohttp")
    handler = partial(SimpleHTTPRequestHandler, directory=str(near))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def job_of(predictor: Predictor, out: object) -> Job:
    assert predictor.path is not None
    sha256, engine = predictor.trained.sha256, predictor.engine.name
    return Job("/", str(out), predictor.path, sha256, engine, "auto", r"^(\d+)_", "Meditron", 40.0)


def written(job: Job, uris: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of the parts that one worker writes, and the errors that it names."""
    recordings, _, _ = find_recordings(uris)
    table, errors, worker = [], list[str](), PartPredictor(job)
    for part in parts_of(recordings):
        result = worker({"part": json.dumps(part)})
        assert (result["name"], result["fault"]) == (part.name, None)
        errors += json.loads(result["errors"])
        with fsspec.open(f"{job.out}/{part.name}") as file:
            table += parquet.read_table(io.BytesIO(file.read())).to_pylist()
    return table, errors


def test_the_same_recordings_are_found_near_and_far(near: Path, far: str) -> None:
    found, num_hidden, _ = find_recordings([str(near), str(near / "101_a.wav")])
    distant, num_distant_hidden, _ = find_recordings([far, f"{far}/in/101_a.WAV", f"{far}/none.wav"])
    names = ["101_a.wav", "102_b.flac", "in/101_a.WAV", "text.wav"]
    assert [each.uri for each in found] == [str(near / name) for name in names]
    assert [each.uri for each in distant] == [f"{far}/{name}" for name in sorted([*names, "none.wav"])]
    assert num_hidden == num_distant_hidden == 1
    sizes = {each.uri.rpartition("sounds/")[2]: each.num_bytes for each in found}
    for each in distant:
        name = each.uri.removeprefix(f"{far}/")
        assert each.num_bytes == sizes.get(name)
        assert each.beside == ((f"{far}/in/101_a.txt",) if name == "in/101_a.WAV" else ())


def test_a_web_server_is_read(predictor: Predictor, served: str, near: Path, tmp_path: Path) -> None:
    found, _, _ = find_recordings([served, f"{served}/in/101_a.WAV"])
    assert [each.uri for each in found] == [each.uri for each in find_recordings([served])[0]]
    assert [each.uri.removeprefix(served) for each in found] == [
        each.uri.removeprefix(str(near)) for each in find_recordings([str(near)])[0]
    ]
    table, errors = written(job_of(predictor, tmp_path / "out"), [f"{served}/in"])
    assert [(row["cycles_from"], row["start_s"]) for row in table[1:]] == [("annotation", 0.2), ("annotation", 1.0)]
    assert errors == []


@pytest.mark.parametrize("uri", ["memory://bucket/none", "nowhere://bucket/sounds"])
def test_what_cannot_be_found_is_named(uri: str, far: str) -> None:
    with pytest.raises((SettingsError, FetchError), match=uri):
        find_recordings([far, uri])


def test_a_part_is_named_by_its_recordings(near: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "PART_SIZE", 3)
    recordings, _, _ = find_recordings([str(near)])
    first, second = parts_of(recordings)
    assert (len(first.recordings), len(second.recordings)) == (3, 1)
    assert [first, second] == parts_of(recordings)
    (near / "text.wav").write_text("changed")
    again = parts_of(find_recordings([str(near)])[0])
    assert again[0] == first
    assert again[1].name != second.name


def test_an_archive_is_resumed_by_the_same_call_alone(predictor: Predictor, near: Path, tmp_path: Path) -> None:
    parts, provenance = parts_of(find_recordings([str(near)])[0]), predictor.provenance(NOON)
    out, stated = tmp_path / "out", {"age_years": 40.0}
    manifest = manifest_of(parts, provenance, stated)
    assert open_out(str(out), manifest) == set()
    (out / parts[0].name).touch()
    assert parts[0].name in open_out(str(out), manifest)
    with pytest.raises(SettingsError, match=r"other age_years \(40.0, now 41.0\)"):
        open_out(str(out), manifest_of(parts, provenance, {"age_years": 41.0}))
    with pytest.raises(SettingsError, match="other recordings:"):
        open_out(str(out), manifest_of([], provenance, stated))
    for damage in ("{", "[]", "[" * 100_000):
        (out / MANIFEST).write_text(damage)
        with pytest.raises(SettingsError, match="damaged"):
            open_out(str(out), manifest)
    with pytest.raises(SettingsError, match="holds files"):
        open_out(str(near), manifest)
    with pytest.raises(SettingsError, match="nothing can be written"):
        open_out("https://example.org/out", manifest)


@pytest.mark.parametrize("is_far", [False, True])
def test_a_part_has_the_rows_of_predict_and_one_for_each_that_failed(
    is_far: bool, predictor: Predictor, near: Path, far: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "PART_SIZE", 3)
    place, out = (far, "memory://bucket/out") if is_far else (str(near), str(tmp_path / "out"))
    table, errors = written(job_of(predictor, out), [place, f"{place}/none.wav"])
    asked = [Asked(near / name, name[-9:-6], "Meditron", 40.0) for name in ("101_a.wav", "102_b.flac", "in/101_a.WAV")]
    asked[1] = Asked(asked[1].path, "102", "Meditron", 40.0)
    provenance = predictor.provenance(NOON)
    predictions = [each for each in predict_group(predictor, asked) if not isinstance(each, str)]
    expected = list(rows(predictions, provenance))
    failed = [row for row in table if row["error"] is not None]
    succeeded = [row for row in table if row["error"] is None]
    assert len(succeeded) == len(expected) > len(predictions)
    for row, values in zip(succeeded, expected, strict=True):
        wanted = dict(zip(row, values, strict=False))
        assert row["path"].removeprefix(place) == str(wanted["path"]).removeprefix(str(near))
        for name, value in wanted.items():
            if name != "path":
                given = pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
                assert (tuple(row[name]) if isinstance(value, tuple) else row[name]) == given
    assert [row["path"] for row in failed] == [f"{place}/none.wav", f"{place}/text.wav"]
    assert [row["unit"] for row in failed] == ["recording"] * 2
    assert [row["error"] for row in failed] == errors
    assert all(error.startswith(row["path"]) for row, error in zip(failed, errors, strict=True))
    assert set(COLUMN_TYPES) < set(table[0])


@pytest.mark.slow
def test_what_ended_its_worker_twice_is_predicted_in_a_process_for_each_recording(
    predictor: Predictor, near: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (near / "102_b.flac").unlink()
    plain = written(job_of(predictor, tmp_path / "plain"), [str(near)])
    assert not list((tmp_path / "plain").glob("_*"))
    (part,) = parts_of(find_recordings([str(near)])[0])
    with monkeypatch.context() as patch:
        patch.setattr(archive, "predict_group", ending)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                PartPredictor(job_of(predictor, tmp_path / "out")).write(part)
    monkeypatch.setattr(PartPredictor, "predictor", predictor)
    monkeypatch.setattr(predictor.engine, "predict", ending)  # in this process
    again = written(job_of(predictor, tmp_path / "out"), [str(near)])
    assert again[1] == plain[1]
    assert [row["path"] for row in again[0]] == [row["path"] for row in plain[0]]
    assert [row["p_crackle"] for row in again[0]] == pytest.approx([row["p_crackle"] for row in plain[0]], abs=1e-6)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [part.name]


def ending(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_recording_that_is_too_large_to_fetch_fails_alone(
    predictor: Predictor, far: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_FETCHED_BYTES", 20)
    table, errors = written(job_of(predictor, "memory://bucket/out"), [f"{far}/101_a.wav", f"{far}/text.wav"])
    assert errors[0] == f"{far}/101_a.wav has more than 20 bytes; cut it into parts"
    assert [row["error"] for row in table] == errors


def test_another_model_on_a_node_stops_all(predictor: Predictor, near: Path, tmp_path: Path) -> None:
    job = job_of(predictor, tmp_path / "out")
    saved_model(tmp_path / "run", seed=1)
    worker = PartPredictor(job)
    (part,) = parts_of(find_recordings([str(near)])[0])
    assert "is another model" in worker({"part": json.dumps(part)})["fault"]
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(
    predictor: Predictor, near: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'lungsound\[ray\]'"):
        predict_archive(predictor, [str(near)], out=str(tmp_path / "out"), on="ray", console=QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["s3://bucket/a.wav"],
        ["a.wav", "--out", "s3://bucket/out"],
        ["a.wav", "--on", "ray"],
        ["a.wav", "--on", "slurm", "--out", "out"],
        ["a.wav", "--on", "ray", "--out", "out", "--format", "csv"],
        ["a.wav", "--on", "ray", "--out", "out", "--skip-existing"],
        ["a.wav", "--on", "ray", "--out", "out", "--device", "cuda"],
    ],
)
def test_options_that_mean_nothing_are_refused(words: list[str]) -> None:
    result = CliRunner().invoke(app, ["predict", *words])
    assert isinstance(result.exception, SettingsError)


def test_an_ordinary_run_imports_nothing_of_it() -> None:
    program = "import sys, lungsound.cli.predict, lungsound.inference.bulk; print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"ray", "fsspec", "pyarrow", "lungsound.inference.archive"} & {*imported}
