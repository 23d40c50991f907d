"""The lines of the data path: corpus to features, and from the start of a run to its first batch."""

import shutil
from pathlib import Path

from rich.console import Console

from benchmarks.kept import kept_in
from benchmarks.line import Line, seconds_in_numbers
from benchmarks.measure import spread
from benchmarks.plan import Plan
from benchmarks.published_loop import published_features
from benchmarks.stand_in import NUM_CYCLES, NUM_RECORDINGS, write_stand_in
from benchmarks.start import first_batch
from lungsound.audio.front_end import FrontEnd
from lungsound.config import load_config
from lungsound.data.batches import open_store
from lungsound.data.splits import load_corpus
from lungsound.data.store import open_filter_banks

SMALL = (40, 300)  # recordings and cycles of the corpus for the cold path
QUICK = (8, 40)
LEAST_STARTS = 3


def data_lines(plan: Plan) -> list[Line]:
    """The cold path of a small corpus of noise, then the warm start of one of ICBHI's size."""
    num_recordings, num_cycles = QUICK if plan.is_quick else SMALL
    folder = write_stand_in(plan.work / "small", num_recordings=num_recordings, num_cycles=num_cycles)
    return [_cold(plan, folder), _cold(plan, folder, is_padding_encoded=False), *_warm(plan)]


def _cold(plan: Plan, folder: Path, *, is_padding_encoded: bool = True) -> Line:
    what = f"corpus to features, cold, a cycle, {plan.num_threads} threads / a loop over cycles as published"
    key = "data-cold"
    if not is_padding_encoded:
        key, what = "data-cold-own", "the same, where padding is not encoded (the loop computes it)"
    plan.say(what)
    num_recordings, num_cycles = QUICK if plan.is_quick else SMALL
    config = load_config(
        "patchmix_cl", [f"data.root={folder}", f"audio.is_padding_encoded={str(is_padding_encoded).lower()}"]
    )
    front_end = FrontEnd(config.audio)
    store = plan.work / "cold"

    def ours() -> None:
        with kept_in(store):
            open_store(open_filter_banks, "", load_corpus(config.data), front_end, console=Console(quiet=True))
        shutil.rmtree(store)

    padded = FrontEnd(config.audio.model_copy(update={"is_padding_encoded": True}))
    found = plan.compare(ours, lambda: published_features(folder, padded))
    numbers = seconds_in_numbers(found)
    ours_ms, peer_ms = (1e3 * numbers[name] / num_cycles for name in ("ours_s", "peer_s"))
    note = (
        f"ours {ours_ms:.1f} ms a cycle, peer {peer_ms:.1f} ms; {num_cycles} cycles of {num_recordings} recordings "
        f"of noise at 44.1 kHz, {found.num_pairs} pairs"
    )
    return Line(key, what, "x", 5.0, found.ratio, note=note, numbers=numbers)


def _warm(plan: Plan) -> list[Line]:
    num_recordings, num_cycles = (56, 240) if plan.is_quick else (NUM_RECORDINGS, NUM_CYCLES)
    plan.say(f"a store of {num_cycles:,} cycles, then its start")
    rate_hz = 16000 if plan.is_quick else 44100
    folder = write_stand_in(plan.work / "whole", num_recordings=num_recordings, num_cycles=num_cycles, rate_hz=rate_hz)
    store = plan.work / "warm"
    first_batch(folder, cache=store)
    runs = [first_batch(folder, cache=store) for _ in range(1 if plan.is_quick else LEAST_STARTS)]
    starts, growths = (spread(tuple(run[name] for run in runs)) for name in ("start_s", "growth_mib"))
    what = f"start to first batch, warm store, {num_cycles:,} cycles"
    note = f"imports included; {len(runs)} starts, files in the page cache"
    more = "the same, growth of resident memory over a pass through all cycles"
    return [
        Line("data-start", what, "s", 2.0, starts, is_most=True, note=note),
        Line("data-growth", more, "MiB", 300.0, growths, is_most=True, note="beyond imports and settings"),
    ]
