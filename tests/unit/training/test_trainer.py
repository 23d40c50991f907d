"""The loop: which batch, rate and generator at which step; scores, selection, checkpoints, interruption, resuming."""

import json
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from lungsound.config import TrainSettings
from lungsound.data.batches import Batch, Inputs, TrainingBatches
from lungsound.errors import LungsoundError
from lungsound.evaluation.metrics import IcbhiScore
from lungsound.randomness import generator_at
from lungsound.ranks import ALONE
from lungsound.training.objectives import Loss
from lungsound.training.trainer import Listener, Progress, RunInterrupted, Schedule, Stopwatch, Trainer

SEED = 3
NUM_STEPS = 5  # 11 cycles in batches of 2, the last one dropped
TRAIN = TrainSettings(learning_rate=1e-3, epochs=3, warmup_epochs=1, batch_size=2, seed=SEED)
SCHEDULE = Schedule(TRAIN)


class RecordingStep:
    """Stands for the optimisation: keeps what it was asked to do and answers every second cycle right."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[float], list[int], float, int]] = []
        self.device, self.ranks = torch.device("cpu"), ALONE

    def __call__(self, *batches: Batch, learning_rate: float, generator: torch.Generator) -> Loss:
        first_values = [value for batch in batches for value in batch.fbank[:, 0, 0].tolist()]
        labels = torch.cat([batch.labels for batch in batches])
        self.calls.append((first_values, labels.tolist(), learning_rate, generator.initial_seed()))
        answers = torch.tensor([labels[0].item(), *[(label + 1) % 4 for label in labels[1:].tolist()]])
        total = torch.tensor(sum(first_values))
        return Loss(total, {"ce": total / 2}, functional.one_hot(answers, 4).double())


def make_batches() -> TrainingBatches:
    fbanks = np.arange(11, dtype=np.float32).reshape(11, 1, 1)
    inputs = Inputs(fbanks, torch.arange(11) % 4, None, num_classes=4, mean=0.0, std=0.5)
    return TrainingBatches(inputs, range(11), TRAIN)


class Run:
    """A trainer with its step and everything that it was told to save and to keep."""

    def __init__(
        self,
        *,
        scores: Sequence[IcbhiScore] | None = None,
        on_step: Callable[[Progress], None] | None = None,
        read_every_steps: int = 1,
        **changed: Any,
    ) -> None:
        self.step = RecordingStep()
        self.saved: list[dict[str, Any]] = []
        self.kept: list[tuple[str, int]] = []
        self.seen: list[tuple[int, int, float]] = []
        self.on_step_ = on_step
        remaining = iter(scores or ())
        self.trainer = Trainer(
            self.step,  # type: ignore[arg-type]
            make_batches(),
            TRAIN.model_copy(update=changed),
            evaluate=lambda: {} if scores is None else {"validation": next(remaining)},
            save=lambda progress: self.saved.append(json.loads(json.dumps(progress.model_dump()))),
            keep=lambda name: self.kept.append((name, len(self.step.calls) // NUM_STEPS)),
            listeners=(self.listener(),),
        )
        self.trainer.read_every_steps = read_every_steps

    def fit(self, epochs: int, progress: Progress) -> Progress:
        self.trainer.train = self.trainer.train.model_copy(update={"epochs": epochs})
        return self.trainer.fit(progress)

    def listener(self) -> Listener:
        run = self

        class Tell(Listener):
            def on_step(self, progress: Progress, *, num_steps: int, learning_rate: float) -> None:
                assert num_steps == run.trainer.num_steps
                run.seen.append((progress.epoch, progress.step, learning_rate))
                if run.on_step_ is not None:
                    run.on_step_(progress)

        return Tell()

    def places_saved(self) -> list[tuple[int, int]]:
        return [(saved["epoch"], saved["step"]) for saved in self.saved]


def without_time(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in history]


def score(specificity: float, sensitivity: float) -> IcbhiScore:
    return IcbhiScore(specificity, sensitivity)


# ---- steps ----


def test_every_step_gets_its_batch_rate_and_generator() -> None:
    run = Run()
    progress = run.fit(3, Progress())
    expected = []
    for epoch in (1, 2, 3):
        for step, batch in enumerate(make_batches().epoch(epoch)):
            rate = SCHEDULE.at(epoch, step, num_steps=NUM_STEPS)
            seed = generator_at(SEED, "patch-mix", epoch, step).initial_seed()
            expected.append((batch.fbank[:, 0, 0].tolist(), batch.labels.tolist(), rate, seed))
    assert run.step.calls == expected
    assert len({seed for *_, seed in run.step.calls}) == 15
    assert run.seen == [(i // 5 + 1, i % 5 + 1, expected[i][2]) for i in range(15)]
    assert (progress.epoch, progress.step) == (4, 0)


def test_a_row_of_history_for_each_epoch() -> None:
    run = Run(scores=[score(0.8, 0.4), score(0.5, 0.1)])
    progress = run.fit(2, Progress())
    assert [row["epoch"] for row in progress.history] == [1, 2]
    for row, calls in zip(progress.history, (run.step.calls[:5], run.step.calls[5:]), strict=True):
        losses = [sum(values) for values, *_ in calls]
        assert row["loss"] == pytest.approx(np.mean(losses))
        assert row["ce"] == pytest.approx(np.mean(losses) / 2)
        assert row["learning_rate"] == calls[-1][2]
        firsts = [labels[0] for _, labels, *_ in calls]
        everything = [label for _, labels, *_ in calls for label in labels]
        specificity = firsts.count(0) / everything.count(0)
        sensitivity = sum(label > 0 for label in firsts) / sum(label > 0 for label in everything)
        assert row["training_score"] == pytest.approx((specificity + sensitivity) / 2)
        assert row["seconds"] == pytest.approx(sum(row[f"{name}_seconds"] for name in ("data", "compute", "host")))
    assert [row["validation_score"] for row in progress.history] == pytest.approx([0.6, 0.3])
    assert progress.history[0]["validation_specificity"] == 0.8
    assert progress.history[0]["validation_sensitivity"] == 0.4


def test_without_a_watched_part_nothing_is_scored_or_kept() -> None:
    run = Run()
    progress = run.fit(2, Progress())
    assert not run.kept
    assert progress.best_epochs == {}
    assert "validation_score" not in progress.history[0]


# ---- selection ----


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([score(0.5, 0.3), score(0.5, 0.2), score(0.5, 0.4)], [1, 3]),
        ([score(0.5, 0.3), score(0.5, 0.3), score(0.3, 0.5)], [1]),  # a tie keeps the earlier epoch
        ([score(1.0, 0.05), score(0.2, 0.06), score(1.0, 0.0)], [2]),  # sensitivity must be above 5 %
        ([score(1.0, 0.01), score(1.0, 0.0), score(1.0, 0.05)], []),
        ([score(float("nan"), 0.5), score(0.1, 0.1), score(0.5, float("nan"))], [2]),
    ],
)
def test_the_best_epoch_is_kept(scores: list[IcbhiScore], kept: list[int]) -> None:
    run = Run(scores=scores)
    progress = run.fit(3, Progress())
    assert run.kept == [("validation", epoch) for epoch in kept]
    assert progress.best_epochs == ({"validation": kept[-1]} if kept else {})
    assert progress.best_scores == ({"validation": scores[kept[-1] - 1].score} if kept else {})


def test_each_watched_part_has_a_best_epoch_of_its_own() -> None:
    run = Run()
    scores = iter([(0.3, 0.2), (0.2, 0.4), (0.4, 0.1)])
    run.trainer.evaluate = lambda: {
        name: score(0.5, value) for name, value in zip(("validation", "test"), next(scores), strict=True)
    }
    progress = run.fit(3, Progress())
    assert run.kept == [("validation", 1), ("test", 1), ("test", 2), ("validation", 3)]
    assert progress.best_epochs == {"validation": 3, "test": 2}
    assert progress.best_scores == {"validation": 0.45, "test": 0.45}


# ---- checkpoints and resuming ----


def test_checkpoints_are_saved_every_few_steps_and_after_each_epoch() -> None:
    run = Run(checkpoint_every_steps=2)
    run.fit(2, Progress())
    assert run.places_saved() == [(1, 2), (1, 4), (2, 0), (2, 2), (2, 4), (3, 0)]


def test_a_run_goes_on_from_every_checkpoint_as_if_it_had_not_stopped() -> None:
    scores = [score(0.5, 0.3), score(0.5, 0.2), score(0.5, 0.4)]
    whole = Run(scores=scores, checkpoint_every_steps=1)
    finished = whole.fit(3, Progress())
    assert len(whole.saved) == 18
    for saved in whole.saved:
        start = Progress.model_validate(saved)
        num_done = 5 * (start.epoch - 1) + start.step
        rest = Run(scores=scores[start.epoch - 1 :])
        again = rest.fit(3, start)
        assert rest.step.calls == whole.step.calls[num_done:]
        assert without_time(again.history) == without_time(finished.history)
        assert (again.best_epochs, again.best_scores) == (finished.best_epochs, finished.best_scores)


def test_a_finished_run_does_nothing_more() -> None:
    finished = Run().fit(2, Progress())
    again = Run()
    assert again.fit(2, finished) is finished
    assert not again.step.calls
    assert not again.saved


@pytest.mark.parametrize("read_every_steps", [1, 4])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(read_every_steps: int) -> None:
    class Diverging(RecordingStep):
        def __call__(self, *batches: Batch, learning_rate: float, generator: torch.Generator) -> Loss:
            loss = super().__call__(*batches, learning_rate=learning_rate, generator=generator)
            return loss if len(self.calls) < 8 else Loss(loss.total * float("nan"), loss.parts, loss.logits)

    run = Run(checkpoint_every_steps=2, read_every_steps=read_every_steps)
    run.trainer.step = Diverging()  # type: ignore[assignment]
    with pytest.raises(LungsoundError, match="epoch 2"):
        run.fit(3, Progress())
    assert run.places_saved()[-1] == (2, 2)
    assert len(run.trainer.step.calls) <= 7 + read_every_steps  # type: ignore[attr-defined]


def test_losses_that_are_read_later_give_the_same_to_the_bit() -> None:
    """Also when a checkpoint or a stop comes between two readings: nothing unread is saved."""
    expected = Run(checkpoint_every_steps=3)
    finished = expected.fit(3, Progress())
    late = Run(checkpoint_every_steps=3, read_every_steps=4)
    again = late.fit(3, Progress())
    assert without_time(again.history) == without_time(finished.history)
    assert late.places_saved() == expected.places_saved()
    for ours, theirs in zip(late.saved, expected.saved, strict=True):
        assert (ours["loss_sums"], ours["confusion"]) == (theirs["loss_sums"], theirs["confusion"])
    assert [step for epoch, step, _ in late.seen if epoch == 1] == [3, 5]  # the checkpoint's, the epoch's last


def test_a_signal_between_two_readings_stops_after_its_step() -> None:
    class Stopped(RecordingStep):
        def __call__(self, *batches: Batch, learning_rate: float, generator: torch.Generator) -> Loss:
            if len(self.calls) == 6:
                signal.raise_signal(signal.SIGINT)
            return super().__call__(*batches, learning_rate=learning_rate, generator=generator)

    run, rest = Run(read_every_steps=4), Run()
    run.trainer.step = Stopped()  # type: ignore[assignment]
    with pytest.raises(RunInterrupted, match="stopped in epoch 2 after step 2"):
        run.fit(3, Progress())
    found = rest.fit(3, Progress.model_validate(run.saved[-1]))
    assert without_time(found.history) == without_time(Run().fit(3, Progress()).history)


# ---- several batches to a step ----


def test_steps_over_several_batches_take_all_of_an_epoch_in_its_order() -> None:
    whole, run = Run(), Run(num_accumulated_batches=2, checkpoint_every_steps=2)
    whole.fit(2, Progress())
    run.fit(2, Progress())
    batches = [call[1] for call in whole.step.calls]
    assert [call[1] for call in run.step.calls] == [
        [label for batch in batches[first : min(first + 2, stop)] for label in batch]
        for start, stop in ((0, 5), (5, 10))
        for first in range(start, stop, 2)
    ]
    assert [call[2] for call in run.step.calls[:3]] == [SCHEDULE.at(1, step, num_steps=3) for step in range(3)]
    assert run.places_saved() == [(1, 2), (2, 0), (2, 2), (3, 0)]


def test_a_run_of_such_steps_goes_on_from_every_checkpoint() -> None:
    whole = Run(num_accumulated_batches=2, checkpoint_every_steps=1)
    finished = whole.fit(2, Progress())
    for saved in whole.saved:
        start, rest = Progress.model_validate(saved), Run(num_accumulated_batches=2)
        num_done = 3 * (start.epoch - 1) + start.step
        again = rest.fit(2, start)
        assert rest.step.calls == whole.step.calls[num_done:]
        assert without_time(again.history) == without_time(finished.history)


# ---- time ----


def test_each_moment_counts_once() -> None:
    times = iter([0.0, 1.0, 3.0, 7.0, 8.0])
    stopwatch = Stopwatch(lambda: next(times))
    for name in ("data", "compute", "data"):
        stopwatch.lap(name)
    assert stopwatch.seconds == {"data": 5.0, "compute": 2.0}
    stopwatch.lap("host")
    assert stopwatch.seconds["host"] == 1.0


def test_time_is_counted_to_what_it_is_spent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading of a made clock: batches take 1 s, steps 10 s, listeners and the scores 100 s."""
    now = [0.0]

    def passing(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*values: Any, **keywords: Any) -> Any:
            now[0] += seconds
            return work(*values, **keywords)

        return timed

    monkeypatch.setattr(RecordingStep, "__call__", passing(10.0, RecordingStep.__call__))
    monkeypatch.setattr(Inputs, "batch", passing(1.0, Inputs.batch))
    monkeypatch.setattr("lungsound.training.trainer.Stopwatch", lambda: Stopwatch(lambda: now[0]))
    run = Run(on_step=passing(100.0, lambda _: None))
    run.trainer.evaluate = passing(100.0, dict)
    row = run.fit(1, Progress()).history[0]
    assert {name: row[f"{name}_seconds"] for name in ("data", "compute", "host")} == {
        "data": 5.0,
        "compute": 50.0,
        "host": 600.0,
    }
    assert row["seconds"] == 655.0


