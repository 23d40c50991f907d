"""A Ray cluster of two workers beside `lungsound predict --workers 2`: `python -m benchmarks.archive RECORDING...`.

Both predict many names, each a link to one of the recordings, and before that a few: the difference is what names
cost, without the start. Memory is the PSS of all processes, on Linux only. The predictions have to be the same. Prints
a table in Markdown, or writes it into docs/scale.md.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import memory, table
from benchmarks.rows import made_by, parser_of, print_or_write
from lungsound.errors import LungsoundError
from lungsound.extras import BOX, load
from lungsound.inference.archive import ERROR
from lungsound.inference.bulk import sound_files

MARK = "benchmarks.archive"  # of the place in a file
WAYS = {"predict --workers 2": ("--format", "parquet"), "predict --on ray --workers 2": ("--on", "ray")}
ONE_OF = 100  # names are tried first
TOLERANCE = 1e-6
MEMORY_EVERY_S = 5.0  # to look at the memory of Ray's processes takes a tenth of a second of a processor
Rows = dict[tuple[object, ...], dict[str, Any]]


class Call(NamedTuple):
    seconds: float
    peak_mib: float


def link(files: Sequence[Path], folder: Path) -> None:
    """Give each file a name of its own in the new folder."""
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number:07}{file.suffix}").symlink_to(file.absolute())


def predict(work: Path, names: str, out: str, model: str, words: Sequence[str]) -> Call:
    """Predict the folder `names` into `out`, both in `work`, by a command of its own."""
    command = [sys.executable, "-m", "lungsound", "predict", names, "--out", out, "--model", model, "--workers", "2"]
    began = time.perf_counter()
    with (
        subprocess.Popen([*command, *words], cwd=work, stdout=subprocess.DEVNULL) as process,
        memory(process.pid, every_s=MEMORY_EVERY_S) as used,
    ):
        exit_code = process.wait()
        seconds = time.perf_counter() - began
    if exit_code:
        raise SystemExit(f"{shlex.join(command)} ended with exit code {exit_code}")
    return Call(seconds, used["peak_mib"])


def read(folder: Path) -> Rows:
    """All rows below a folder, by recording, unit and start."""
    parquet = load("pyarrow.parquet", extra="parquet")
    found: Rows = {}
    for file in sorted(folder.glob("*.parquet")):
        for row in parquet.read_table(file).to_pylist():
            key = (Path(row["path"]).name, row["unit"], row["start_s"])
            if key in found:
                raise SystemExit(f"{file} has a row for a second time: {key}")
            found[key] = row
    return found


def difference(plain: Rows, other: Rows) -> float:
    """The largest between two numbers; SystemExit where rows, labels or reasons differ, or a recording failed."""
    if plain.keys() != other.keys():
        raise SystemExit(f"the rows are not the same: {len(plain)} and {len(other)}")
    largest = 0.0
    for key, row in plain.items():
        if other[key][ERROR] is not None:
            raise SystemExit(other[key][ERROR])
        for name, value in row.items():
            given = other[key][name]
            if isinstance(value, float):
                if not abs(given - value) <= TOLERANCE:
                    raise SystemExit(f"{key}: {name} is {value}, and on Ray {given}")
                largest = max(largest, abs(given - value))
            elif given != value and name != "path":
                raise SystemExit(f"{key}: {name} is {value}, and on Ray {given}")
    return largest


def compared(files: Sequence[Path], model: str, work: Path) -> str:
    """Both ways in turn, a few names and then all."""
    folders = {"few": files[::ONE_OF], "all": files}
    calls: dict[str, list[Call]] = {way: [] for way in WAYS}
    for names, some in folders.items():
        link(some, work / names)
        for number, (way, words) in enumerate(WAYS.items()):
            calls[way].append(predict(work, names, f"{names}-{number}", model, words))
            print(f"{way}: {len(some)} names in {calls[way][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    plain, other = (read(work / f"all-{number}") for number in range(len(WAYS)))
    largest = difference(plain, other)
    num_few, num_all = map(len, folders.values())
    rates = {way: (num_all - num_few) / (every.seconds - few.seconds) for way, (few, every) in calls.items()}
    rows = [
        (
            way,
            f"{few.seconds:.1f}",
            f"{every.seconds:.1f}",
            f"{rates[way]:.1f}",
            f"{few.peak_mib:.0f}",
            f"{every.peak_mib:.0f}",
        )
        for way, (few, every) in calls.items()
    ]
    head = (
        "lungsound",
        f"{num_few:,} names, s",
        f"{num_all:,} names, s",
        "names a second, without the start",
        f"memory, MiB: {num_few:,} names",
        f"{num_all:,} names",
    )
    first, second = (rates[way] for way in WAYS)
    num_cycles = sum(unit == "cycle" for _, unit, _ in plain)
    return (
        f"{table(head, rows)}\n\nRay's names a second are {second / first:.2f} of the others'. Both have the same "
        f"{num_cycles:,} cycles of {num_all:,} names, each once, with the same labels and reasons; numbers differ by "
        f"{largest:.0e} at most."
    )


def main(words: Sequence[str]) -> None:
    parser = parser_of("python -m benchmarks.archive", __doc__, MARK)
    parser.add_argument("--times", type=int, default=10, metavar="N", help="names of each recording  [default: 10]")
    options = parser.parse_args(words)
    model = options.model if options.model == BOX else str(Path(options.model).absolute())
    with tempfile.TemporaryDirectory(prefix="lungsound-bench-") as work:
        try:
            load("ray", extra="ray")
            measured = compared(options.times * sound_files(options.recordings), model, Path(work))
        except LungsoundError as error:
            parser.error(str(error))
    text = f"{measured}\n\n{made_by('python -m benchmarks.archive', words, options.recordings)}"
    print_or_write(text, options.into, MARK)


if __name__ == "__main__":
    main(sys.argv[1:])
