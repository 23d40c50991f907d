"""The processes that train one run together, as torchrun starts them; each has its rows of every batch.

What is computed of all rows (the loss, and what comes after the encoder) is computed by every process alike from
gathered rows. So each takes its share, one over their number, of that loss, and the sum of the gradients over all
processes is the gradient of the loss.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lungsound.errors import LungsoundError

Made = TypeVar("Made")
RESTARTS = "TORCHELASTIC_RESTART_COUNT"


class RankLostError(LungsoundError):
    """Another process of this training has ended, or cannot be reached."""

    exit_code = 1


class Alone:
    """One process, which has all rows. `num` is their number, `rank` is 0 in the process that writes."""

    rank, num, is_restarted = 0, 1, False

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def own(self, num_rows: int) -> slice:
        """The rows of this process among so many: as many as the others have, or one more."""
        return self.rows_of(self.rank, num_rows)

    def rows_of(self, rank: int, num_rows: int) -> slice:
        return slice(num_rows * rank // self.num, num_rows * (rank + 1) // self.num)

    def gather(self, rows: Tensor, num_rows: int) -> Tensor:
        """Rows of all processes, (own, ...) to (num_rows, ...), with gradients."""
        del num_rows
        return rows

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up each parameter's gradient over all processes."""

    def any(self, flag: bool) -> bool:
        """True for all if it is for one."""
        return flag

    def of_first(self, make: Callable[[], Made]) -> Made:
        """What the first process makes, for all."""
        return make()

    def device(self, device: torch.device) -> torch.device:
        """The device of this process, where all asked for this one."""
        return device


ALONE = Alone()


class Ranks(Alone):
    """Several processes, of the initialised default group of `torch.distributed`."""

    def __init__(self) -> None:
        self.rank, self.num = distributed.get_rank(), distributed.get_world_size()
        self.is_restarted = os.environ.get(RESTARTS, "0") != "0"

    def gather(self, rows: Tensor, num_rows: int) -> Tensor:
        return cast(Tensor, _Gather.apply(rows, self, num_rows))  # type: ignore[no-untyped-call]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        gradients = [each.grad for each in parameters if each.grad is not None]
        flat = torch.cat([each.flatten() for each in gradients])
        with _reached():
            distributed.all_reduce(flat)
        totals = torch.split(flat, [each.numel() for each in gradients])
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total.view_as(gradient))

    def any(self, flag: bool) -> bool:
        flags = torch.tensor([int(flag)])
        with _reached():
            distributed.all_reduce(flags)
        return bool(flags.item())

    def of_first(self, make: Callable[[], Made]) -> Made:
        made: list[Any] = [make() if self.is_first else None]
        with _reached():
            distributed.broadcast_object_list(made, device=torch.device("cpu"))
        return cast(Made, made[0])

    def device(self, device: torch.device) -> torch.device:
        if device.type != "cuda" or device.index is not None:
            return device
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        return own


class _Gather(torch.autograd.Function):
    """All rows from each process's own; the gradient of own rows is the sum of those of all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks, num_rows: int) -> Tensor:
        ctx.own, most = ranks.own(num_rows), -(-num_rows // ranks.num)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])  # all send as many
        parts = [torch.empty_like(padded) for _ in range(ranks.num)]
        with _reached():
            distributed.all_gather(parts, padded)
        shares = (ranks.rows_of(rank, num_rows) for rank in range(ranks.num))
        return torch.cat([part[: share.stop - share.start] for part, share in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].contiguous().clone()
        with _reached():
            distributed.all_reduce(total)
        return total[ctx.own], None, None


@contextmanager
def _reached() -> Iterator[None]:
    """RankLostError where the others are not reached."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise RankLostError(f"another process of this training has ended or is not reached ({reason})") from error


@contextmanager
def joined_ranks() -> Iterator[Alone]:
    """This process alone, or among those that torchrun has started with it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield ALONE
        return
    # torchrun keeps its store when it restarts processes, and in it the addresses of those that are gone.
    store, rank, num = next(rendezvous("env://"))
    attempt = f"attempt {os.environ.get(RESTARTS, '0')}"
    distributed.init_process_group(store=PrefixStore(attempt, store), rank=rank, world_size=num)
    try:
        yield Ranks()
    finally:
        distributed.destroy_process_group()
