"""Peers: the same predictions and the same training step, written as the users of other programs write them.

Peers are the transformers library's feature extractor and Audio Spectrogram Transformer with our weights, and a
Patch-Mix step on it as the published program goes about it (docs/paper.md): two embeddings and two passes, all
weights copied before each step, Adam, in float32 unless an AMP dtype is given. `published_features` makes features one
cycle at a time and keeps everything in memory: as the published program does with torchaudio, it resamples a recording
with one convolution of all phases whose kernel is made for each file, and makes mel triangles and takes the frames'
energies (which nothing uses) anew for every cycle.
"""

import copy
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lungsound.audio.filter_bank import AUDIOSET_STATISTICS
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.audio.io import fade
from lungsound.errors import SettingsError
from lungsound.extras import load
from lungsound.inference.graph import quiet
from lungsound.inference.hugging_face import extractor_config, hugging_face_config, hugging_face_weights
from lungsound.models.classifier import LungSoundClassifier, Projector
from lungsound.training.model_file import TrainedModel


def transformers() -> Any:
    """Import the library; SettingsError when it is not installed."""
    with quiet():
        return load("transformers", extra="baselines")


def transformers_classifier(model: LungSoundClassifier) -> Any:
    """Its ASTForAudioClassification with the weights of `model`, through a folder as its users load one."""
    library = transformers()
    library.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_file(hugging_face_weights(model, scale=1.0), f"{folder}/model.safetensors", metadata={"format": "pt"})
        Path(folder, "config.json").write_text(json.dumps(hugging_face_config(model)), encoding="utf-8")
        loaded, names = library.ASTForAudioClassification.from_pretrained(folder, output_loading_info=True)
    if names["missing_keys"] or names["unexpected_keys"]:
        raise SettingsError(
            f"transformers {library.__version__} reads other names of weights than those known here "
            f"({sorted(names['missing_keys'])[:2]}): take another version"
        )
    loaded.classifier.layernorm.eps = 1e-5  # the published head's; the library gives it the encoder's
    return loaded.eval()


class TransformersPredictions:
    """Waveforms to probabilities by the library: its feature extractor, its model, float32, no gradients."""

    def __init__(self, trained: TrainedModel) -> None:
        front_end = trained.front_end
        self.model, self.fit, self.rate_hz = (
            transformers_classifier(trained.model),
            front_end.fit,
            front_end.sample_rate_hz,
        )
        with quiet():  # of empty mel filters, which AST's own filter bank has too
            self.extractor = transformers().ASTFeatureExtractor(**extractor_config(trained))

    def features(self, cycles: Sequence[Sound]) -> Tensor:
        """Normalised filter banks (batch, time, mel) of cycles of any length."""
        fitted = [self.fit(cycle.waveform) for cycle in cycles]
        features: Tensor = self.extractor(fitted, sampling_rate=self.rate_hz, return_tensors="pt").input_values
        return features.float()

    @torch.no_grad()
    def __call__(self, cycles: Sequence[Sound]) -> Tensor:
        """Probabilities (cycle, class) of cycles of any length."""
        logits: Tensor = self.model(self.features(cycles)).logits
        return logits.softmax(dim=1)


class PlainPatchMixStep:
    """One step of the Patch-Mix contrastive loss on the library's model, as published; weights from `model`.

    The embedding is done once for the clean and once for the mixed view, and each has a backward pass of its own
    graph. `old_share` is the published moving average's. With `amp_dtype` float16 the loss is scaled.
    """

    def __init__(
        self,
        model: LungSoundClassifier,
        *,
        device: torch.device,
        amp_dtype: torch.dtype | None = None,
        old_share: float = 0.5,
    ) -> None:
        loaded = transformers_classifier(model)
        self.encoder = loaded.audio_spectrogram_transformer.to(device).train()
        self.classifier = loaded.classifier.to(device).train()
        self.projector = Projector(model.encoder.dim, model.encoder.dim).to(device).train()
        if model.projector is not None:
            self.projector.load_state_dict(model.projector.state_dict())
        self.num_patches = model.patch_encoder.grid.num_patches
        self.modules: tuple[nn.Module, ...] = (self.encoder, self.classifier, self.projector)
        parameters = [parameter for module in self.modules for parameter in module.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=5e-5, weight_decay=1e-6)
        self.device, self.amp_dtype, self.old_share = device, amp_dtype, old_share
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype is torch.float16)

    def __call__(self, fbank: Tensor, labels: Tensor, *, rng: np.random.Generator) -> Tensor:
        """Step on filter banks (batch, time, mel) and labels (batch,); the loss before the update."""
        old_weights = [copy.deepcopy(module.state_dict()) for module in self.modules]
        fbank, labels = fbank.to(self.device), labels.to(self.device)
        partner = torch.from_numpy(rng.permutation(len(fbank))).to(self.device)
        num_replaced = int(self.num_patches * (1 - rng.beta(1.0, 1.0)))
        replaced = torch.zeros(self.num_patches, dtype=torch.bool, device=self.device)
        replaced[torch.from_numpy(rng.permutation(self.num_patches)[:num_replaced]).to(self.device)] = True
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            loss = self.loss(fbank, labels, partner=partner, replaced=replaced)
        self.optimizer.zero_grad()
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for module, old in zip(self.modules, old_weights, strict=True):
            new = module.state_dict()
            for name, value in new.items():
                if value.is_floating_point():
                    new[name] = self.old_share * old[name] + (1 - self.old_share) * value
            module.load_state_dict(new)
        return loss.detach()

    def loss(self, fbank: Tensor, labels: Tensor, *, partner: Tensor, replaced: Tensor) -> Tensor:
        """Cross-entropy of the clean view plus the contrastive loss of the mixed one."""
        features = self.encoder(fbank).pooler_output
        clean = functional.cross_entropy(self.classifier(features), labels)

        def mix(module: nn.Module, inputs: Any, patches: Tensor) -> Tensor:
            del module, inputs
            return torch.where(replaced[:, None], patches[partner], patches)

        hook = self.encoder.embeddings.patch_embeddings.register_forward_hook(mix)
        mixed = self.projector(self.encoder(fbank).pooler_output)
        hook.remove()
        anchors = functional.normalize(features.detach(), dim=1)
        log_shares = (functional.normalize(mixed, dim=1) @ anchors.T / 0.06).log_softmax(dim=1)
        lam = 1 - replaced.double().mean().to(log_shares.dtype)
        own = torch.arange(len(fbank), device=fbank.device)
        total: Tensor = clean - (lam * log_shares[own, own] + (1 - lam) * log_shares[own, partner]).mean()
        return total


