"""The table of speed: printed, as a page between marks of a document, and as JSON."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.line import HEAD, NOTE, Line
from lungsound.experiments.study import write_between
from lungsound.files import write_text
from lungsound.page import Block, Bullets, Paragraph, Table, render_blocks

MARK = "speed"


@dataclass(frozen=True)
class Measured:
    """What one call of the benchmark found."""

    lines: Sequence[Line]
    machine: Mapping[str, str | int]
    ceilings: Mapping[str, float]
    command: str
    date: str


def measured(lines: Sequence[Line], machine: Mapping[str, str | int], ceilings: Mapping[str, float]) -> Measured:
    """With the command that was called and today's date."""
    command = shlex.join(["lungsound", *sys.argv[1:]])
    return Measured(lines, machine, ceilings, command, datetime.now(UTC).date().isoformat())


def print_table(found: Measured, console: Console) -> None:
    """The lines and, below them, how each was measured and on what machine."""
    table = RichTable(show_lines=True)
    for name in ("", *HEAD[:NOTE]):
        table.add_column(name)
    for number, line in enumerate(found.lines, start=1):
        table.add_row(str(number), *line.cells()[:NOTE])
    console.print(table)
    for number, line in enumerate(found.lines, start=1):
        console.print(f"{number}. {line.note}", highlight=False, soft_wrap=True)
    for sentence in _sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)


def blocks(found: Measured) -> list[Block]:
    """For a document."""
    reached = [line for line in found.lines if line.is_reached]
    tried = [line for line in found.lines if line.is_reached is not None]
    summary = f" {len(reached)} of {len(tried)} measured lines are reached."
    return [
        Paragraph(summary, lead=f"Measured {found.date}."),
        Table(HEAD, [line.cells() for line in found.lines]),
        Bullets(_sentences(found)),
    ]


def write(found: Measured, out: Path) -> list[Path]:
    """Into a folder: `bench.json` and `bench.md`; into a document (.md): what stands between its marks."""
    if out.suffix == ".md":
        write_between(out, MARK, render_blocks(blocks(found)))
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    plain = {
        "lines": [line.to_plain() for line in found.lines],
        "machine": dict(found.machine),
        "ceilings": dict(found.ceilings),
        "command": found.command,
        "date": found.date,
    }
    write_text(out / "bench.json", json.dumps(plain, indent=1) + "\n")
    write_text(out / "bench.md", render_blocks(blocks(found)))
    return [out / "bench.json", out / "bench.md"]


def _sentences(found: Measured) -> list[str]:
    best = found.ceilings
    return [
        f"Command: {found.command}",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in found.machine.items()),
        f"Ceilings measured in the same call: {best['fp32']:.0f} GFLOP/s in fp32, {best['bf16']:.0f} in bf16 (matrix "
        f"products, the better of torch's and oneDNN's), {best['copy']:.1f} GB/s of a copy, read and write.",
    ]
