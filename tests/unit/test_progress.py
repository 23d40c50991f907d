"""Long work shows how far it has come, on a terminal and off it."""

import io

from rich.console import Console

from lungsound.progress import SILENCE_S, ProgressDisplay, duration, track


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_off_a_terminal_a_line_comes_after_half_a_minute_of_silence_and_not_before() -> None:
    stream, clock = io.StringIO(), Clock()
    with track(Console(file=stream, width=20), "filter banks", clock=clock) as on_progress:
        for done in range(0, 101):
            on_progress(done, 100)
            clock.now_s += SILENCE_S / 10
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "filter banks: 10 of 100, 20 a minute, about 4 min left"  # 90 more of 3 s each
    assert lines[-1] == "filter banks: 100 of 100, 20 a minute, about 0 s left"


def test_a_step_shorter_than_that_prints_nothing_off_a_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    with track(Console(file=stream), "audit", clock=clock) as on_progress:
        on_progress(0, 2)
        clock.now_s += SILENCE_S - 1
        on_progress(2, 2)
    assert stream.getvalue() == ""


def test_without_a_total_the_number_done_is_printed() -> None:
    stream, clock = io.StringIO(), Clock()
    with track(Console(file=stream), "download", clock=clock) as on_progress:
        clock.now_s += SILENCE_S
        on_progress(5, None)
    assert stream.getvalue() == "download: 5\n"


def test_any_line_ends_the_silence() -> None:
    stream, clock = io.StringIO(), Clock()
    with ProgressDisplay(Console(file=stream), clock=clock) as display, display.stage("train") as stage:
        stage.update(0, 9)
        clock.now_s += SILENCE_S - 1
        display.print("epoch 1")
        clock.now_s += SILENCE_S - 1
        stage.update(1, 9)
        assert stream.getvalue() == "epoch 1\n"
        clock.now_s += 1
        stage.update(2, 9)
    assert stream.getvalue().splitlines()[1:] == ["train: 2 of 9, about 3 min left"]


def test_a_terminal_gets_a_bar_and_no_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=80)
    with ProgressDisplay(console, clock=clock) as display, display.stage("filter banks") as stage:
        for done in range(4):
            stage.update(done, 4)
            clock.now_s += 2 * SILENCE_S
        display.bars.refresh()
    assert "filter banks" in stream.getvalue()
    assert "3/4" in stream.getvalue()
    assert "left" not in stream.getvalue()


def test_durations_in_words() -> None:
    assert [duration(seconds) for seconds in (4.4, 99, 100, 3570, 7500)] == [
        *("4 s", "99 s", "2 min", "1 h 0 min", "2 h 5 min"),
    ]
