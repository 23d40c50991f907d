"""The precision of a training: what was asked for, or what this processor computes fastest.

bfloat16 halves the time of a large encoder where a processor has it, costs more than it brings in a small one, and
takes several times as long where it is emulated: so one block of the encoder is timed in both, once for a processor.
"""

import hashlib
import math
import time

import torch
from torch import Tensor

from lungsound.config import TrainSettings
from lungsound.errors import SettingsError
from lungsound.files import cache_root, read_record, write_record
from lungsound.models.ast import NUM_PREFIX_TOKENS, AudioSpectrogramTransformer
from lungsound.models.classifier import LungSoundClassifier
from lungsound.processor import processor_name

CLEARLY = 1.2  # times as fast: less is within what a busy machine changes
MAX_TOKENS, BUDGET_S = 1024, 0.4  # for each precision
AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(
    train: TrainSettings,
    model: LungSoundClassifier,
    num_frames: Tensor | None,
    device: torch.device,
    *,
    of_run: str | None,
) -> tuple[str, str | None]:
    """fp32, bf16 or fp16, and a remark where that was asked for and is slow.

    "auto" is that in which the run was trained so far (`of_run`); of a new one bf16 where a GPU has it, or where a CPU
    is clearly faster in it on samples of so many encoded frames (sample,), else fp32. SettingsError for fp16 on a CPU.
    """
    if train.precision == "auto" and of_run is not None:
        return of_run, None
    asked = find_precision(train.precision, device)
    if device.type != "cpu" or not isinstance(model.encoder, AudioSpectrogramTransformer):
        return asked, None
    seconds = block_seconds(model.encoder, num_frames, train.batch_size)
    faster = "bf16" if seconds["fp32"] > CLEARLY * seconds["bf16"] else "fp32"
    if train.precision == "auto":
        return faster, None
    other = "fp32" if asked == "bf16" else "bf16"
    if seconds[asked] <= CLEARLY * seconds[other]:
        return asked, None
    own_ms, other_ms = (1e3 * seconds[name] for name in (asked, other))
    return asked, (
        f"train.precision={asked} is slow here: one block of the encoder takes {own_ms:.1f} ms, in {other} "
        f"{other_ms:.1f} ms; train.precision=auto takes what is fast"
    )


def find_precision(name: str, device: torch.device) -> str:
    """The precision of that name; for "auto", without measuring, bf16 on a GPU that has it, else fp32."""
    if name == "fp16" and device.type == "cpu":
        raise SettingsError("precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    if name != "auto":
        return name
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def block_seconds(encoder: AudioSpectrogramTransformer, num_frames: Tensor | None, batch_size: int) -> dict[str, float]:
    """Seconds of a block forward and backward in fp32 and bf16, measured once (under 2 s) on samples like the run's."""
    columns = encoder.columns(num_frames)
    mean = encoder.grid.time if columns is None else float(columns.float().mean())
    num_tokens = 2 ** round(math.log2(NUM_PREFIX_TOKENS + encoder.grid.freq * mean))
    shape = (max(1, min(batch_size, MAX_TOKENS // num_tokens)), num_tokens, encoder.dim)
    facts = [processor_name(), str(torch.get_num_threads()), torch.__version__, str(shape)]
    path = cache_root() / "precision" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.json"
    seconds: dict[str, float] | None = read_record(path, made_for=repr(facts))
    if seconds is not None:
        return seconds
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    seconds = {name: _seconds(encoder.blocks[0], tokens, AUTOCAST_DTYPES[name]) for name in ("fp32", "bf16")}
    write_record(path, seconds, made_for=repr(facts))
    return seconds


def _seconds(block: torch.nn.Module, tokens: Tensor, dtype: torch.dtype | None) -> float:
    """The shortest of several passes, the first left out; gradients are not kept."""
    tokens, parameters, best_s = tokens.requires_grad_(), list(block.parameters()), math.inf
    end_s, is_first = math.inf, True
    while is_first or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            out = block(tokens)
        torch.autograd.grad(out.sum(), [tokens, *parameters])
        if is_first:
            is_first, end_s = False, start_s + BUDGET_S
        else:
            best_s = min(best_s, time.perf_counter() - start_s)
    return best_s if math.isfinite(best_s) else time.perf_counter() - start_s
