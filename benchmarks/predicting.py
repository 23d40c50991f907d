"""Speed of `lungsound predict`, as its users wait for it: `python -m benchmarks.predicting RECORDING...`.

Whole commands, imports and the start of processes included, in turn in one call: a folder with two workers and with
one, one recording beside `import torch` alone, and the cycles of some recordings beside the transformers library's AST
with the same weights. The table is printed as Markdown.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import ceilings, machine, seconds_in_turn, table
from benchmarks.peers import TransformersPredictions
from benchmarks.speed import Row, row
from lungsound.audio.front_end import Sound
from lungsound.errors import LungsoundError
from lungsound.extras import BOX
from lungsound.inference.bulk import sound_files
from lungsound.inference.predictor import find_model, load_recording
from lungsound.training.model_file import load_model

CPU = torch.device("cpu")
NUM_BESIDE_PEER = 60  # recordings


def command(*words: object) -> None:
    """Run it to its end in a process of its own; its output is dropped."""
    subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL, check=True)


def predict(files: Sequence[Path], model: str, out: Path, num_workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    command("-m", "lungsound", "predict", *files, "--model", model, "--out", out, "--workers", num_workers)


def folder_rows(files: Sequence[Path], sound_s: float, model: str, out: Path, num_rounds: int) -> list[Row]:
    seconds = seconds_in_turn(
        lambda: predict(files, model, out, 2),
        lambda: predict(files, model, out, 1),
        least=num_rounds,
        most=num_rounds,
        budget_s=0.0,
    )
    two_s, one_s = np.median(seconds, axis=0)
    hours, how = sound_s / seconds[:, 0], f"{len(files)} recordings, {sound_s / 3600:.2f} h of sound: {two_s:.1f} s"
    ratios = seconds[:, 1] / seconds[:, 0]
    return [
        row("predict a folder, 2 workers, hours of sound in an hour", hours, "h", f"{how}; {num_rounds} rounds"),
        row("the same, 2 workers / 1 worker", ratios, "x", f"1 worker: {one_s:.1f} s"),
    ]


def start_row(file: Path, model: str) -> Row:
    cold, importing = seconds_in_turn(
        lambda: command("-m", "lungsound", "predict", file, "--model", model),
        lambda: command("-c", "import torch"),
        least=5,
        most=5,
        budget_s=0.0,
    ).T
    how = f"{np.median(cold):.2f} s and {np.median(importing):.2f} s, files in the page cache; 5 rounds"
    return row("predict one recording / import torch alone", cold / importing, "x", how)


def peer_row(files: Sequence[Path], model: str, out: Path) -> Row:
    """The peer gets the cycles, cut and resampled; ours reads the files, finds the cycles and writes the answers."""
    trained = load_model(find_model(model))
    peer = TransformersPredictions(trained)
    cycles: list[Sound] = []
    for file in files:
        cycles += (stretch.sound for stretch in load_recording(file, trained.front_end, find_by="auto").stretches)

    def one_by_one() -> None:
        for cycle in cycles:
            peer([cycle])

    ours_s, peer_s = seconds_in_turn(lambda: predict(files, model, out, 2), one_by_one, least=2, most=2, budget_s=0.0).T
    how = (
        f"{len(files)} recordings, {len(cycles)} cycles: ours {np.median(ours_s):.1f} s, peer {np.median(peer_s):.1f} s"
    )
    return row("predict, 2 workers / transformers' AST on its cycles, 2 threads", peer_s / ours_s, "x", how)


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predicting", description=__doc__)
    parser.add_argument("recordings", nargs="+", type=Path, help="sound files, or folders of them")
    parser.add_argument("--model", default=BOX, help="default: the model in the box")
    parser.add_argument("--rounds", type=int, default=2, help="of the folder; default: 2")
    options = parser.parse_args(words)
    reached = ceilings(CPU, is_quick=options.rounds < 2)
    try:
        files = sound_files(options.recordings)
        rate_hz = (front_end := load_model(find_model(options.model)).front_end).sample_rate_hz
        sound_s = sum(len(front_end.read(file).waveform) / rate_hz for file in files)
        with tempfile.TemporaryDirectory(prefix="lungsound-bench-") as work:
            out = Path(work) / "out"
            rows = folder_rows(files, sound_s, options.model, out, options.rounds)
            rows.append(start_row(files[0], options.model))
            rows.append(peer_row(files[:: max(1, len(files) // NUM_BESIDE_PEER)], options.model, out))
    except LungsoundError as error:
        parser.error(str(error))
    print(table(("what", "measured", "quartiles", "how"), rows))
    print(f"\n- Command: {shlex.join(['python', '-m', 'benchmarks.predicting', *words])}, {datetime.now(UTC).date()}")
    print("- Machine:", ", ".join(f"{name} {value}" for name, value in machine(CPU).items()))
    print(f"- Ceiling measured in the same call: {reached['fp32']:.0f} GFLOP/s in fp32, {os.cpu_count()} cores.")


if __name__ == "__main__":
    main(sys.argv[1:])
