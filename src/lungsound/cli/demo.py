"""The demo: corpus, training, score, report, and the prediction for one recording, on one page of output."""

import os
import shutil
import sys
from pathlib import Path

from rich.console import Console

from lungsound.cli.cycles import print_cycles
from lungsound.config import load_config, settings_of_corpora
from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE
from lungsound.data.reader import read_corpus
from lungsound.data.shards import sound_file
from lungsound.data.synthetic import synthesize
from lungsound.errors import SettingsError
from lungsound.files import remove_folder
from lungsound.inference.predictor import Predictor
from lungsound.labels import LungSound
from lungsound.progress import track
from lungsound.recipe import train
from lungsound.training.run import RunFolder
from lungsound.training.trainer import RunInterrupted

# A run that a user trained with the recipe "demo" has another name: it is not replaced.
RUN_NAME = "the demo's own run"


def run_demo(
    data: Path | None, out: Path, *, num_patients: int, seed: int, epochs: int | None, console: Console
) -> None:
    """Run the demo in the folder `out`; an earlier demo's corpus and run there are replaced."""
    root, run_dir = data or out / "corpus", out / "run"
    run = RunFolder(run_dir)
    is_demo_run = (run_dir / "config.json").is_file() and run.config().name == RUN_NAME
    _remove(run_dir, is_ours=is_demo_run or run.is_blank)
    if data is None:
        _remove(root, is_ours=(root / SYNTHETIC_EVENTS_FILE).is_file())
        console.print(f"Making a synthetic corpus of {num_patients} patients in {root}")
        with track(console, "recordings") as on_progress:
            synthesize(root, num_patients=num_patients, seed=seed, on_progress=on_progress)
    overrides = [f"name={RUN_NAME}", *settings_of_corpora([root]), f"train.seed={seed}"]
    overrides += [] if epochs is None else [f"train.epochs={epochs}"]
    config = load_config("demo", overrides)
    console.print(
        f"Training: breathing cycles to filter banks to an Audio Spectrogram Transformer with Patch-Mix contrastive "
        f"learning, {config.train.epochs} epochs"
    )
    try:
        report = train(config, run_dir, console=console)
    except RunInterrupted:
        raise RunInterrupted("stopped; run the demo again to start over") from None

    # Predict one recording of a patient without recordings in the training set, preferably with crackles and wheezes.
    corpus = read_corpus(root)
    trained = {cycle.recording.patient for cycle in corpus.part("train")}
    unseen = [cycle for cycle in corpus.cycles if cycle.recording.patient not in trained]
    if unseen:
        recording = next((c.recording for c in unseen if c.sound is LungSound.BOTH), unseen[0].recording)
        truth = sorted((c for c in unseen if c.recording == recording), key=lambda c: (c.start_s, c.end_s))
        console.print(f"\nPrediction for one recording of a patient who is not in the training set: {recording.path}")
        predictor, spans_s = Predictor.load(run_dir), [(cycle.start_s, cycle.end_s) for cycle in truth]
        console.print(predictor.evidence, markup=False, highlight=False)
        with sound_file(recording) as path:
            cycles = predictor.predict(path, spans_s=spans_s).cycles
        print_cycles(recording.path.name, cycles, console, classes=predictor.classes, truth=truth)
    else:
        console.print("\nEvery patient has recordings in the training set: there is no unseen one to predict.")
    console.print("\nResearch software, not a medical device.")
    console.print(f"report: {report}", soft_wrap=True)
    own = f"{_command()} predict FILE"
    console.print(f"A recording of yours, by the model in the box (trained on real recordings): {own}", soft_wrap=True)


def _command() -> str:
    """The command as it can be typed here: its name where the shell finds it, else its path."""
    given = Path(sys.argv[0])
    if given.name != "lungsound" or shutil.which(given.name) == str(given):
        return "lungsound"
    return os.path.relpath(given) if given.is_relative_to(Path.cwd()) else str(given)


def _remove(folder: Path, *, is_ours: bool) -> None:
    """Remove the folder of an earlier demo, also of one that was killed; refuse any other in its place."""
    if is_ours and not folder.is_symlink():
        remove_folder(folder)
    elif folder.exists():
        raise SettingsError(f"{folder} was not made by an earlier demo: choose another folder with --out DIR")
