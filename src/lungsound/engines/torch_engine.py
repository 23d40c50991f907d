"""torch itself, in float32 or under bfloat16 autocast: always there, and on a GPU the only one."""

import torch
from torch import Tensor

from lungsound.audio.fbank import normalize
from lungsound.checkpoint import TrainedModel
from lungsound.engines.engine import Engine


class TorchEngine(Engine):
    """The model as it was trained. The filter bank is float32 whatever the encoder computes in."""

    def __init__(self, trained: TrainedModel, *, device: torch.device, is_bf16: bool = False) -> None:
        super().__init__("torch-bf16" if is_bf16 else "torch", trained)
        self.device, self.is_bf16 = device, is_bf16
        trained.model.to(device).eval()

    @torch.inference_mode()
    def _probabilities(self, clips: Tensor) -> Tensor:
        fbank = self.trained.front_end.filter_banks(clips)
        fbank = normalize(fbank, mean=self.trained.mean, std=self.trained.std).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            logits: Tensor = self.trained.model(fbank)
        return logits.float().softmax(dim=1).cpu()
