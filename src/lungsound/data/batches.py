"""Inputs of a corpus and their batches, as a function of seed and epoch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from lungsound.audio import augment as augmentation
from lungsound.audio.filter_bank import AUDIOSET_STATISTICS, normalize
from lungsound.audio.front_end import FrontEnd
from lungsound.config import AugmentSettings, RunConfig, TrainSettings
from lungsound.data.corpus import Corpus
from lungsound.data.splits import Parts
from lungsound.data.store import FilterBanks, Waveforms, open_filter_banks, open_waveforms
from lungsound.errors import SettingsError
from lungsound.labels import LABEL_SETS, LabelSet
from lungsound.randomness import generator_at
from lungsound.ranks import ALONE, Alone


@dataclass(frozen=True)
class Batch:
    """Normalised filter banks (batch, time, mel) and labels (batch,) int64.

    Of each only its first `num_frames` (batch,) are to be encoded (`FrontEnd.num_own_frames`); None, all of them.
    `soft_labels` are probabilities (batch, class) of teachers. Where several processes train together, filter banks
    and `num_frames` are of the samples of this one, labels and soft labels of all.
    """

    fbank: Tensor
    labels: Tensor
    num_frames: Tensor | None = None
    soft_labels: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, but for `num_frames`: lengths are read on the CPU, so nobody waits for a GPU."""
        soft_labels = None if self.soft_labels is None else self.soft_labels.to(device)
        return replace(self, fbank=self.fbank.to(device), labels=self.labels.to(device), soft_labels=soft_labels)


