"""The lines that a training prints."""

import io

from rich.console import Console

from lungsound.config import TrainSettings
from lungsound.progress import ProgressDisplay
from lungsound.training.callbacks import ProgressBar
from lungsound.training.trainer import Progress


class Clock:
    """A clock that a test turns."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_line_of_an_epoch_is_not_broken_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with ProgressDisplay(Console(file=stream, width=80)) as display, display.stage("training") as stage:
        bar = ProgressBar(display, stage, TrainSettings(epochs=24))
        scores = {f"{name}_score": 0.5 for name in ("training", "validation", "test")}
        spent = {"seconds": 12.0, "data_seconds": 1.0, "compute_seconds": 10.5, "host_seconds": 0.5}
        bar.on_epoch(Progress(history=[{"epoch": 3, "loss": 1.25, **scores, **spent}]))
    assert stream.getvalue() == (
        "epoch   3/24  loss 1.2500  training Score 50.00  validation Score 50.00  test Score 50.00  12.0 s "
        "(data 1.0, compute 10.5, host 0.5)\n"
    )


def test_within_a_long_epoch_a_line_says_how_far_it_is() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, width=80)
    with ProgressDisplay(console, clock=clock) as display, display.stage("training") as stage:
        bar = ProgressBar(display, stage, TrainSettings(epochs=2, batch_size=4, num_accumulated_batches=2))
        for step in range(1, 7):
            progress = Progress(epoch=2, step=step, loss_sums={"loss": 0.5 * step}, confusion=[[3, 1], [0, 4]])
            bar.on_step(progress, num_steps=10, learning_rate=1e-3)
            clock.now_s += 10
    assert stream.getvalue().splitlines() == [
        "epoch 2/2  loss 0.500  training Score 87.5  0.8 cycles/s: 14 of 20, about 60 s left"
    ]
