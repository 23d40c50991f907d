"""Batches made ahead: order, what is raised, how it ends."""

import threading
from collections.abc import Iterator

import pytest
import torch

from lungsound.data.batches import Batch
from lungsound.training.trainer import ahead, copy_to_gpu


def test_all_come_in_order_and_from_another_thread() -> None:
    makers: set[int] = set()

    def make() -> Iterator[int]:
        for number in range(20):
            makers.add(threading.get_ident())
            yield number

    assert list(ahead(make())) == list(range(20))
    assert len(makers - {threading.get_ident()}) == 1
    assert list(ahead(iter(()))) == []


def test_the_next_is_made_while_one_is_used() -> None:
    is_second_made = threading.Event()

    def make() -> Iterator[int]:
        yield 1
        is_second_made.set()
        yield 2

    items = ahead(make())
    assert next(items) == 1
    assert is_second_made.wait(timeout=10)
    assert list(items) == [2]


def test_what_is_raised_comes_where_it_is_asked_for() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("no second")

    items = ahead(make())
    assert next(items) == 1
    with pytest.raises(ValueError, match="no second"):
        next(items)


def test_after_closing_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    items = ahead(iter(range(20)))
    assert next(items) == 0
    assert set(threading.enumerate()) - before
    items.close()
    assert set(threading.enumerate()) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_batch_on_the_gpu_is_the_same() -> None:
    batch = Batch(torch.randn(3, 5, 4), torch.arange(3), torch.tensor([1, 2, 5]))
    copied = copy_to_gpu(batch, torch.device("cuda"))
    assert copied.num_frames is batch.num_frames
    for ours, theirs in ((copied.fbank, batch.fbank), (copied.labels, batch.labels)):
        assert ours.is_cuda
        assert torch.equal(ours.cpu(), theirs)