@dataclass(frozen=True)
class Inputs:
    """All cycles of a corpus: filter banks (cycle, time, mel) before normalisation, labels, and own frames, if any."""

    fbanks: FilterBanks | NDArray[np.float32]
    labels: Tensor
    num_frames: Tensor | None
    num_classes: int
    mean: float
    std: float

    @classmethod
    def of(
        cls, corpus: Corpus, fbanks: FilterBanks, front_end: FrontEnd, label_set: LabelSet, *, mean: float, std: float
    ) -> "Inputs":
        """Inputs of the cycles of a corpus whose filter banks these are."""
        labels = [label_set.label(sound=c.sound, diagnosis=c.recording.diagnosis, term=c.term) for c in corpus.cycles]
        num_frames = None
        if not front_end.audio.is_padding_encoded:
            num_frames = torch.tensor([front_end.num_own_frames(num) for num in fbanks.num_samples.tolist()])
        return cls(fbanks, torch.tensor(labels), num_frames, label_set.num_classes, mean, std)

    def class_counts(self, rows: Sequence[int]) -> list[int]:
        return torch.bincount(self.labels[list(rows)], minlength=self.num_classes).tolist()

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        chosen = torch.from_numpy(rows)
        fbank = normalize(torch.from_numpy(self.fbanks[rows]), mean=self.mean, std=self.std)
        return Batch(fbank, self.labels[chosen], None if self.num_frames is None else self.num_frames[chosen])

    def expect(self, rows: NDArray[np.int64], num_together: int = 1) -> None:
        """As `FilterBanks.expect`, of which an array needs nothing."""
        if isinstance(self.fbanks, FilterBanks):
            self.fbanks.expect(rows, num_together)

    def to_predict(self, rows: Sequence[int], batch_size: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Filter banks and `num_frames` of some rows in their order, in batches for `predict_cycles`."""
        self.expect(np.asarray(rows, dtype=np.int64))
        for first in range(0, len(rows), batch_size):
            batch = self.batch(np.asarray(rows[first : first + batch_size], dtype=np.int64))
            yield batch.fbank, batch.num_frames


# From a filter bank (time, mel), a generator and as in `Batch` its `num_frames` to a changed copy.
Augment = Callable[[Tensor, torch.Generator, int | None], Tensor]
# From a row and a generator to the filter bank (time, mel), before normalisation, of the cycle with its waveform
# changed, and its `num_frames`; None when the draw leaves the cycle as it is.
ChangeCycle = Callable[[int, torch.Generator], tuple[Tensor, int | None] | None]


class TrainingBatches:
    """Batches of the training cycles, whose rows these are.

    Their order is drawn from seed and epoch, the changes of waveforms (`change`) and filter banks (`respond`, then
    `augment`) from these and the position among the training cycles, so that an epoch can be taken up again at any
    step. With `weights` (cycle,) that differ, as many cycles are drawn with replacement in proportion to them, and a
    cycle's changes are those of its place in the order: drawn twice, it is changed in two ways. `soft_labels` (cycle,
    class) are of the cycles as they are, unchanged. Of each batch only the filter banks of this process are made, where
    it is one of several `ranks`.

    `shards` names the shard of each cycle; by default it is one. They too come in an order that is drawn, and the
    cycles of `train.shuffle_shards` of them are mixed. `waveforms` are those that `change` reads.
    """

    def __init__(
        self,
        inputs: Inputs,
        rows: Sequence[int],
        train: TrainSettings,
        *,
        soft_labels: Tensor | None = None,
        weights: Tensor | None = None,
        shards: Sequence[str] | None = None,
        waveforms: Waveforms | None = None,
        change: ChangeCycle | None = None,
        respond: Augment | None = None,
        augment: Augment | None = None,
        ranks: Alone = ALONE,
    ) -> None:
        self.inputs, self.rows, self.train = inputs, np.asarray(rows, dtype=np.int64), train
        self.soft_labels = soft_labels
        self.weights = weights if weights is not None and (weights != weights[0]).any() else None
        names = [""] * len(self.rows) if shards is None else shards
        number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.shards = np.array([number_of[name] for name in names], dtype=np.int64)
        self.waveforms, self.change, self.respond, self.augment, self.ranks = waveforms, change, respond, augment, ranks

    def __len__(self) -> int:
        """Number of cycles."""
        return len(self.rows)

    @property
    def num_dropped(self) -> int:
        """Cycles that each epoch leaves out."""
        return len(self) % self.train.batch_size if self.train.is_last_batch_dropped else 0

    @property
    def num_steps(self) -> int:
        """Batches in one epoch."""
        return -(-(len(self) - self.num_dropped) // self.train.batch_size)

    def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on."""
        size, seed = self.train.batch_size, self.train.seed
        order = self._order(epoch)
        draws = order if self.weights is None else np.arange(len(self))
        steps = [slice(step * size, (step + 1) * size) for step in range(first_step, self.num_steps)]
        read = [order[in_batch][self.ranks.own(len(order[in_batch]))] for in_batch in steps]
        rows_read = self.rows[np.concatenate([order[:0], *read])]
        self.inputs.expect(rows_read, self.train.shuffle_shards)
        if self.waveforms is not None:
            self.waveforms.expect(rows_read, self.train.shuffle_shards)
        for in_batch in steps:
            positions = order[in_batch]
            own = self.ranks.own(len(positions))
            labels = self.inputs.labels[torch.from_numpy(self.rows[positions])]
            batch = replace(self.inputs.batch(self.rows[positions[own]]), labels=labels)
            if self.soft_labels is not None:
                batch = replace(batch, soft_labels=self.soft_labels[torch.from_numpy(positions)])
            places = zip(positions[own].tolist(), draws[in_batch][own].tolist(), strict=True)
            for place, (position, draw) in enumerate(places):
                if self.change is not None:
                    generator = generator_at(seed, "waveform", epoch, draw)
                    changed = self.change(int(self.rows[position]), generator)
                    if changed is not None:
                        batch.fbank[place] = normalize(changed[0], mean=self.inputs.mean, std=self.inputs.std)
                        if batch.num_frames is not None and changed[1] is not None:
                            batch.num_frames[place] = changed[1]
                num_frames = None if batch.num_frames is None else int(batch.num_frames[place])
                for purpose, augment in (("response", self.respond), ("augment", self.augment)):
                    if augment is not None:
                        generator = generator_at(seed, purpose, epoch, draw)
                        batch.fbank[place] = augment(batch.fbank[place], generator, num_frames)
            yield batch

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Positions of the cycles of an epoch: those of some shards, then those of others."""
        seed, num_shards = self.train.seed, int(self.shards.max(initial=0)) + 1
        shards = torch.randperm(num_shards, generator=generator_at(seed, "shards", epoch)).numpy()
        generator, order, share = generator_at(seed, "order", epoch), [], 0.0
        for first in range(0, num_shards, self.train.shuffle_shards):
            own = np.flatnonzero(np.isin(self.shards, shards[first : first + self.train.shuffle_shards]))
            if self.weights is None:
                drawn = torch.randperm(len(own), generator=generator)
            else:  # as many of these shards as their share of all weights, rounded with those before
                before, share = share, share + float(self.weights[own].sum() / self.weights.sum())
                num = round(share * len(self)) - round(before * len(self))
                draw = partial(torch.multinomial, self.weights[own], replacement=True, generator=generator)
                drawn = draw(num) if num else torch.empty(0, dtype=torch.int64)
            order.append(own[drawn.numpy()])
        return np.concatenate(order)


def sampling_weights(labels: Tensor, *, power: float) -> Tensor:
    """Weights (cycle,) float64 for drawing cycles with these labels: (cycles of their class)^-power, 1 at the most."""
    counts = torch.bincount(labels)[labels].double()
    return (counts.min() / counts) ** power


def weights_in_shares(weights: Tensor, corpora: Sequence[str | None], shares: Mapping[str, float]) -> Tensor:
    """Weights (cycle,) of cycles of these corpora, scaled so that those of each corpus add up to its share."""
    scaled = weights.clone()
    for name, share in shares.items():
        own = torch.tensor([corpus == name for corpus in corpora])
        scaled[own] *= share / weights[own].sum()
    return scaled


def training_inputs(config: RunConfig, corpus: Corpus, parts: Parts, *, console: Console) -> Inputs:
    """Inputs normalised by AudioSet's statistics for this filter bank, or by those of the training cycles."""
    if _is_waveform_changed(config.augment):
        augmentation.check_installed(config.augment.waveform)  # before anything is computed
    front_end = FrontEnd(config.audio)
    fbanks = open_filter_banks(corpus, front_end, console=console)
    is_audioset = config.audio.statistics == "audioset"
    mean, std = AUDIOSET_STATISTICS[config.audio.filter_bank] if is_audioset else fbanks.statistics(parts.train)
    return Inputs.of(corpus, fbanks, front_end, LABEL_SETS[config.data.label_set], mean=mean, std=std)


