"""Settings to a device, an objective, an optimizer: one training step."""

from collections.abc import Sequence
from functools import partial

import torch

from lungsound.config import ObjectiveSettings, PatchMixSettings, TrainSettings
from lungsound.data.corpus import Corpus
from lungsound.data.dataset import CycleBatches
from lungsound.data.protocol import Parts
from lungsound.errors import SettingsError
from lungsound.model.classifier import LungSoundClassifier
from lungsound.model.encoder import AudioSpectrogramTransformer
from lungsound.model.patchmix import draw_patch_mix
from lungsound.model.pretrained import LoadReport
from lungsound.training.losses import class_weights
from lungsound.training.objectives import CrossEntropy, Draw, Objective, PatchMixContrastive, PatchMixCrossEntropy
from lungsound.training.optim import Schedule, make_optimizer
from lungsound.training.step import TrainStep


def device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device {name!r} is not known; use auto, cpu, cuda, cuda:1 or mps")
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu") from None
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32: the patch embedding is a convolution
    return chosen


def precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; "auto" is bf16 on a GPU that has it, else fp32. SettingsError for fp16 on the CPU."""
    if name == "fp16" and device.type == "cpu":
        raise SettingsError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def draw(settings: PatchMixSettings) -> Draw:
    """The draw of Patch-Mix with these settings."""
    return lambda batch_size, grid, generator: draw_patch_mix(
        batch_size,
        grid,
        generator=generator,
        beta=settings.beta,
        axis=settings.axis,
        is_lam_per_sample=settings.is_lam_per_sample,
        is_self_partner_allowed=settings.is_self_partner_allowed,
    )


def objective(
    settings: ObjectiveSettings, patchmix: PatchMixSettings, *, class_counts: Sequence[int], device: torch.device
) -> Objective:
    weights = None
    if settings.is_class_weighted:
        if min(class_counts) < 1:
            raise SettingsError(f"class weights need training cycles of every class; there are {list(class_counts)}")
        weights = class_weights(torch.tensor(class_counts, dtype=torch.float32)).to(device)
    if settings.name == "ce":
        return CrossEntropy(class_weights=weights)
    if settings.name == "patchmix_ce":
        return PatchMixCrossEntropy(draw(patchmix), class_weights=weights)
    contrastive = partial(PatchMixContrastive, draw(patchmix), temperature=settings.temperature, alpha=settings.alpha)
    return contrastive(target=settings.target, negatives=settings.negatives, class_weights=weights)


def schedule(settings: TrainSettings) -> Schedule:
    return Schedule(
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        kind=settings.schedule,
        decay_rate=settings.decay_rate,
        decay_epochs=settings.decay_epochs,
        warmup_epochs=settings.warmup_epochs,
    )


def train_step(
    settings: TrainSettings, model: LungSoundClassifier, objective: Objective, *, device: torch.device
) -> TrainStep:
    if settings.is_activation_checkpointed:
        if not isinstance(model.encoder, AudioSpectrogramTransformer):
            raise SettingsError(
                f"train.is_activation_checkpointed is for the AST, not for {model.encoder.architecture}: "
                "take a smaller train.batch_size"
            )
        model.encoder.is_checkpointed = True
    optimizer = make_optimizer(
        model.parameters(),
        kind=settings.optimizer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    return TrainStep(
        model,
        objective,
        optimizer,
        device=device,
        precision=precision(settings.precision, device),
        blend=settings.blend,
        ema_decay=settings.ema_decay,
    )


def remarks(
    settings: TrainSettings, corpus: Corpus, parts: Parts, pretrained: LoadReport | None, batches: CycleBatches
) -> list[str]:
    """What a person should know before training starts."""
    found = [f"left out: {problem}" for problem in corpus.problems]
    if parts.left_out:
        who, leave = "patient", "is in the test part too and leaves"
        if len(parts.left_out) > 1:
            who, leave = "patients", "are in the test part too and leave"
        found.append(
            f"{who} {', '.join(parts.left_out)} {leave} the training part "
            "(data.are_shared_patients_kept=true keeps them)"
        )
    found += [] if pretrained is None else [pretrained.summary()]
    num_dropped = len(batches) % batches.batch_size if batches.is_last_dropped else 0
    if num_dropped:
        cycles = "1 cycle" if num_dropped == 1 else f"{num_dropped} cycles"
        found.append(f"each epoch leaves out its last, smaller batch of {cycles}")
    rates = [schedule(settings).at(epoch, 1, num_steps=1) for epoch in range(1, settings.epochs + 1)]
    if max(rates) < 0.7 * settings.learning_rate:
        found.append(
            f"the learning rate never rises above {max(rates):.2g}, of {settings.learning_rate:.2g} asked for: the "
            f"{settings.schedule} schedule starts below it; take more epochs or train.schedule=constant"
        )
    return found
