"""Inputs of a call of a benchmark: recordings of noise, a tiny model, and the page that its table is written into."""

from pathlib import Path

import numpy as np
import soundfile

from lungsound.experiments.study import BEGIN, END
from tests.unit.inference.models import saved_model

NUM_RECORDINGS = 3


def write_inputs(folder: Path, mark: str) -> tuple[list[str], Path, list[str]]:
    """Paths of the recordings, the page, and the options that name model and page."""
    saved_model(folder / "run")
    rng = np.random.default_rng(0)
    recordings = [folder / f"{number}.wav" for number in range(NUM_RECORDINGS)]
    for path in recordings:
        soundfile.write(path, 0.1 * rng.standard_normal(24000), 8000)
    page = folder / "page.md"
    page.write_text(f"before\n{BEGIN.format(mark)}\n{END.format(mark)}\nafter\n", encoding="utf-8")
    return [*map(str, recordings)], page, ["--model", str(folder / "run"), "--into", str(page)]