def training_batches(
    config: RunConfig,
    corpus: Corpus,
    parts: Parts,
    inputs: Inputs,
    *,
    soft_labels: Tensor | None = None,
    ranks: Alone = ALONE,
    console: Console,
) -> TrainingBatches:
    """Batches of the training cycles, whose soft labels these are; SettingsError for a size that does not suit them."""
    is_changed = _is_waveform_changed(config.augment)
    waveforms = open_waveforms(corpus, FrontEnd(config.audio), console=console) if is_changed else None
    change = None if waveforms is None else _waveform_changes(config, waveforms)
    weights = sampling_weights(inputs.labels[list(parts.train)], power=config.train.sampling_power)
    shares = {name: each.share for name, each in zip(corpus.members, config.data.corpora, strict=True) if each.share}
    if shares:
        if len(shares) < len(corpus.members):
            raise SettingsError(
                f"a share of the training draws is set for {', '.join(shares)} only: set one for each of data.corpora"
            )
        weights = weights_in_shares(weights, [corpus.cycles[row].recording.corpus for row in parts.train], shares)
    respond, augment = random_response(config.augment, std=inputs.std), specaugment(config.augment)
    batches = TrainingBatches(
        inputs,
        parts.train,
        config.train,
        soft_labels=soft_labels,
        weights=weights,
        shards=[corpus.cycles[row].recording.shard for row in parts.train],
        waveforms=waveforms,
        change=change,
        respond=respond,
        augment=augment,
        ranks=ranks,
    )
    batch_size = config.train.batch_size
    if batches.num_steps == 0:
        raise SettingsError(f"{len(batches)} training cycles fill no batch of {batch_size}: lower train.batch_size")
    last = len(batches) - (batches.num_steps - 1) * batch_size
    if config.objective.name == "patchmix_cl" and min(last, batch_size) == 1:
        raise SettingsError(
            f"{len(batches)} training cycles in batches of {batch_size} leave a batch of one cycle, "
            "which has no negatives and no batch statistics: change train.batch_size or drop the last batch"
        )
    if min(last, batch_size) < ranks.num:
        raise SettingsError(
            f"{len(batches)} training cycles in batches of {batch_size} leave a batch of {min(last, batch_size)} for "
            f"{ranks.num} processes: change train.batch_size, drop the last batch or start fewer processes"
        )
    return batches


def _is_waveform_changed(augment: AugmentSettings) -> bool:
    return bool(augment.waveform) and augment.waveform_probability > 0


def _waveform_changes(config: RunConfig, waveforms: Waveforms) -> ChangeCycle:
    settings, front_end = config.augment, FrontEnd(config.audio)

    def change(row: int, generator: torch.Generator) -> tuple[Tensor, int | None] | None:
        drawn = augmentation.draw_waveform_change(
            settings.waveform, generator=generator, probability=settings.waveform_probability
        )
        if drawn is None:
            return None
        sound = waveforms[row]
        given, rate_hz = torch.from_numpy(sound.waveform), front_end.sample_rate_hz
        waveform = augmentation.change_waveform(given, drawn, sample_rate_hz=rate_hz).numpy()
        changed = replace(sound, waveform=waveform)
        return torch.from_numpy(front_end.filter_banks_of([changed])[0]), front_end.num_own_frames(len(waveform))

    return change


def random_response(settings: AugmentSettings, *, std: float) -> Augment | None:
    """Another stethoscope for each filter bank (time, mel), normalised with `std`; as `specaugment`."""
    if settings.response_db == settings.gain_db == 0:
        return None

    def apply(fbank: Tensor, generator: torch.Generator, _: int | None) -> Tensor:
        response_db = augmentation.draw_response(fbank.shape[1], settings, generator=generator)
        return augmentation.apply_response(fbank, response_db, std=std)

    return apply


def specaugment(settings: AugmentSettings) -> Augment | None:
    """SpecAugment as a function of a filter bank (time, mel), a generator and its `num_frames` (see `Batch`)."""
    if not settings.is_on:
        return None

    def apply(fbank: Tensor, generator: torch.Generator, num_frames: int | None) -> Tensor:
        size, num_mels = fbank.shape
        draw = augmentation.draw_specaugment(size, num_mels, settings, num_encoded=num_frames, generator=generator)
        return augmentation.apply_specaugment(fbank, draw, fill=settings.fill)

    return apply
