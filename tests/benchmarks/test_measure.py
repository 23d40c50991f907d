"""Things done in turn: order, warm-up, budget; and the memory of processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.measure import pss_mib, seconds_in_turn


class Clock:
    """A clock that only moves when work is done on it."""

    now = 0.0

    def __init__(self) -> None:
        self.done: list[str] = []

    def work(self, name: str, *seconds: float) -> None:
        taken = seconds[min(self.done.count(name), len(seconds) - 1)]
        self.done.append(name)
        self.now += taken


def test_works_take_turns_and_the_first_of_each_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    works = (lambda: clock.work("ours", 100, 1, 2, 4), lambda: clock.work("peer", 100, 3, 8, 4))
    assert seconds_in_turn(*works, least=3, most=3, budget_s=0.0).tolist() == [[1, 3], [2, 8], [4, 4]]
    assert clock.done == ["ours", "peer"] * 4
    for budget_s, num_rounds in ((0.0, 2), (7.0, 4), (100.0, 5)):
        rounds = seconds_in_turn(
            lambda: clock.work("a", 1), lambda: clock.work("b", 1), least=2, most=5, budget_s=budget_s
        )
        assert len(rounds) == num_rounds, budget_s


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is counted on Linux only")
def test_the_memory_is_that_of_all_processes() -> None:
    before_mib = pss_mib(os.getpid())
    code = "held = b'x' * 2**26\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        grown_mib = pss_mib(os.getpid()) - before_mib
        process.kill()
    assert 64 < grown_mib < 128
