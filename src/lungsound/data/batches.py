"""Batches of filter banks as a function of seed and epoch.

Settings to a corpus, its parts, filter banks and batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from lungsound.audio.augment import (
    apply_specaugment,
    change_waveform,
    check_installed,
    draw_specaugment,
    draw_waveform_change,
)
from lungsound.audio.filter_bank import AUDIOSET_STATISTICS, normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings, AugmentSettings, DataSettings, RunConfig
from lungsound.data.corpus import Corpus, Cycle, Recording
from lungsound.data.reader import read_corpus
from lungsound.data.splits import Parts, divide, leave_device_out
from lungsound.data.store import FilterBanks, Waveforms, open_filter_banks, open_waveforms
from lungsound.errors import CorpusError, SettingsError
from lungsound.files import cache_root
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.progress import track
from lungsound.randomness import generator_at


class Rows(Protocol):
    """Filter banks (cycle, time, mel) before normalisation: an array, or `FilterBanks` on disk."""

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """A copy of some rows."""


@dataclass(frozen=True)
class Batch:
    """Normalised filter banks (batch, time, mel) and labels (batch,) int64.

    Of each only its first `num_frames` (batch,) are to be encoded (`FrontEnd.num_own_frames`); None, all of them.
    """

    fbank: Tensor
    labels: Tensor
    num_frames: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """On a device, but for `num_frames`: lengths are asked for on the CPU, and nobody waits for a GPU's answer."""
        return replace(self, fbank=self.fbank.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Changed:
    """Filter bank (time, mel) of a cycle whose waveform was changed, and as in `Batch` its `num_frames`."""

    fbank: Tensor
    num_frames: int | None = None


# From a filter bank (time, mel), a generator and as in `Batch` its `num_frames` to a changed copy.
Augment = Callable[[Tensor, torch.Generator, int | None], Tensor]
# From a row and a generator; None when the draw leaves the cycle as it is.
ChangeCycle = Callable[[int, torch.Generator], Changed | None]


class CycleBatches:
    """Batches of some rows of the filter banks, with a label and, if need be, `num_frames` of each.

    Training: `epoch(n)` gives them in an order drawn from the seed and the epoch, their waveforms changed by `change`
    and their filter banks by `augment`, with draws from the seed, the epoch and the position among the training
    cycles, so that an epoch can be taken up again at any step. Evaluation: `in_order()`.
    """

    def __init__(
        self,
        fbanks: Rows,
        rows: Sequence[int],
        labels: Sequence[int],
        *,
        batch_size: int,
        mean: float,
        std: float,
        seed: int = 0,
        change: ChangeCycle | None = None,
        augment: Augment | None = None,
        is_last_dropped: bool = False,
        num_frames: Sequence[int] | None = None,
    ) -> None:
        self.fbanks = fbanks
        self.rows = np.asarray(rows, dtype=np.int64)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.batch_size = batch_size
        self.mean = mean
        self.std = std
        self.seed = seed
        self.change = change
        self.augment = augment
        self.is_last_dropped = is_last_dropped
        self.num_frames = None if num_frames is None else torch.tensor(num_frames, dtype=torch.int64)

    def __len__(self) -> int:
        """Number of cycles."""
        return len(self.rows)

    @property
    def num_steps(self) -> int:
        """Batches in one epoch."""
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole if self.is_last_dropped or not rest else whole + 1

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from `first_step` on."""
        order = torch.randperm(len(self.rows), generator=generator_at(self.seed, "order", epoch)).numpy()
        for step in range(first_step, self.num_steps):
            chosen = order[step * self.batch_size : (step + 1) * self.batch_size]
            batch = self._batch(chosen, self._changed(epoch, chosen))
            if self.augment is None:
                yield batch
                continue
            generators = (generator_at(self.seed, "augment", epoch, int(position)) for position in chosen)
            lengths = [None] * len(chosen) if batch.num_frames is None else batch.num_frames.tolist()
            augmented = map(self.augment, batch.fbank, generators, lengths)
            yield replace(batch, fbank=torch.stack([*augmented]))

    def to_predict(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Filter banks and `num_frames` of all cycles in their order, for `predict_cycles`."""
        return ((batch.fbank, batch.num_frames) for batch in self.in_order())

    def in_order(self) -> Iterator[Batch]:
        """All cycles in their order, none dropped, none changed, not augmented."""
        for first in range(0, len(self.rows), self.batch_size):
            yield self._batch(np.arange(first, min(first + self.batch_size, len(self.rows))))

    def _changed(self, epoch: int, positions: NDArray[np.int64]) -> list[Changed | None]:
        """New filter banks for a batch's cycles; None where the stored one is taken."""
        if self.change is None:
            return []
        generators = (generator_at(self.seed, "waveform", epoch, int(position)) for position in positions)
        return [self.change(int(row), gen) for row, gen in zip(self.rows[positions], generators, strict=True)]

    def _batch(self, positions: NDArray[np.int64], changed: Sequence[Changed | None] = ()) -> Batch:
        fbank, chosen = torch.from_numpy(self.fbanks[self.rows[positions]]), torch.from_numpy(positions)
        num_frames = None if self.num_frames is None else self.num_frames[chosen]
        for place, new in enumerate(changed):
            if new is not None:
                fbank[place] = new.fbank
                if num_frames is not None and new.num_frames is not None:
                    num_frames[place] = new.num_frames
        return Batch(normalize(fbank, mean=self.mean, std=self.std), self.labels[chosen], num_frames)


DEVICE_SPLIT = "device:"  # data.split = "device:Meditron": tested on that device, trained on the others

Kept = TypeVar("Kept", FilterBanks, Waveforms)


def front_end(audio: AudioSettings) -> FrontEnd:
    return FrontEnd(
        sample_rate_hz=audio.sample_rate_hz,
        duration_s=audio.duration_s,
        padding=audio.padding,
        num_mels=audio.num_mels,
        fade_s=audio.fade_s,
        filter_bank=audio.filter_bank,
        is_padding_encoded=audio.is_padding_encoded,
    )


def corpus(data: DataSettings) -> Corpus:
    """The corpus of the settings, filtered by device and mode; CorpusError when nothing is left."""
    if data.root is None:
        raise SettingsError("no corpus given: name its folder with --data DIR, in Python by the setting data.root")
    device = data.split.removeprefix(DEVICE_SPLIT) if data.split.startswith(DEVICE_SPLIT) else None
    found = read_corpus(
        Path(data.root),
        kind=data.corpus,
        split=data.split if device is None else "official",
        is_strict=data.is_strict,
        unit=LABEL_SETS[data.label_set].unit,
        label_map=data.label_map,
    )

    def is_kept(recording: Recording) -> bool:
        is_device = not data.devices or recording.device in data.devices
        return is_device and (not data.modes or recording.mode in data.modes)

    kept = found.keep(is_kept)
    if not kept.cycles:
        raise CorpusError(f"no cycles in {data.root} from devices {list(data.devices)} and modes {list(data.modes)}")
    return kept if device is None else leave_device_out(kept, device)


def parts(config: RunConfig, corpus: Corpus, *, is_tested: bool = True) -> Parts:
    """Which cycles train, validate and test, as the protocol of the settings says; else as `divide`."""
    if config.train.selection == "validation" and config.data.protocol == "published":
        raise SettingsError(
            "train.selection=validation needs held-out patients, which data.protocol=published does not have; "
            "set data.protocol=strict"
        )
    return divide(
        corpus,
        test_parts=config.data.test_parts,
        is_strict=config.data.protocol == "strict",
        are_shared_patients_kept=config.data.are_shared_patients_kept,
        validation_share=config.train.validation_share,
        generator=generator_at(config.train.seed, "validation patients"),
        is_tested=is_tested,
    )


def labels(cycles: Sequence[Cycle], label_set: LabelSet) -> list[int]:
    return [label_set.label(sound=c.sound, diagnosis=c.recording.diagnosis, term=c.term) for c in cycles]


def filter_banks(corpus: Corpus, front_end: FrontEnd, *, console: Console) -> FilterBanks:
    """Filter banks (cycle, time, mel) of all cycles of the corpus, from the cache or computed with a bar."""
    return _kept(open_filter_banks, "filter banks", corpus, front_end, console)


def waveforms(corpus: Corpus, front_end: FrontEnd, *, console: Console) -> Waveforms:
    """Waveforms of all cycles of the corpus as they were cut, from the cache or read with a bar."""
    return _kept(open_waveforms, "waveforms", corpus, front_end, console)


def _kept(open_: Callable[..., Kept], what: str, corpus: Corpus, front_end: FrontEnd, console: Console) -> Kept:
    """What `open_` keeps of all cycles in the cache; made with a bar where it is not there."""
    with track(console, what) as on_progress:
        return open_(
            corpus.cycles,
            front_end,
            cache_dir=cache_root() / "filter-banks",
            fingerprint=corpus.fingerprint,
            on_progress=on_progress,
        )


def statistics(audio: AudioSettings, fbanks: FilterBanks, train_rows: Sequence[int]) -> tuple[float, float]:
    """Mean and deviation for normalisation: AudioSet's for this filter bank, or those of the training cycles."""
    if audio.statistics == "audioset":
        return AUDIOSET_STATISTICS[audio.filter_bank]
    return fbanks.statistics(train_rows)


@dataclass(frozen=True)
class Inputs:
    """All cycles of a corpus as the encoder's input, with their labels."""

    fbanks: FilterBanks
    labels: tuple[int, ...]
    num_classes: int
    mean: float
    std: float
    num_frames: tuple[int, ...] | None = None
    change: ChangeCycle | None = None

    def class_counts(self, rows: Sequence[int]) -> list[int]:
        chosen = [self.labels[row] for row in rows]
        return [chosen.count(index) for index in range(self.num_classes)]

    def batches(self, rows: Sequence[int], batch_size: int, **more: Any) -> CycleBatches:
        """Batches to be predicted, in order; `more` as `CycleBatches` takes it."""
        return CycleBatches(
            self.fbanks,
            rows,
            [self.labels[row] for row in rows],
            num_frames=None if self.num_frames is None else [self.num_frames[row] for row in rows],
            batch_size=batch_size,
            mean=self.mean,
            std=self.std,
            **more,
        )

    def training_batches(self, config: RunConfig, rows: Sequence[int]) -> CycleBatches:
        """Batches to be trained on; SettingsError for a size that does not suit the number of rows."""
        batches = self.batches(
            rows,
            config.train.batch_size,
            seed=config.train.seed,
            change=self.change,
            augment=augment(config.augment),
            is_last_dropped=config.train.is_last_batch_dropped,
        )
        if batches.num_steps == 0:
            raise SettingsError(
                f"{len(rows)} training cycles do not fill one batch of {config.train.batch_size}: "
                "take a smaller train.batch_size"
            )
        last = len(rows) - (batches.num_steps - 1) * config.train.batch_size
        if config.objective.name == "patchmix_cl" and min(last, config.train.batch_size) == 1:
            raise SettingsError(
                f"{len(rows)} training cycles in batches of {config.train.batch_size} leave a batch of one cycle, "
                "which has no negatives and no batch statistics: change train.batch_size or drop the last batch"
            )
        return batches


def inputs(config: RunConfig, corpus: Corpus, parts: Parts, *, console: Console) -> Inputs:
    """Filter banks and labels of the corpus, normalised as the settings say; waveforms when they are to be changed."""
    front = front_end(config.audio)
    is_changed = bool(config.augment.waveform) and config.augment.waveform_probability > 0
    if is_changed:
        check_installed(config.augment.waveform)
    fbanks = filter_banks(corpus, front, console=console)
    mean, std = statistics(config.audio, fbanks, parts.train)
    change = change_cycle(config.augment, waveforms(corpus, front, console=console), front) if is_changed else None
    label_set = LABEL_SETS[config.data.label_set]
    found = tuple(labels(corpus.cycles, label_set))
    return Inputs(fbanks, found, label_set.num_classes, mean, std, num_own_frames(front, fbanks), change)


def num_own_frames(front_end: FrontEnd, fbanks: FilterBanks) -> tuple[int, ...] | None:
    """Of each cycle (`FrontEnd.num_own_frames`); None where padding is encoded too."""
    found = [front_end.num_own_frames(num_samples) for num_samples in fbanks.num_samples.tolist()]
    return None if front_end.is_padding_encoded else tuple(num for num in found if num is not None)


def change_cycle(settings: AugmentSettings, waveforms: Waveforms, front_end: FrontEnd) -> ChangeCycle:
    """From a row and a generator to the filter bank of that cycle with its waveform changed, or None."""

    def change(row: int, generator: torch.Generator) -> Changed | None:
        drawn = draw_waveform_change(settings.waveform, generator=generator, probability=settings.waveform_probability)
        if drawn is None:
            return None
        waveform = change_waveform(waveforms[row], drawn, sample_rate_hz=front_end.sample_rate_hz)
        return Changed(front_end.filter_banks_of([waveform])[0], front_end.num_own_frames(len(waveform)))

    return change


def augment(settings: AugmentSettings) -> Augment | None:
    """SpecAugment as a function of a filter bank (time, mel), a generator and its `num_frames` (see `Batch`).

    Where only so many frames are encoded, time masks lie in them, and are shorter in proportion: one made for the whole
    input may hide all of a short cycle, which is there again and again in the padding that is encoded.
    """
    if not settings.is_on:
        return None

    def apply(fbank: Tensor, generator: torch.Generator, num_frames: int | None) -> Tensor:
        num_heard = len(fbank) if num_frames is None else num_frames
        draw = draw_specaugment(
            num_heard,
            fbank.shape[1],
            generator=generator,
            num_frequency_masks=settings.num_frequency_masks,
            max_frequency_width=settings.max_frequency_width,
            num_time_masks=settings.num_time_masks,
            max_time_width=round(settings.max_time_width * num_heard / len(fbank)),
            probability=settings.probability,
            gate=settings.gate,
        )
        return apply_specaugment(fbank, draw, fill=settings.fill)

    return apply
