"""One engine for several threads: everybody's own answers, errors to those they belong to, full batches."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from starlette.requests import ClientDisconnect

from lungsound.audio.front_end import Sound
from lungsound.inference.engines import Engine, Outputs
from lungsound.inference.predictor import Predictor
from lungsound.serve.queue import GPU_BATCH_SIZE, TURN, GatheringEngine, WorkQueue
from tests.unit.serve.test_limits import wait_for

CPU = "cpu"


class Held(Engine):
    """Answers with each waveform's first sample; `asked` lists what it was asked for, once it may go."""

    def __init__(self, *, batch_size: int) -> None:
        self.name, self.batch_size = "held", batch_size
        self.trained = SimpleNamespace()  # type: ignore[assignment]
        self.run_batch = lambda clips: (clips, clips, clips)
        self.asked: list[list[float]] = []
        self.may_go = threading.Event()

    def predict(self, cycles: Sequence[Sound], **_: object) -> Outputs:
        self.asked.append([float(cycle.waveform[0]) for cycle in cycles])
        assert self.may_go.wait(10)
        if -1.0 in self.asked[-1]:
            raise ValueError("a cycle that cannot be")
        return np.float32(self.asked[-1])[:, None], np.empty((len(cycles), 0), np.float32)


def cycles(*values: float) -> list[Sound]:
    return [Sound(torch.full((3,), value)) for value in values]


def test_answers_are_those_of_the_engine_alone(tiny: Predictor) -> None:
    given = [Sound(torch.randn(16000, generator=torch.Generator().manual_seed(seed))) for seed in range(12)]
    expected = tiny.engine.predict(given)[0]
    engine = GatheringEngine(tiny.engine, CPU)
    with ThreadPoolExecutor(6) as pool:
        parts = [pool.submit(engine.predict, given[first : first + 2]) for first in range(0, 12, 2)]
        found = np.concatenate([part.result(20)[0] for part in parts])
    engine.close()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert engine.name == tiny.engine.name


@pytest.mark.parametrize(
    ("gathered", "asked"),
    [(3, [[0, 0], [1, 2, 3], [4, 4, 4, 4], [5]]), (64, [[0, 0], [1, 2, 3, 4, 4, 4, 4, 5]])],
)
def test_those_who_wait_are_predicted_together(
    gathered: int, asked: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lungsound.serve.queue.GATHERED", gathered)
    held = Held(batch_size=1)
    engine = GatheringEngine(held, CPU)
    given = [cycles(0, 0), cycles(1), cycles(2), cycles(3), cycles(4, 4, 4, 4), cycles(5)]
    with ThreadPoolExecutor(len(given)) as pool:
        futures = []
        for number, each in enumerate(given):
            futures.append(pool.submit(engine.predict, each))
            # The first is being computed, the others wait in the order in which they came.
            wait_for(lambda: held.asked if number == 0 else engine._waiting.qsize() == number)  # noqa: B023
        held.may_go.set()
        found = [future.result(10)[0][:, 0].tolist() for future in futures]
    engine.close()
    assert found == [[float(cycle.waveform[0]) for cycle in each] for each in given]
    assert held.asked == asked


def test_an_error_reaches_those_it_belongs_to_and_ends_nothing() -> None:
    held = Held(batch_size=1)
    held.may_go.set()
    engine = GatheringEngine(held, CPU)
    with pytest.raises(ValueError, match="a cycle that cannot be"):
        engine.predict(cycles(-1.0))
    assert engine.predict(cycles(2.0))[0].tolist() == [[2.0]]
    engine.close()


def test_close_answers_what_was_asked_before() -> None:
    held = Held(batch_size=4)
    engine = GatheringEngine(held, CPU)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(engine.predict, cycles(1.0))]
        wait_for(lambda: held.asked)
        futures.append(pool.submit(engine.predict, cycles(2.0)))
        wait_for(lambda: engine._waiting.qsize() == 1)
        closing = pool.submit(engine.close)
        wait_for(lambda: engine._waiting.qsize() == 2)
        held.may_go.set()
        closing.result(10)
    assert [future.result(0)[0].tolist() for future in futures] == [[[1.0]], [[2.0]]]


def test_batches_are_larger_on_a_gpu() -> None:
    held = Held(batch_size=4)
    engine = GatheringEngine(held, "cuda")
    engine.close()
    assert engine.batch_size == held.batch_size == GPU_BATCH_SIZE


def test_a_long_request_waits_for_its_next_turn() -> None:
    held = Held(batch_size=4)
    engine = GatheringEngine(held, CPU)
    with ThreadPoolExecutor(3) as pool:
        long = pool.submit(engine.predict, cycles(*range(2 * TURN + 1)))
        wait_for(lambda: held.asked)
        short = pool.submit(engine.predict, cycles(100.0))
        wait_for(lambda: engine._waiting.qsize() == 1)
        held.may_go.set()
        assert short.result(10)[0][:, 0].tolist() == [100.0]
        assert long.result(10)[0][:, 0].tolist() == list(range(2 * TURN + 1))
    engine.close()
    assert [len(asked) for asked in held.asked] == [TURN, TURN + 1, 1]


def test_who_gave_up_is_left_by_the_engine_and_the_readers() -> None:
    """A request that is over frees its thread, though its cycles are not predicted to their end."""
    held = Held(batch_size=1)
    engine = GatheringEngine(held, CPU)

    async def give_up() -> None:
        queue = WorkQueue(num_workers=1, max_waiting=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await queue.run(lambda: engine.predict(cycles(*range(3 * TURN))))
        held.may_go.set()
        await queue.close()

        async def is_gone() -> bool:
            return True

        with pytest.raises(ClientDisconnect):
            await queue.read(lambda: None, is_gone=is_gone)

    asyncio.run(give_up())
    engine.close()
    assert [len(asked) for asked in held.asked] == [TURN]


def test_no_more_is_read_than_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until what was read has been predicted; a request that is given up leaves nothing behind."""
    monkeypatch.setattr("lungsound.serve.queue.MAX_HELD_BYTES", 10)

    async def read_all() -> list[bool]:
        queue = WorkQueue(num_workers=2, max_waiting=2)
        with queue.hold(9):
            assert await queue.read(lambda: 1) == 1
            with queue.hold(1):
                waiting, given_up = (asyncio.create_task(queue.read(lambda: 2)) for _ in range(2))
                await asyncio.sleep(0.05)
                has_waited = not waiting.done() and not given_up.done()
                given_up.cancel()
        return [has_waited, await waiting == 2, await queue.read(lambda: 3) == 3]

    assert asyncio.run(read_all()) == [True, True, True]
