"""One call of the benchmark: ceilings first, then the lines that were asked for."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.data_lines import data_lines
from benchmarks.gpu_lines import gpu_lines
from benchmarks.infer_lines import infer_lines
from benchmarks.line import Line
from benchmarks.machine import ceilings, facts
from benchmarks.peers import transformers
from benchmarks.plan import Plan
from benchmarks.profile import Share, profile_answering, profile_training
from benchmarks.report import Measured, measured
from benchmarks.train_lines import train_lines

PARTS: Mapping[str, Callable[[Plan], list[Line]]] = {"data": data_lines, "train": train_lines, "infer": infer_lines}
CPU = torch.device("cpu")


def run_bench(
    part: str,
    *,
    sizes: tuple[str, ...],
    num_threads: int,
    is_against: bool,
    is_quick: bool,
    data: Path | None,
    model: Path | None = None,
    console: Console,
) -> Measured:
    """Measure a part ("data", "train", "infer") or "all", which has the GPU's lines too where there is one."""
    if is_against:
        transformers()
    with tempfile.TemporaryDirectory(prefix="lungsound-bench-") as work:

        def plan(device: torch.device) -> Plan:
            torch.set_num_threads(num_threads)
            console.print(f"ceilings of the {device.type}", highlight=False)
            return Plan(
                sizes=sizes,
                num_threads=num_threads,
                device=device,
                work=Path(work),
                ceilings=ceilings(device, is_quick=is_quick),
                data=data,
                model=model,
                is_against=is_against,
                is_quick=is_quick,
                say=lambda text: console.print(text, highlight=False, soft_wrap=True),
            )

        on_cpu = plan(CPU)
        chosen = list(PARTS) if part == "all" else [part]
        lines = [line for name in chosen for line in PARTS[name](on_cpu)]
        device = CPU
        if torch.cuda.is_available() and part in ("all", "train"):
            device = torch.device("cuda")
            lines += gpu_lines(plan(device))
    return measured(lines, facts(num_threads=num_threads, device=device), on_cpu.ceilings)


def run_profile(part: str, *, size: str, num_threads: int, is_quick: bool, console: Console) -> None:
    """Print where the time goes in "train" or "infer", on the GPU where there is one."""
    torch.set_num_threads(num_threads)
    device = torch.device("cuda") if torch.cuda.is_available() else CPU
    plan = Plan((size,), num_threads, device, Path(), {}, is_quick=is_quick)
    shares = profile_training(plan) if part == "train" else profile_answering(plan)
    console.print(profile_table(shares, title=f"{part}, AST-{size.title()}, batch {plan.batch_size}, {device.type}"))


def profile_table(shares: list[Share], *, title: str) -> Table:
    total_s = sum(share.seconds for share in shares)
    table = Table(title=title, title_justify="left")
    for name in ("group", "seconds", "share", "operators that take most (s)"):
        table.add_column(name)
    for share in shares:
        percent = f"{100 * share.seconds / total_s:.1f} %"
        table.add_row(share.group, f"{share.seconds:.3f}", percent, ", ".join(share.operators))
    table.add_row("all", f"{total_s:.3f}", "", "")
    return table
