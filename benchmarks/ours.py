"""Our side of a measurement, built from a recipe as a run builds it, and corpora of noise as large as ICBHI."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from benchmarks.measure import Work, wait_for
from benchmarks.peers import PlainPatchMixStep
from lungsound.audio.filter_bank import AUDIOSET_STATISTICS
from lungsound.audio.front_end import FrontEnd
from lungsound.config import RunConfig, load_config
from lungsound.data.batches import Batch
from lungsound.labels import LABEL_SETS
from lungsound.models.classifier import LungSoundClassifier, initial_classifier
from lungsound.training.checkpoint import TrainedModel
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
    """The network of these settings with random weights."""
    return initial_classifier(config, FrontEnd(config.audio))[0]


def train_step(config: RunConfig, *, device: torch.device) -> TrainStep:
    """The step of a run with these settings; every class has the same number of training cycles."""
    model = classifier(config)
    counts = [1] * len(model.classes)
    objective = make_objective(config.objective, config.patchmix, class_counts=counts, device=device)
    return TrainStep(model.to(device), objective, config.train, device=device)


def batch(config: RunConfig, *, batch_size: int) -> tuple[Tensor, Tensor]:
    """Filter banks (batch, time, mel) of noise and labels (batch,), the same at every call."""
    front_end = FrontEnd(config.audio)
    generator = torch.Generator().manual_seed(0)
    fbank = 0.5 * torch.randn(batch_size, front_end.num_frames, front_end.num_mels, generator=generator)
    num_classes = LABEL_SETS[config.data.label_set].num_classes
    return fbank, torch.randint(num_classes, (batch_size,), generator=generator)


def trained_model(config: RunConfig) -> TrainedModel:
    """A model as one is loaded from a run, with random weights."""
    front_end = FrontEnd(config.audio)
    mean, std = AUDIOSET_STATISTICS[front_end.audio.filter_bank]
    name = f"bench-{config.model.size}{'' if front_end.is_padding_encoded else '-own'}"
    label_set = LABEL_SETS[config.data.label_set]
    return TrainedModel(classifier(config).eval(), front_end, mean, std, label_set, sha256=name)


def waveforms(front_end: FrontEnd, durations_s: Sequence[float]) -> list[Tensor]:
    """Noise of these durations, as cycles are cut from a recording."""
    generator = torch.Generator().manual_seed(0)
    lengths = [round(duration_s * front_end.sample_rate_hz) for duration_s in durations_s]
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


LEARNING_RATE = 5e-5


def make_step(
    side: str,
    size: str,
    *,
    batch_size: int,
    device: torch.device,
    is_quick: bool = False,
    durations_s: Sequence[float] | None = None,
) -> Work:
    """One whole step of "ours" (bf16) or of the "peer" (float32 on the CPU, AMP as published on a GPU).

    With `durations_s` ours encodes only the patches that touch cycles of these durations; the peer encodes all.
    """
    config = run_config(size, is_quick=is_quick, is_padding_encoded=durations_s is None)
    fbank, labels = batch(config, batch_size=batch_size)
    if side == "ours":
        num_frames = None if durations_s is None else own_frames(config, durations_s)
        return _our_step(train_step(config, device=device), Batch(fbank, labels, num_frames))
    amp_dtype = torch.float16 if device.type == "cuda" else None
    plain = PlainPatchMixStep(classifier(config), device=device, amp_dtype=amp_dtype)
    rng = np.random.default_rng(0)

    def step() -> None:
        plain(fbank, labels, rng=rng)
        wait_for(device)

    return step


def own_frames(config: RunConfig, durations_s: Sequence[float]) -> Tensor:
    """Frames of the filter bank (batch,) that touch cycles of these durations (`FrontEnd.num_own_frames`).

    The settings say that padding is not encoded.
    """
    front_end = FrontEnd(config.audio)
    return torch.tensor([front_end.num_own_frames(round(each * front_end.sample_rate_hz)) for each in durations_s])


def _our_step(train_step: TrainStep, batch: Batch) -> Work:
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        train_step(batch, learning_rate=LEARNING_RATE, generator=generator)
        wait_for(train_step.device)

    return step


RATE_HZ = 44100  # of 824 of ICBHI's 920 recordings
NUM_RECORDINGS, NUM_CYCLES = 920, 6898
PLACES = ("Al", "Ar", "Ll", "Lr", "Pl", "Pr", "Tc")
RECORDINGS_OF_A_PATIENT = 7
TEST_PATIENTS = (1, 3)  # of every five
NOISE_S = 40


def noise_durations_s(num_cycles: int, *, seed: int = 0) -> list[float]:
    """Durations of cycles, log-normal: as in ICBHI their mean is 2.7 s, and few are under 1 s or over 8 s."""
    drawn = np.random.default_rng(seed).lognormal(mean=0.9, sigma=0.45, size=num_cycles)
    return [round(float(each), 3) for each in drawn.clip(0.2, 16.0)]


def write_noise_corpus(
    folder: Path, *, num_recordings: int = NUM_RECORDINGS, num_cycles: int = NUM_CYCLES, rate_hz: int = RATE_HZ
) -> Path:
    """Write the recordings, their annotations and a split by patient into the new folder, and return it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3000, NOISE_S * rate_hz).astype(np.int16)
    split = []
    for number, lengths in enumerate(np.array_split(noise_durations_s(num_cycles), num_recordings)):
        patient, place = divmod(number, RECORDINGS_OF_A_PATIENT)
        name = f"{patient + 101}_1b1_{PLACES[place]}_sc_Meditron"
        ends = np.cumsum(lengths)
        starts = ends - lengths
        flags = rng.integers(2, size=(len(lengths), 2))
        rows = [f"{start:.3f}\t{end:.3f}\t{c}\t{w}\n" for start, end, (c, w) in zip(starts, ends, flags, strict=True)]
        (folder / f"{name}.txt").write_text("".join(rows), encoding="utf-8")
        # Each recording begins elsewhere in the noise, so that no two are the same.
        sound = np.resize(np.roll(noise, -7 * number), int(np.ceil((ends[-1] + 0.01) * rate_hz)))
        soundfile.write(folder / f"{name}.wav", sound, rate_hz, subtype="PCM_16")
        is_test = patient % 5 in TEST_PATIENTS
        split.append(f"{name}\t{'test' if is_test else 'train'}\n")
    (folder / "official_split.txt").write_text("".join(split), encoding="utf-8")
    return folder
