"""Whole `lungsound predict` commands, as their users wait for them, imports and the start of processes included."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution, requires
from importlib.resources import files
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

import lungsound
from benchmarks.peers import TransformersPredictions
from benchmarks.rows import Bench, Row
from lungsound.audio.front_end import Sound
from lungsound.extras import BOX_PACKAGE
from lungsound.inference.predictor import find_model, load_recording
from lungsound.training.model_file import load_model

NUM_BESIDE_PEER = 60  # recordings


def predict_rows(bench: Bench) -> list[Row]:
    """A folder with two workers and with one; one recording; some recordings beside the transformers library's AST."""
    return [*_folder_rows(bench), _start_row(bench), _peer_row(bench), _size_row()]


def _command(*words: object) -> None:
    """Run it to its end in a process of its own; its output is dropped."""
    subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, check=True)


def predict(bench: Bench, files: Sequence[Path], num_workers: int) -> None:
    out = bench.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    _command("-m", "lungsound", "predict", *files, "--model", bench.model, "--out", out, "--workers", num_workers)


def _folder_rows(bench: Bench) -> list[Row]:
    recordings = bench.recordings
    front_end = load_model(find_model(bench.model)).front_end
    sound_s = sum(len(front_end.read(file).waveform) / front_end.sample_rate_hz for file in recordings)
    seconds = bench.in_turn(lambda: predict(bench, recordings, 2), lambda: predict(bench, recordings, 1))
    two_s, one_s = np.median(seconds, axis=0)
    how = f"{len(recordings)} recordings, {sound_s / 3600:.2f} h of sound: {two_s:.1f} s; {len(seconds)} rounds"
    ratios = seconds[:, 1] / seconds[:, 0]
    hours = sound_s / seconds[:, 0]
    return [
        Row("predict a folder, 2 workers, hours of sound in an hour", hours, "h", how, at_least=400),
        Row("the same, 2 workers / 1 worker", ratios, "x", f"1 worker: {one_s:.1f} s", at_least=1.7),
    ]


def _start_row(bench: Bench) -> Row:
    cold, importing = bench.in_turn(
        lambda: _command("-m", "lungsound", "predict", bench.recordings[0], "--model", bench.model),
        lambda: _command("-c", "import torch"),
        least=5,
    ).T
    how = f"{np.median(cold):.2f} s and {np.median(importing):.2f} s, files in the page cache; {len(cold)} rounds"
    return Row("predict one recording / import torch alone", cold / importing, "x", how, at_most=0.6)


def _peer_row(bench: Bench) -> Row:
    """The peer gets the cycles, cut and resampled; ours reads the files, finds the cycles and writes the answers."""
    some = bench.recordings[:: max(1, len(bench.recordings) // NUM_BESIDE_PEER)]
    trained = load_model(find_model(bench.model))
    peer = TransformersPredictions(trained)
    cycles: list[Sound] = []
    for file in some:
        cycles += (stretch.sound for stretch in load_recording(file, trained.front_end, find_by="auto").stretches)

    def one_by_one() -> None:
        for cycle in cycles:
            peer([cycle])

    ours_s, peer_s = bench.in_turn(lambda: predict(bench, some, 2), one_by_one, least=2, most=2).T
    how = f"{len(some)} recordings, {len(cycles)} cycles: ours {np.median(ours_s):.1f} s"
    how += f", peer {np.median(peer_s):.1f} s"
    what = "predict, 2 workers / transformers' AST on its cycles, 2 threads"
    return Row(what, peer_s / ours_s, "x", how, at_least=5)


def _size_row() -> Row:
    """All files of the distributions that `pip install lungsound lungsound-box` brings, without extras."""
    num_bytes, names = 0, list(_needed(lungsound.__name__, set()))
    for name in names:
        installed = (Path(str(file.locate())) for file in distribution(name).files or ())
        num_bytes += sum(file.stat().st_size for file in installed if file.is_file())
    # In a checkout the packages lie elsewhere.
    folders = (Path(str(files(name))) for name in (lungsound.__name__, BOX_PACKAGE))
    num_bytes += sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    what = "files of a plain installation with the model"
    return Row(what, [num_bytes / 1e6], "MB", f"{len(names) + 1} distributions, without pip", at_most=300)


def _needed(name: str, seen: set[str]) -> Iterator[str]:
    """A distribution and all that it requires on this machine, by name."""
    if name in seen:
        return
    seen.add(name)
    yield name
    for line in requires(name) or ():
        required = Requirement(line)
        if required.marker is None or required.marker.evaluate({"extra": ""}):
            yield from _needed(required.name, seen)
