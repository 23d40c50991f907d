"""Measure the table of speed, in docs/performance.md; the work behind benchmarks/run.

Parts are measured one after the other, each thing in turn with what it is compared with. Without RECORDING the parts
that take sound files make some.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.features import feature_rows
from benchmarks.inference import inference_rows
from benchmarks.measure import ceilings, table
from benchmarks.predicting import predict_rows
from benchmarks.rows import CPU, HEAD, Bench, Row, made_by, parser_of, print_or_write
from benchmarks.service import service_rows
from benchmarks.steps import step_rows
from lungsound.data.synthetic import synthesize
from lungsound.errors import LungsoundError
from lungsound.inference.bulk import sound_files

MARK = "benchmarks/run"  # of the place in a file
PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    "predict": predict_rows,
    "service": service_rows,
    "features": feature_rows,
    "inference": inference_rows,
    "steps": step_rows,
}


def measured(bench: Bench, parts: Sequence[str]) -> list[Row]:
    """Rows of the parts; each is told on stderr as it comes."""
    rows = []
    for part in parts:
        began = time.perf_counter()
        for row in PARTS[part](bench):
            print(f"{part}: {' | '.join(row.cells)}", file=sys.stderr, flush=True)
            rows.append(row)
        print(f"{part}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


def page(rows: Sequence[Row], made: str, reached: dict[str, float]) -> str:
    """The table, and under it what made it, and the ceilings of the machine."""
    with_aim = [row.is_reached for row in rows if row.is_reached is not None]
    return "\n".join(
        [
            table(HEAD, [row.cells for row in rows]),
            "",
            made,
            f"- Ceilings measured in the same call: {reached['fp32']:.0f} GFLOP/s in fp32, {reached['bf16']:.0f} in "
            "bf16 (matrix products, the better of torch's and oneDNN's).",
            f"- {sum(with_aim)} of {len(with_aim)} aims are reached.",
        ]
    )


def main(words: Sequence[str]) -> None:
    parser = parser_of("benchmarks/run", __doc__, MARK, are_recordings_needed=False)
    parser.add_argument("--part", choices=PARTS, action="append", help="measure this part; repeatable  [default: all]")
    parser.add_argument("--quick", action="store_true", help="see that it works: numbers that mean nothing")
    options = parser.parse_args(words)
    began, reached = time.perf_counter(), ceilings(CPU, is_quick=options.quick)
    with tempfile.TemporaryDirectory(prefix="lungsound-bench-") as folder:
        work = Path(folder)
        try:
            if not options.recordings:
                synthesize(work / "recordings", num_patients=12 if options.quick else 60, seed=0)
            files = sound_files(options.recordings or [work / "recordings"])
            bench = Bench(files, options.model, reached, work, options.quick)
            rows = measured(bench, options.part or list(PARTS))
            minutes = f"{(time.perf_counter() - began) / 60:.0f} minutes"
            text = page(rows, made_by("benchmarks/run", words, options.recordings, minutes), reached)
            print_or_write(text, options.into, MARK)
        except LungsoundError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