# ---- interruption ----


def stopping(number: signal.Signals, *, epoch: int, step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            signal.raise_signal(number)

    return on_step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 3, NUM_STEPS])
def test_a_signal_stops_after_the_step_with_a_checkpoint(number: signal.Signals, step: int) -> None:
    handlers = [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)]
    run = Run(on_step=stopping(number, epoch=2, step=step))
    with pytest.raises(RunInterrupted, match=rf"stopped in epoch 2 after step {step}; .*--resume"):
        run.fit(3, Progress())
    assert [signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert run.places_saved()[-1] == (2, step)

    whole, rest = Run(), Run()
    expected = whole.fit(3, Progress())
    found = rest.fit(3, Progress.model_validate(run.saved[-1]))
    assert run.step.calls + rest.step.calls == whole.step.calls
    assert without_time(found.history) == without_time(expected.history)


def test_a_second_signal_stops_at_once() -> None:
    def on_step(progress: Progress) -> None:
        del progress
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run = Run(on_step=on_step)
    with pytest.raises(KeyboardInterrupt):
        run.fit(3, Progress())
    assert len(run.step.calls) == 1


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    handler = signal.getsignal(signal.SIGINT)
    found: list[Progress] = []
    run = Run(on_step=lambda _: handlers.add(signal.getsignal(signal.SIGINT)))
    handlers: set[Any] = set()
    thread = threading.Thread(target=lambda: found.append(run.fit(1, Progress())))
    thread.start()
    thread.join()
    assert found[0].epoch == 2
    assert handlers == {handler}
