"""Faithfulness of explanations to a trained model, and on a synthetic corpus their overlap with what was planted.

`python -m benchmarks.explanations RUN --out STEM`. Deletion and insertion (Petsiuk et al., "RISE", BMVC 2018): tiles of
the filter bank are taken away, or put in, from the most relevant on, and the predicted probability is followed. What is
taken away is replaced by background. The less area under the curve of deletion, and the more under that of insertion,
the better the order. Tiles do not overlap, so that nothing of what was taken away is left in a patch that reaches into
its neighbour. Relevance stands beside two orders that need no model (how loud a tile is, and how far above the
background) and beside orders by chance.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from markupsafe import Markup
from rich.console import Console
from torch import Tensor

from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.axes import PATCH_SIZE
from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE, Corpus, Cycle
from lungsound.data.splits import load_corpus, rows_to_test
from lungsound.data.store import waveforms_of
from lungsound.data.synthetic import Event
from lungsound.errors import SettingsError
from lungsound.evaluation.bootstrap import Bootstrap, Estimate
from lungsound.inference.explain import check_explainable, fold, own_frames, relevance
from lungsound.labels import LungSound
from lungsound.page import Cell, paragraphs, table, write_page
from lungsound.progress import track
from lungsound.randomness import generator_at
from lungsound.training.checkpoint import TrainedModel
from lungsound.training.run import RunFolder

NUM_STEPS = 10

Predict = Callable[[Tensor], Tensor]
"""From masks (step, time, mel), true where a bin is replaced by background, to probabilities (step,)."""


def tiles(num_frames: int, num_mels: int, *, size: int = PATCH_SIZE) -> Tensor:
    """Number of the tile of each bin (time, mel), from 0, mel by mel; the last ones of a row or column are cut."""
    per_row = -(-num_mels // size)
    numbers: Tensor = (torch.arange(num_frames) // size * per_row).unsqueeze(1) + torch.arange(num_mels) // size
    return numbers


def tile_means(bins: Tensor, tile: Tensor) -> Tensor:
    """Mean (tile,) of the values (time, mel) in each tile."""
    sums = torch.zeros(int(tile.max()) + 1, dtype=bins.dtype).index_add_(0, tile.flatten(), bins.flatten())
    return sums / torch.bincount(tile.flatten())


@dataclass(frozen=True)
class Areas:
    """Area under the predicted probability, 0 to 1, over the share of tiles that are away, or put in."""

    deletion: float
    insertion: float


def deletion_and_insertion(predict: Predict, values: Tensor, tile: Tensor, *, num_steps: int = NUM_STEPS) -> Areas:
    """Areas when tiles go from the highest of `values` (tile,) on, the first of equals first, in about even steps."""
    num_tiles = len(values)
    place = torch.empty(num_tiles, dtype=torch.int64)
    place[values.argsort(descending=True, stable=True)] = torch.arange(num_tiles)
    num_gone = torch.tensor(sorted({round(num_tiles * step / num_steps) for step in range(num_steps + 1)}))
    is_gone = place[tile] < num_gone[:, None, None]
    shares = num_gone.double() / num_tiles
    deletion, insertion = (float(torch.trapezoid(predict(mask).double(), shares)) for mask in (is_gone, ~is_gone))
    return Areas(deletion, insertion)


@dataclass(frozen=True)
class Overlap:
    """Overlap of values with what was planted.

    `is_hit`: the highest tile touches it. `share` of the positive values that lies in tiles which touch it; NaN when
    no value is positive. By chance both are `area`, the share of the tiles that touch it.
    """

    is_hit: bool
    share: float
    area: float


def overlap(values: Tensor, is_planted: Tensor) -> Overlap:
    """Overlap of the values (tile,) with the tiles (tile,) that were touched by what was planted."""
    positive = values.double().clamp(min=0)
    share = positive[is_planted].sum() / positive.sum()
    return Overlap(bool(is_planted[values.argmax()]), float(share), float(is_planted.double().mean()))


def mean_over_cycles(values: Sequence[float], patients: Sequence[str]) -> Estimate:
    """Mean of values of cycles, those that are NaN left out, with its interval over the cycles' patients."""
    return Bootstrap().mean(np.nan_to_num(values), patients, where=~np.isnan(values))


NUM_BACKGROUND_CYCLES = 100
NUM_RANDOM_ORDERS = 3
RELEVANCE, CHANCE = "relevance", "chance"
ORDERS = (RELEVANCE, "loudness", "loudness above background")


@dataclass(frozen=True)
class _Measured:
    """One cycle, by order; `overlaps` only where an annotated crackle or wheeze was predicted and planted."""

    cycle: Cycle
    areas: Mapping[str, Areas]
    overlaps: Mapping[str, Overlap]