WINDOW, SHIFT, FFT = 400, 160, 512  # samples at 16 kHz
LOW_HZ = 20.0
FLOOR = 1.1920928955078125e-07


def published_features(folder: Path, front_end: FrontEnd) -> list[Tensor]:
    """Normalised filter banks (time, mel) of every annotated cycle of the recordings of a folder, by name."""
    features = []
    for recording in sorted(folder.glob("*.wav")):
        samples, rate_hz = soundfile.read(recording, dtype="float32", always_2d=True)
        resampled = _resampled(torch.from_numpy(samples).mean(dim=1), rate_hz, front_end.sample_rate_hz)
        waveform = fade(resampled.numpy(), num_samples=front_end.num_fade_samples)
        for start_s, end_s, *_ in np.loadtxt(recording.with_suffix(".txt"), ndmin=2):
            cycle = front_end.fit(front_end.cut(Sound(waveform), start_s=start_s, end_s=end_s).waveform)
            features.append(_filter_bank(torch.from_numpy(cycle), front_end))
    return features


def _resampled(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """One strided convolution with a kernel (phase, 1, tap) as wide as a whole period and the sinc on both sides."""
    common = math.gcd(from_hz, to_hz)
    step, num_phases = from_hz // common, to_hz // common
    base = 0.99 * min(step, num_phases)
    width = math.ceil(6 * step / base)
    taps = torch.arange(-width, width + step, dtype=torch.float64)[None, None] / step
    phases = torch.arange(0, -num_phases, -1)[:, None, None] / num_phases
    crossings = ((phases + taps) * base).clamp(-6, 6)
    kernel = torch.sinc(crossings) * torch.cos(crossings * math.pi / 12) ** 2 * base / step
    padded = functional.pad(waveform[None], (width, width + step))
    phase_major = functional.conv1d(padded[:, None], kernel.to(waveform.dtype), stride=step).transpose(1, 2).reshape(-1)
    return phase_major[: math.ceil(num_phases * len(waveform) / step)]


def _filter_bank(waveform: Tensor, front_end: FrontEnd) -> Tensor:
    """Normalised Kaldi filter bank (time, mel) of one waveform at 16 kHz."""
    frames = waveform.unfold(0, WINDOW, SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    frames.pow(2).sum(dim=1).clamp(min=FLOOR).log()
    frames = frames - 0.97 * functional.pad(frames.unsqueeze(0), (1, 0), mode="replicate").squeeze(0)[:, :-1]
    frames = functional.pad(frames * torch.hann_window(WINDOW, periodic=False), (0, FFT - WINDOW))
    power = torch.fft.rfft(frames).abs().pow(2.0)
    num_mels, rate_hz = front_end.audio.num_mels, front_end.sample_rate_hz
    low, high = (1127 * math.log(1 + hz / 700) for hz in (LOW_HZ, rate_hz / 2))
    corners = torch.linspace(low, high, num_mels + 2)
    left, centre, right = (corners[first : first + num_mels, None] for first in range(3))
    bins = 1127 * (1 + torch.arange(FFT // 2 + 1) * rate_hz / FFT / 700).log()
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    mean, std = AUDIOSET_STATISTICS["kaldi"]
    features: Tensor = ((power @ triangles.T).clamp(min=FLOOR).log() - mean) / (2 * std)
    return features
