"""What is printed while a run trains."""

import io

from rich.console import Console

from lungsound.training.callbacks import ProgressBar
from lungsound.training.trainer import Progress


def test_the_line_of_an_epoch_is_not_broken_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    bar = ProgressBar(Console(file=stream, width=80), epochs=24, cycles_per_step=16)
    scores = {f"{name}_score": 0.5 for name in ("training", "validation", "test")}
    spent = {"seconds": 12.0, "data_seconds": 1.0, "compute_seconds": 10.5, "host_seconds": 0.5}
    bar.on_epoch(Progress(history=[{"epoch": 3, "loss": 1.25, **scores, **spent}]))
    assert stream.getvalue() == (
        "epoch   3/24  loss 1.2500  training Score 50.00  validation Score 50.00  test Score 50.00  12.0 s "
        "(data 1.0, compute 10.5, host 0.5)\n"
    )
