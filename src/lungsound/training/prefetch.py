"""The next batch is made, and copied to the GPU, while a step runs."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from lungsound.data.dataset import Batch

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Generator[Item]:
    """The same items in the same order, each made in a thread of its own while the one before is used.

    What making one raises is raised where it is asked for. Closing the iterator waits for the one that is being made.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch") as maker:
        coming = maker.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = maker.submit(next, items, None)
            yield item


def copy_to_gpu(batch: Batch, device: torch.device) -> Batch:
    """The batch on a CUDA device, from pinned memory: nobody waits for the copy, and the device's work comes after."""

    def copy(values: Tensor) -> Tensor:
        return values.pin_memory().to(device, non_blocking=True)

    return replace(batch, fbank=copy(batch.fbank), labels=copy(batch.labels))
