"""Faithfulness of explanations to a trained model: `python -m benchmarks.explanations RUN` prints tables as Markdown.

Deletion and insertion (Petsiuk et al., "RISE", BMVC 2018): tiles of the filter bank are replaced by background, or put
into it, from the most relevant on, and the predicted probability is followed. The less area under the curve of
deletion, and the more under that of insertion, the better the order. Tiles do not overlap, so that nothing of what was
taken away is left in a patch that reaches into its neighbour. Relevance stands beside an order that needs no model (how
loud a tile is) and beside orders by chance; on a synthetic corpus it is compared with the true sounds too.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.measure import table
from lungsound.audio.filter_bank import normalize
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.axes import PATCH_SIZE
from lungsound.data.corpus import SYNTHETIC_EVENTS_FILE, Cycle
from lungsound.data.splits import load_corpus, rows_to_test
from lungsound.data.store import sounds_of
from lungsound.data.synthetic import Event
from lungsound.errors import LungsoundError
from lungsound.evaluation.bootstrap import Bootstrap, Estimate
from lungsound.inference.explain import check_explainable, fold, own_frames, relevance
from lungsound.labels import LungSound
from lungsound.randomness import generator_at
from lungsound.training.model_file import TrainedModel, load_model
from lungsound.training.run import RunFolder

NUM_BACKGROUND_CYCLES, NUM_RANDOM_ORDERS = 100, 3
ORDERS = ("relevance", "loudness", "chance")

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


def deletion_and_insertion(
    predict: Predict, values: Tensor, tile: Tensor, *, num_steps: int = 10
) -> tuple[float, float]:
    """Areas, 0 to 1, under the predicted probability over the share of tiles that are away, or put in.

    Tiles go from the highest of `values` (tile,) on, the first of equals first, in about even steps.
    """
    num_tiles = len(values)
    place = values.argsort(descending=True, stable=True).argsort()
    num_gone = torch.tensor(sorted({round(num_tiles * step / num_steps) for step in range(num_steps + 1)}))
    is_gone = place[tile] < num_gone[:, None, None]
    shares = num_gone.double() / num_tiles
    deletion, insertion = (float(torch.trapezoid(predict(mask).double(), shares)) for mask in (is_gone, ~is_gone))
    return deletion, insertion


def overlap(values: Tensor, is_true: Tensor) -> tuple[float, float]:
    """Overlap of values (tile,) with the tiles (tile,) that touch a true sound.

    1 where the highest tile touches it, else 0; and the share of the positive values in such tiles, NaN without any.
    """
    positive = values.double().clamp(min=0)
    return float(is_true[values.argmax()]), float(positive[is_true].sum() / positive.sum())


def read_events(root: Path) -> dict[str, list[Event]]:
    """Crackles and wheezes of a synthetic corpus, by name of their recording."""
    events: dict[str, list[Event]] = {}
    for line in (root / SYNTHETIC_EVENTS_FILE).read_text(encoding="ascii").splitlines()[1:]:
        name, kind, *numbers = line.split("\t")
        events.setdefault(name, []).append(Event(kind, *map(float, numbers)))
    return events


def band_hz(event: Event) -> tuple[float, float]:
    """A wheeze's fundamental as far as it glides; of a crackle, which slows down, what holds 85 % of its energy."""
    below, above = (0.9, 1.1) if event.kind == "wheeze" else (1 / 3, 2**0.5)
    return below * event.frequency_hz, above * event.frequency_hz


def true_bins(events: Sequence[Event], cycle: Cycle, front_end: FrontEnd, num_frames: int) -> Tensor:
    """Mark bins (time, mel) of a cycle's first `num_frames` that lie in time and band of an event of its recording."""
    log_mel, rate_hz = front_end.log_mel, front_end.sample_rate_hz
    is_true = torch.zeros(num_frames, front_end.audio.num_mels, dtype=torch.bool)
    for event in events:
        first, end = ((time_s - cycle.start_s) * rate_hz / log_mel.hop_size for time_s in (event.start_s, event.end_s))
        low, high = (frequency_hz * log_mel.fft_size / rate_hz for frequency_hz in band_hz(event))
        is_mel = (log_mel.mel_banks[math.floor(low) : math.ceil(high) + 1] > 0).any(axis=0)
        is_true[max(0, math.floor(first)) : max(0, math.ceil(end))] |= torch.from_numpy(is_mel)
    return is_true


def mean_over_cycles(values: npt.NDArray[np.float64], patients: npt.NDArray[np.str_]) -> Estimate:
    """Mean of values of cycles, those that are NaN left out, with its interval over the cycles' patients."""
    return Bootstrap().mean(np.nan_to_num(values), patients.tolist(), where=~np.isnan(values))