def report_explanations(
    run_dir: Path,
    stem: Path,
    *,
    console: Console,
    num_cycles: int,
    seed: int = 0,
) -> None:
    """Measure explanations of a run on cycles of its test set, print tables, write `<stem>.md` and `<stem>.html`.

    Raises SettingsError for a model without patches.
    """
    run = RunFolder(run_dir)
    trained, data = run.trained_model(), run.config().data
    check_explainable(trained)
    corpus = load_corpus(data)
    background = _background(trained, _draw(corpus.part("train"), NUM_BACKGROUND_CYCLES, seed))
    cycles = _draw([corpus.cycles[row] for row in rows_to_test(corpus, data.test_parts)], num_cycles, seed)
    events = read_events(corpus.root) if corpus.is_synthetic else {}
    measured = []
    with track(console, "explanations") as on_progress:
        for place, (cycle, waveform) in enumerate(zip(cycles, waveforms_of(cycles, trained.front_end), strict=True)):
            sound = _Sound(trained, waveform, background)
            planted = planted_bins(events.get(cycle.recording.name, []), cycle, trained.front_end, sound.num_frames)
            measured.append(_measure(sound, cycle, planted, generator_at(seed, "random orders", place)))
            on_progress(len(measured), len(cycles))
    blocks = _blocks(corpus, measured)
    console.print(paragraphs(*blocks), soft_wrap=True, markup=False, highlight=False)
    write_page(stem, "Explanations, measured", paragraphs(*blocks))


def _draw(cycles: Sequence[Cycle], num: int, seed: int) -> list[Cycle]:
    """`num` of the cycles at most, in their order."""
    if not cycles:
        raise SettingsError("the run's corpus has no cycles to measure explanations on: its training or test is empty")
    chosen = torch.randperm(len(cycles), generator=generator_at(seed, "cycles to explain", len(cycles)))[:num]
    return [cycles[row] for row in sorted(chosen.tolist())]


def _background(trained: TrainedModel, cycles: Sequence[Cycle]) -> Tensor:
    """Mean (mel,) of the normalised filter banks: one value for all mels would be loud where sounds are faint."""
    fbanks = trained.front_end.filter_banks_of(waveforms_of(cycles, trained.front_end))
    background: Tensor = normalize(fbanks, mean=trained.mean, std=trained.std).mean(dim=(0, 1))
    return background


class _Sound:
    """A cycle's own sound as the model gets it, of which parts can be taken away, in all its repetitions."""

    def __init__(self, trained: TrainedModel, waveform: Tensor, background: Tensor) -> None:
        front_end = trained.front_end
        fbanks = normalize(front_end.filter_banks_of([waveform]), mean=trained.mean, std=trained.std)
        num_encoded = front_end.num_own_frames(len(waveform))
        self.trained, self.background, self.fbank = trained, background, fbanks[0]
        self.num_encoded = None if num_encoded is None else torch.tensor([num_encoded])
        self.own_frame = own_frames(front_end, len(waveform))
        self.num_frames = int(self.own_frame.max()) + 1
        self.class_index = int(
            self.predict(torch.zeros(1, self.num_frames, len(background), dtype=torch.bool)).argmax()
        )
        self.relevance = relevance(trained, waveform, class_index=self.class_index)

    @torch.inference_mode()
    def predict(self, is_away: Tensor) -> Tensor:
        """Probabilities (step, class) when bins (step, time, mel) of the own sound are replaced by the background."""
        is_away = is_away[:, self.own_frame] & (self.own_frame >= 0).unsqueeze(1)
        num_encoded = None if self.num_encoded is None else self.num_encoded.expand(len(is_away))
        logits: Tensor = self.trained.model(torch.where(is_away, self.background, self.fbank), num_encoded)
        return logits.softmax(dim=1)

    def mean_of_repetitions(self, bins: Tensor) -> Tensor:
        """Values of the input (time, mel) by frame of the own sound."""
        return fold(bins, self.own_frame) / fold(torch.ones_like(bins), self.own_frame)


def read_events(root: Path) -> dict[str, list[Event]]:
    """The crackles and wheezes of a synthetic corpus, by name of their recording."""
    events: dict[str, list[Event]] = {}
    for line in (root / SYNTHETIC_EVENTS_FILE).read_text(encoding="ascii").splitlines()[1:]:
        name, kind, start_s, end_s, frequency_hz = line.split("\t")
        events.setdefault(name, []).append(Event(kind, float(start_s), float(end_s), float(frequency_hz)))
    return events


def band_hz(event: Event) -> tuple[float, float]:
    """A wheeze's fundamental as far as it glides; of a crackle, which slows down, what holds 85 % of its energy."""
    below, above = (0.9, 1.1) if event.kind == "wheeze" else (1 / 3, 2**0.5)
    return below * event.frequency_hz, above * event.frequency_hz


