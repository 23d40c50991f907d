"""Our side of a measurement, built from a recipe as a run builds it, and corpora of noise as large as ICBHI."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch

from benchmarks.measure import Work, wait_for
from benchmarks.peers import PlainPatchMixStep
from lungsound.audio.filter_bank import AUDIOSET_STATISTICS
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import RunConfig, load_config
from lungsound.data.batches import Batch
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import LungSoundClassifier, initial_classifier
from lungsound.ranks import ALONE, Alone
from lungsound.training.model_file import TrainedModel
from lungsound.training.objectives import make_objective
from lungsound.training.trainer import TrainStep

QUICK = ("audio.duration_s=1.0", "audio.num_mels=32", "model.stride=16")


def run_config(
    size: str, *, precision: str = "bf16", is_quick: bool = False, is_padding_encoded: bool = True
) -> RunConfig:
    """The paper's method at a size, from random weights, with the blending of weights that the peer does too."""
    overrides = [f"model.size={size}", "model.pretrained=none", f"train.precision={precision}", "train.blend=0.5"]
    overrides.append(f"audio.is_padding_encoded={str(is_padding_encoded).lower()}")
    return load_config("patchmix_cl", overrides + list(QUICK if is_quick else ()))


def classifier(config: RunConfig) -> LungSoundClassifier:
    return initial_classifier(config, FrontEnd(config.audio))[0]


def train_step(config: RunConfig, *, device: torch.device, ranks: Alone = ALONE) -> TrainStep:
    """The step of a run with these settings; every class has the same number of training cycles."""
    model = classifier(config)
    counts = [1] * len(model.classes)
    objective = make_objective(config.objective, config.patchmix, class_counts=counts, device=device, ranks=ranks)
    return TrainStep(model.to(device), objective, config.train, device=device, ranks=ranks)


def batch(config: RunConfig, *, batch_size: int, durations_s: Sequence[float] | None = None) -> Batch:
    """Filter banks of noise and labels, the same at every call; of cycles of `durations_s` the frames that touch them.

    Durations are for settings by which padding is not encoded.
    """
    front_end, generator = FrontEnd(config.audio), torch.Generator().manual_seed(0)
    fbank = 0.5 * torch.randn(batch_size, front_end.num_frames, front_end.audio.num_mels, generator=generator)
    labels = torch.randint(LABEL_SETS[config.data.label_set].num_classes, (batch_size,), generator=generator)
    if durations_s is None:
        return Batch(fbank, labels)
    num_frames = [front_end.num_own_frames(round(each * front_end.sample_rate_hz)) for each in durations_s]
    return Batch(fbank, labels, torch.tensor(num_frames))


def our_step(
    size: str,
    batch_size: int,
    device: torch.device,
    *,
    precision: str = "bf16",
    is_quick: bool = False,
    durations_s: Sequence[float] | None = None,
) -> Work:
    """One entire step; with `durations_s` only the patches that touch cycles of these durations are encoded."""
    config = run_config(size, precision=precision, is_quick=is_quick, is_padding_encoded=durations_s is None)
    step, generator = train_step(config, device=device), torch.Generator().manual_seed(0)
    samples = batch(config, batch_size=batch_size, durations_s=durations_s)

    def work() -> None:
        step(samples, learning_rate=5e-5, generator=generator)
        wait_for(device)

    return work


def plain_step(size: str, batch_size: int, device: torch.device, *, is_quick: bool = False) -> Work:
    """One entire step of the peer: in float32 on the CPU, with AMP as published on a GPU."""
    config = run_config(size, is_quick=is_quick)
    amp_dtype = torch.float16 if device.type == "cuda" else None
    step, rng = PlainPatchMixStep(classifier(config), device=device, amp_dtype=amp_dtype), np.random.default_rng(0)
    samples = batch(config, batch_size=batch_size)

    def work() -> None:
        step(samples.fbank, samples.labels, rng=rng)
        wait_for(device)

    return work


def trained_model(config: RunConfig) -> TrainedModel:
    """A model as one is loaded from a run, with random weights."""
    front_end = FrontEnd(config.audio)
    mean, std = AUDIOSET_STATISTICS[front_end.audio.filter_bank]
    sha256 = f"bench-{config.model.size}{'' if front_end.audio.is_padding_encoded else '-own'}"
    label_set = LABEL_SETS[config.data.label_set]
    made = classifier(config).state_dict()
    weights = {name: value.numpy() for name, value in made.items() if not name.startswith("projector.")}
    return TrainedModel(weights, config.model, front_end, mean, std, label_set, sha256=sha256)


def sounds(front_end: FrontEnd, durations_s: Sequence[float]) -> list[Sound]:
    """Noise of these durations, each a recording of its own."""
    generator = torch.Generator().manual_seed(0)
    lengths = [round(duration_s * front_end.sample_rate_hz) for duration_s in durations_s]
    return [front_end.recording((0.1 * torch.randn(length, generator=generator)).numpy()) for length in lengths]


NUM_CYCLES, RATE_HZ = 6898, 44100  # of ICBHI; the rate of 824 of its 920 recordings
PLACES = ("Al", "Ar", "Ll", "Lr", "Pl", "Pr", "Tc")


def noise_durations_s() -> list[float]:
    """Durations of cycles, log-normal: as in ICBHI their mean is 2.7 s, and few are under 1 s or over 8 s."""
    drawn = np.random.default_rng(0).lognormal(mean=0.9, sigma=0.45, size=NUM_CYCLES)
    return [round(float(each), 3) for each in drawn.clip(0.2, 16.0)]


def write_noise_corpus(folder: Path, num_recordings: int, num_cycles: int, rate_hz: int) -> Path:
    """Write recordings, their annotations and a split (two of five patients test) into the new folder; the folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3000, 40 * rate_hz).astype(np.int16)
    split = []
    for number, lengths in enumerate(np.array_split(noise_durations_s()[:num_cycles], num_recordings)):
        patient, place = divmod(number, len(PLACES))
        name = f"{patient + 101}_1b1_{PLACES[place]}_sc_Meditron"
        ends = np.cumsum(lengths)
        flags = rng.integers(2, size=(len(lengths), 2))
        np.savetxt(folder / f"{name}.txt", np.c_[ends - lengths, ends, flags], fmt="%.3f\t%.3f\t%d\t%d")
        # Each recording begins elsewhere in the noise, so that no two are the same.
        sound = np.resize(np.roll(noise, -7 * number), int(np.ceil((ends[-1] + 0.01) * rate_hz)))
        soundfile.write(folder / f"{name}.wav", sound, rate_hz, subtype="PCM_16")
        split.append(f"{name}\t{'test' if patient % 5 in (1, 3) else 'train'}\n")
    (folder / "official_split.txt").write_text("".join(split), encoding="utf-8")
    return folder
