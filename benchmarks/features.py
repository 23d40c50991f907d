"""Sound files to filter banks, beside a loop over cycles as published."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks import ours
from benchmarks.measure import Work
from benchmarks.peers import published_features
from benchmarks.rows import Bench, Row, cache_in, in_a_process
from lungsound.audio.front_end import FrontEnd
from lungsound.config import load_config
from lungsound.data.splits import load_corpus
from lungsound.data.store import open_filter_banks

NUM_RECORDINGS, NUM_CYCLES, RATE_HZ = 40, 300, ours.RATE_HZ


def feature_rows(bench: Bench) -> list[Row]:
    """An empty store filled from a corpus of noise: on one core beside the loop on one core, then on two."""
    size = (8, 40, 16000) if bench.is_quick else (NUM_RECORDINGS, NUM_CYCLES, RATE_HZ)
    corpus = ours.write_noise_corpus(bench.work / "noise", *size)
    num_rounds = 1 if bench.is_quick else 3
    one, two = [], []
    for _ in range(num_rounds):
        one += in_a_process(_seconds, bench, corpus, True, num_threads=1)
        two += in_a_process(_seconds, bench, corpus, False, num_threads=2)
    padded_s, own_s, loop_s = np.array(one).T
    ms = [f"{1e3 * np.median(each) / size[1]:.1f} ms" for each in (padded_s, own_s, loop_s)]
    of_two = np.median(np.array(two)[:, 0].reshape(num_rounds, -1), axis=1)
    of_one = np.median(padded_s.reshape(num_rounds, -1), axis=1)
    how = f"{size[1]} cycles of noise at {size[2]} Hz, one thread; {len(one)} rounds"
    return [
        Row(
            "corpus to features / a loop over cycles as published, one core",
            loop_s / padded_s,
            "x",
            f"ours {ms[0]} a cycle, peer {ms[2]}; {how}",
            at_least=3,
        ),
        Row(
            "the same, padding not encoded (the loop computes it)",
            loop_s / own_s,
            "x",
            f"ours {ms[1]} a cycle",
            at_least=3,
        ),
        Row(
            "corpus to features, two cores / one",
            of_one / of_two,
            "x",
            "medians of processes of their own, in turn",
            at_least=1.8,
        ),
    ]


def _seconds(bench: Bench, corpus: Path, has_peer: bool) -> list[list[float]]:
    """Seconds of each round: filter banks of the input's whole length, of the cycles' own length, and the loop's."""
    config = load_config("patchmix_cl", [f"data.root={corpus}"])
    padded = FrontEnd(config.audio)
    own = FrontEnd(config.audio.model_copy(update={"is_padding_encoded": False}))

    def fill(front_end: FrontEnd) -> None:
        with cache_in(bench.work / "cold"):
            open_filter_banks(load_corpus(config.data), front_end, console=Console(quiet=True))
        shutil.rmtree(bench.work / "cold")

    works: list[Work] = [partial(fill, padded), partial(fill, own)]
    works += [lambda: published_features(corpus, padded)] if has_peer else []
    return [list(map(float, each)) for each in bench.in_turn(*works, least=3, most=3)]
