"""Export a trained model: a graph for the engines of `predict`, or files for other programs, checked on real cycles."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from lungsound.audio.front_end import Sound
from lungsound.data.splits import load_corpus, rows_to_test
from lungsound.data.store import sounds_of
from lungsound.errors import SettingsError
from lungsound.inference.engines import REGISTRY, Parity, available, measure, write_parity
from lungsound.inference.graph import write_beside
from lungsound.inference.hugging_face import write_hugging_face
from lungsound.inference.model_files import write_onnx, write_openvino, write_torch
from lungsound.inference.predictor import find_model
from lungsound.training.evaluate import data_of_model
from lungsound.training.model_file import TrainedModel, load_model


def export_run(model: str | Path, *, data_root: Path | None, num_cycles: int, console: Console) -> Path:
    """Write the graph of a model beside it and measure every engine that is installed; the path of their parity.

    The cycles are drawn from the test set of its run's corpus, or of the one in `data_root`.
    """
    file = find_model(model)
    trained, cycles = _model_and_cycles(file, data_root, num_cycles)
    graph = write_beside(trained)
    measured = measure(trained, available(trained), cycles, console=console)
    table = Table(title=f"Engines on {len(cycles)} cycles", title_justify="left")
    for column in ("engine", "ms per cycle", "decided as torch", "largest difference", "used by"):
        table.add_column(column)
    for name, (parity, seconds) in measured.items():
        is_exact = not REGISTRY[name].is_bf16 and parity.is_exact
        used_by = "exact, auto" if is_exact else "auto" if parity.is_enough else "by name only"
        numbers = (f"{1000 * seconds:.1f}", f"{parity.share:.1%}", f"{parity.largest_difference:.1e}")
        table.add_row(name, *numbers, used_by)
    console.print(table)
    console.print(
        f"'auto' takes the fastest of its engines: exact ones, and those that decide as torch in at least "
        f"{Parity.LEAST_SHARE:.0%} of at least {Parity.LEAST_CYCLES} cycles."
    )
    console.print(f"The graph {graph} lets 'lungsound predict' do without torch.", soft_wrap=True)
    return write_parity(file.parent, trained, {name: parity for name, (parity, _) in measured.items()})


def export_files(
    model: str | Path, *, to: str, out: Path, data_root: Path | None, num_cycles: int, console: Console
) -> None:
    """Write the model for other programs ("hf", "onnx", "openvino", "torch") into `out`, checked on such cycles."""
    file = find_model(model)
    trained, cycles = _model_and_cycles(file, data_root, num_cycles)
    if to == "hf":
        fitted, unpadded = write_hugging_face(file, out, cycles)
        checked = {"fitted cycles through the pipeline": fitted, "unpadded cycles": unpadded}
    elif to == "openvino":
        checked = {"cycles, without asking for float32": write_openvino(trained, out, cycles)}
    else:
        checked = {"cycles": {"onnx": write_onnx, "torch": write_torch}[to](trained, out, cycles)}
    for name, each in checked.items():
        console.print(
            f"{each.num_cycles} {name}: {each.share:.1%} of the same class as torch, largest difference in "
            f"probability {each.largest_difference:.1e}",
            soft_wrap=True,
        )


def _model_and_cycles(file: Path, data_root: Path | None, num_cycles: int) -> tuple[TrainedModel, list[Sound]]:
    """The model in the file, and cycles drawn from the test set that it is checked on."""
    if num_cycles < 1:
        raise SettingsError(f"an export needs at least one cycle to be checked on, got {num_cycles}")
    trained = load_model(file)
    data = data_of_model(file, trained, data_root)
    corpus = load_corpus(data)
    rows = np.random.default_rng(0).permutation(rows_to_test(corpus, data.test_parts))[:num_cycles]
    if not len(rows):
        raise SettingsError(f"{corpus.name} has no test cycles to check an export on; give another corpus with --data")
    return trained, sounds_of([corpus.cycles[row] for row in sorted(map(int, rows))], trained.front_end)
