"""A trained model as graphs for the fast engines, and on real cycles how often each decides as torch does."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor

from lungsound.audio.front_end import FrontEnd
from lungsound.config import DataSettings
from lungsound.data import batches as corpora
from lungsound.data.corpus import Corpus
from lungsound.data.splits import rows_to_test
from lungsound.data.store import waveforms_of
from lungsound.errors import SettingsError
from lungsound.inference import engines as kinds
from lungsound.inference import graph as graphs
from lungsound.inference.engines import LEAST_AGREEMENT, LEAST_CYCLES, Agreement, agreement, speeds, write_agreements
from lungsound.inference.hugging_face import write_hugging_face
from lungsound.inference.model_files import write_onnx, write_openvino, write_torch
from lungsound.progress import track
from lungsound.training.checkpoint import TrainedModel, load_model, model_file
from lungsound.training.evaluate import data_to_test
from lungsound.training.run import RunFolder

NUM_CYCLES = 500
NUM_RANGE_CYCLES = 32  # on which the int8 graph learns the range of its activations


def export_run(run: Path, *, data_root: Path | None, num_cycles: int, console: Console) -> Path:
    """Export the model of a run and measure every engine that is installed; the path of what was measured.

    The cycles are drawn from the test set of the run's corpus, or of the one in `data_root`; those that the int8
    graph learns by come from the other parts where there are any, and are none of those it is measured on. `run` may
    be a model file alone, which needs a `data_root`.
    """
    if num_cycles < 1:
        raise SettingsError(f"the engines need at least one cycle to be measured on, got {num_cycles}")
    trained, corpus, test_rows, range_rows = _model_and_cycles(run, data_root, num_cycles)
    graphs.make(trained, [trained.input_of(waveform) for waveform in _cut(corpus, range_rows, trained.front_end)])
    measured = _measure(trained, _cut(corpus, test_rows, trained.front_end), console)
    _print(measured, speeds(trained, list(measured)), console)
    return write_agreements(model_file(run).parent, trained, measured)


def export_files(run: Path, *, to: str, out: Path, data_root: Path | None, num_cycles: int, console: Console) -> None:
    """Write the model of a run for other programs into `out`: "hf", "onnx", "openvino" or "torch".

    It is checked on cycles drawn as those of `export_run`; what cannot answer as torch does is not written.
    """
    if num_cycles < 1:
        raise SettingsError(f"an export needs at least one cycle to be checked on, got {num_cycles}")
    trained, corpus, rows, _ = _model_and_cycles(run, data_root, num_cycles)
    cycles = _cut(corpus, rows, trained.front_end)
    if to == "hf":
        found = write_hugging_face(model_file(run), out, cycles)
        checked = {"fitted cycles through the pipeline": found.pipeline, "bare cycles": found.bare}
    else:
        write = {"onnx": write_onnx, "openvino": write_openvino, "torch": write_torch}[to]
        what = "cycles, without asking for float32" if to == "openvino" else "cycles"
        checked = {what: write(trained, out, cycles)}
    for name, agreed in checked.items():
        console.print(
            f"{agreed.num_cycles} {name}: {agreed.share:.1%} the same answers as torch, largest difference in "
            f"probability {agreed.largest_difference:.1e}",
            highlight=False,
            soft_wrap=True,
        )


def _model_and_cycles(
    run: Path, data_root: Path | None, num_cycles: int
) -> tuple[TrainedModel, Corpus, list[int], list[int]]:
    """The model of a run, the corpus that it is checked on, and of that the rows that `_draw` gives."""
    trained = load_model(model_file(run))
    data = _data(run, trained, data_root)
    corpus = corpora.corpus(data)
    return trained, corpus, *_draw(corpus, data.test_parts, num_cycles)


def _data(run: Path, trained: TrainedModel, data_root: Path | None) -> DataSettings:
    """How the corpus is read that the model is checked on."""
    folder = run.parent if run.is_file() else run
    if folder == run or (folder / "run.json").is_file():
        return data_to_test(RunFolder(folder).config().data, data_root, None)
    if data_root is None:
        raise SettingsError(f"{run} alone says nothing of cycles to check it on: give a corpus with --data")
    return DataSettings.model_validate({"root": str(data_root), "label_set": trained.label_set.name})


def _draw(corpus: Corpus, test_parts: Sequence[str], num_cycles: int) -> tuple[list[int], list[int]]:
    """Rows to measure on and rows to learn ranges by."""
    generator = np.random.default_rng(0)
    rows = generator.permutation(rows_to_test(corpus, tuple(test_parts)))
    tested = {int(row) for row in rows}
    others = generator.permutation([row for row in range(len(corpus.cycles)) if row not in tested])
    if not len(others):
        others, rows = rows[:NUM_RANGE_CYCLES], rows[NUM_RANGE_CYCLES:]
    if not len(rows):
        raise SettingsError(f"{corpus.name} has too few cycles to measure engines on; give another corpus with --data")
    return sorted(map(int, rows[:num_cycles])), sorted(map(int, others[:NUM_RANGE_CYCLES]))


def _cut(corpus: Corpus, rows: Sequence[int], front_end: FrontEnd) -> list[Tensor]:
    return waveforms_of([corpus.cycles[row] for row in rows], front_end)


def _measure(trained: TrainedModel, waveforms: Sequence[Tensor], console: Console) -> dict[str, Agreement]:
    found: dict[str, Agreement] = {}
    exact = None
    for name in kinds.available(trained):
        with track(console, name) as on_progress:
            answers = kinds.make(name, trained).answer(
                waveforms,
                on_progress=lambda done, tell=on_progress: tell(done, len(waveforms)),  # type: ignore[misc]
            )
        exact = answers if exact is None else exact  # torch is the first
        found[name] = agreement(exact, answers)
    return found


def _print(measured: dict[str, Agreement], seconds: dict[str, float], console: Console) -> None:
    table = Table(title=f"Engines on {measured['torch'].num_cycles} cycles", title_justify="left")
    for column in ("engine", "ms per cycle", "same answers", "largest difference", "used by"):
        table.add_column(column)
    for name, found in measured.items():
        is_exact = kinds.KINDS[name].is_float32 and found.is_exact
        used = "exact, auto" if is_exact else "auto" if found.is_enough else "by name only"
        ms = f"{1000 * seconds[name]:.1f}"
        table.add_row(name, ms, f"{found.share:.1%}", f"{found.largest_difference:.1e}", used)
    console.print(table)
    console.print(
        f"'auto' takes the fastest of its engines: exact ones, and those with the same answers as torch in at least "
        f"{LEAST_AGREEMENT:.0%} of at least {LEAST_CYCLES} cycles.",
        highlight=False,
    )