def measure_cycle(
    trained: TrainedModel,
    cycle: Cycle,
    sound: Sound,
    background: Tensor,
    events: Sequence[Event],
    generator: torch.Generator,
) -> list[list[float]]:
    """By order: deletion, insertion, and the `overlap` with events, NaN without any and where the prediction is wrong.

    Chance hits, and lies inside, as often as tiles touch an event.
    """
    front_end = trained.front_end
    fbank = torch.from_numpy(normalize(front_end.filter_banks_of([sound]), mean=trained.mean, std=trained.std)[0])
    num_encoded = front_end.num_own_frames(len(sound.waveform))
    own_frame = own_frames(front_end, len(sound.waveform))  # of all repetitions of the cycle's own sound
    num_frames = int(own_frame.max()) + 1

    @torch.inference_mode()
    def probabilities(is_away: Tensor) -> Tensor:
        is_away = is_away[:, own_frame] & (own_frame >= 0).unsqueeze(1)
        num_own = None if num_encoded is None else torch.full((len(is_away),), num_encoded)
        logits: Tensor = trained.model(torch.where(is_away, background, fbank), num_own)
        return logits.softmax(dim=1)

    class_index = int(probabilities(torch.zeros(1, num_frames, len(background), dtype=torch.bool)).argmax())
    tile = tiles(num_frames, len(background))
    loudness = fold(fbank, own_frame) / fold(torch.ones_like(fbank), own_frame)
    by_order = [
        tile_means(relevance(trained, sound, class_index=class_index), tile),
        tile_means(loudness - loudness.min(), tile),
        *torch.rand(NUM_RANDOM_ORDERS, int(tile.max()) + 1, generator=generator),
    ]
    areas = [deletion_and_insertion(lambda mask: probabilities(mask)[:, class_index], each, tile) for each in by_order]
    areas[2:] = [(fmean(each[0] for each in areas[2:]), fmean(each[1] for each in areas[2:]))]
    overlaps = [(math.nan, math.nan)] * 3
    is_true = tile_means(true_bins(events, cycle, front_end, num_frames).float(), tile) > 0
    if is_true.any() and trained.label_set.classes[class_index] == cycle.word:
        by_chance = float(is_true.double().mean())
        overlaps = [*(overlap(values, is_true) for values in by_order[:2]), (by_chance, by_chance)]
    return [[*area, *each] for area, each in zip(areas, overlaps, strict=True)]


def draw(cycles: Sequence[Cycle], num: int) -> list[Cycle]:
    """`num` of the cycles at most, in their order."""
    chosen = torch.randperm(len(cycles), generator=generator_at(0, "cycles to explain", len(cycles)))[:num]
    return [cycles[row] for row in sorted(chosen.tolist())]


COLUMNS = ("deletion", "insertion", "gain in deletion", "gain in insertion", "highest tile hits", "share inside")


def rows_of(cycles: Sequence[Cycle], measured: npt.NDArray[np.float64]) -> list[list[object]]:
    """Means and intervals over patients of what was measured (cycle, order, 4): of all, and of those with true sounds.

    Gains are those of relevance over the order of the row, paired.
    """
    patients, gains = np.array([cycle.recording.patient for cycle in cycles]), measured - measured[:, :1]
    columns = (measured[..., 0], measured[..., 1], gains[..., 0], -gains[..., 1], measured[..., 2], measured[..., 3])
    groups = {"all": np.ones(len(cycles), dtype=bool)}
    for sound in (LungSound.CRACKLE, LungSound.WHEEZE, LungSound.BOTH):
        groups[sound.word] = np.array([cycle.sound is sound for cycle in cycles]) & ~np.isnan(measured[:, 0, 2])
    rows: list[list[object]] = []
    for name, where in groups.items():
        for place, order in enumerate(ORDERS if where.any() else ()):
            means = [mean_over_cycles(each[where, place], patients[where]).in_percent() for each in columns]
            rows.append([name, where.sum(), len(set(patients[where])), order, *means])
    return rows


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explanations", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a trained run")
    parser.add_argument("--cycles", type=int, default=100, help="of the test set, drawn at random")
    options = parser.parse_args(words)
    try:
        run = RunFolder(options.run)
        trained, data = load_model(run.model), run.config().data
        check_explainable(trained)
        corpus = load_corpus(data)
        cycles = draw([corpus.cycles[row] for row in rows_to_test(corpus, data.test_parts)], options.cycles)
    except LungsoundError as error:
        parser.error(str(error))
    training = sounds_of(draw(corpus.part("train"), NUM_BACKGROUND_CYCLES), trained.front_end)
    # Mean (mel,) of the filter banks: one value for all mels would be loud where sounds are faint.
    fbanks = normalize(trained.front_end.filter_banks_of(training), mean=trained.mean, std=trained.std)
    background = torch.from_numpy(fbanks.mean(axis=(0, 1)))
    events = read_events(Path(corpus.root)) if corpus.is_synthetic else {}
    measured = []
    sounds = sounds_of(cycles, trained.front_end)
    for place, cycle in enumerate(track(cycles, "explanations", console=Console(stderr=True))):
        of_cycle = events.get(cycle.recording.name, [])
        generator = generator_at(0, "random orders", place)
        measured.append(measure_cycle(trained, cycle, sounds[place], background, of_cycle, generator))
    print(f"Test set of {corpus.name}. All in %: a good order has a low deletion, a high insertion.\n")
    print(table(("cycles", "number", "patients", "order", *COLUMNS), rows_of(cycles, np.array(measured))))


if __name__ == "__main__":
    main(sys.argv[1:])