def planted_bins(events: Sequence[Event], cycle: Cycle, front_end: FrontEnd, num_frames: int) -> Tensor:
    """Mark bins (time, mel) of a cycle's first `num_frames` that lie in time and band of an event of its recording."""
    log_mel, rate_hz = front_end.log_mel, front_end.sample_rate_hz
    is_planted = torch.zeros(num_frames, front_end.num_mels, dtype=torch.bool)
    for event in events:
        first, end = ((time_s - cycle.start_s) * rate_hz / log_mel.hop_size for time_s in (event.start_s, event.end_s))
        low, high = (frequency_hz * log_mel.fft_size / rate_hz for frequency_hz in band_hz(event))
        is_mel = (log_mel.mel_banks[math.floor(low) : math.ceil(high) + 1] > 0).any(dim=0)
        is_planted[max(0, math.floor(first)) : max(0, math.ceil(end))] |= is_mel
    return is_planted


def _measure(sound: _Sound, cycle: Cycle, planted: Tensor, generator: torch.Generator) -> _Measured:
    tile = tiles(*planted.shape)
    loudness, above = map(sound.mean_of_repetitions, (sound.fbank, sound.fbank - sound.background))
    by_order = (sound.relevance, loudness - loudness.min(), above)
    orders = {name: tile_means(bins, tile) for name, bins in zip(ORDERS, by_order, strict=True)}

    def areas(values: Tensor) -> Areas:
        return deletion_and_insertion(lambda is_away: sound.predict(is_away)[:, sound.class_index], values, tile)

    chances = [areas(torch.rand(int(tile.max()) + 1, generator=generator)) for _ in range(NUM_RANDOM_ORDERS)]
    chance = Areas(fmean(each.deletion for each in chances), fmean(each.insertion for each in chances))
    is_planted = tile_means(planted.float(), tile) > 0
    is_right = sound.trained.label_set.classes[sound.class_index] == cycle.word
    overlaps = {name: overlap(values, is_planted) for name, values in orders.items()}
    return _Measured(
        cycle,
        {name: areas(values) for name, values in orders.items()} | {CHANCE: chance},
        overlaps if is_right and is_planted.any() else {},
    )


def _blocks(corpus: Corpus, measured: Sequence[_Measured]) -> list[str]:
    num_patients = len({each.cycle.recording.patient for each in measured})
    blocks: list[str] = [
        (
            f"{len(measured)} cycles of {num_patients} patients of the test set of {corpus.name}. Tiles of 16 frames "
            "x 16 mels are replaced by the mean of the training set's filter banks (deletion), or put into it "
            "(insertion), the most relevant first; the area under the predicted probability. In brackets the 95 % "
            "interval over patients. Gains are paired: above 0 relevance is better than the order of the line."
        ),
        table(
            ("order", "deletion, % (low is good)", "insertion, % (high is good)", "gain, deletion", "gain, insertion"),
            [_areas_row(name, measured) for name in (*ORDERS, CHANCE)],
        ),
    ]
    for sound in (LungSound.CRACKLE, LungSound.WHEEZE, LungSound.BOTH):
        found = [each for each in measured if each.overlaps and each.cycle.sound is sound]
        if found:
            blocks += [Markup(f"## What was planted: {sound.word}"), *_overlap_blocks(found)]
    return blocks


def _areas_row(name: str, measured: Sequence[_Measured]) -> tuple[Cell, ...]:
    patients = [each.cycle.recording.patient for each in measured]

    def mean(value_of: Callable[[_Measured], float]) -> str:
        return mean_over_cycles([value_of(each) for each in measured], patients).in_percent()

    gains = ("", "")
    if name != RELEVANCE:
        gains = (
            mean(lambda each: each.areas[name].deletion - each.areas[RELEVANCE].deletion),
            mean(lambda each: each.areas[RELEVANCE].insertion - each.areas[name].insertion),
        )
    return name, mean(lambda each: each.areas[name].deletion), mean(lambda each: each.areas[name].insertion), *gains


def _overlap_blocks(found: Sequence[_Measured]) -> list[str]:
    patients = [each.cycle.recording.patient for each in found]

    def mean(value_of: Callable[[_Measured], float]) -> str:
        return mean_over_cycles([value_of(each) for each in found], patients).in_percent()

    def row(name: str) -> tuple[Cell, ...]:
        return name, mean(lambda each: each.overlaps[name].is_hit), mean(lambda each: each.overlaps[name].share)

    area = mean(lambda each: each.overlaps[RELEVANCE].area)
    return [
        (
            f"{len(found)} cycles of {len(set(patients))} patients that were predicted right. How often the highest "
            "tile touches a planted sound in time and frequency, and how much of what is positive lies in such tiles."
        ),
        table(("order", "highest tile hits, %", "share inside, %"), [*map(row, ORDERS), (CHANCE, area, area)]),
    ]


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explanations", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--out", type=Path, required=True, help="stem of the .md and .html that are written")
    parser.add_argument("--cycles", type=int, default=100, help="of the test set, drawn at random")
    options = parser.parse_args(words)
    report_explanations(options.run, options.out, console=Console(), num_cycles=options.cycles)


if __name__ == "__main__":
    main(sys.argv[1:])
