"""Device and precision on which a model computes."""

import torch

from lungsound.errors import SettingsError


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU. SettingsError when it is not there.

    float32 means float32 on it: the patch embedding is a convolution, which TF32 would round.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise SettingsError(f"device {name!r} is not known; use auto, cpu, cuda, cuda:1 or mps")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu") from None
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return device


def find_precision(name: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; "auto" is bf16 on a GPU that has it, else fp32. SettingsError for fp16 on the CPU."""
    if name == "fp16" and device.type == "cpu":
        raise SettingsError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
