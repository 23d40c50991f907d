"""What is to be measured, and the ceilings that it is held against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measure import Comparison, Work, compare, seconds_each

BATCH_SIZE = 8


@dataclass(frozen=True)
class Plan:
    """Settings of one call of the benchmark.

    sizes       encoders to measure with: "base", "tiny", or "micro" in a quick call
    data        a corpus for the lines on real cycles; None takes noise of ICBHI's lengths
    model       a run whose model answers, in place of one with random weights
    work        a folder for what is made on the way
    is_against  whether the peers of the library transformers are measured
    say         gets a line of progress
    """

    sizes: tuple[str, ...]
    num_threads: int
    device: torch.device
    work: Path
    ceilings: Mapping[str, float]
    data: Path | None = None
    model: Path | None = None
    is_against: bool = True
    is_quick: bool = False
    say: Callable[[str], None] = print

    @property
    def answering_size(self) -> str:
        """The encoder that answers: the largest of them."""
        return self.sizes[0]

    @property
    def batch_size(self) -> int:
        return 4 if self.is_quick else BATCH_SIZE

    def compare(self, ours: Work, peer: Work, *, least_pairs: int = 3) -> Comparison:
        """Both in turn: nine pairs, or fewer where that takes longer than 40 s; two in a quick call."""
        if self.is_quick:
            return compare(ours, peer, least_pairs=2, most_pairs=2, budget_s=0.0)
        return compare(ours, peer, least_pairs=least_pairs, most_pairs=9, budget_s=40.0)

    def alone(self, work: Work) -> tuple[float, ...]:
        """Seconds of one thing that has no peer."""
        return seconds_each(work, least=2, most=2 if self.is_quick else 9, budget_s=10.0)
