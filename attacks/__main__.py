"""The attacks: `scripts/attack [PART ...]`."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attacks import corrupt, disk, kills, service, sound, text
from attacks.watch import KINDS, Row
from lungsound.files import write_json, write_text
from lungsound.processor import processor_name
from lungsound.training.run import revision

ROOT = Path(__file__).resolve().parent.parent
PARTS = {each.__name__.rpartition(".")[2]: each.attack for each in (text, sound, corrupt, kills, disk, service)}
HEAD = ("part", "of", "tries", *KINDS, "seed", "commit", "date", "processor")
PAGE = """# Reliability

Made by `scripts/attack`, never by hand: what was tried against the program, and what did not hold. Each row is of the
last time that its part was run, with the number of tries of that time. `SECURITY.md` says what is promised.

- `text`, `sound`: mutated inputs; each is read, or refused by the documented error, within ten seconds and a gigabyte.
  A cut sound file is never read as a whole one.
- `corrupt`: files of a run and what is kept, cut, flipped, replaced by another run's, by a folder or a link: refused
  by name, made anew, or the same answer.
- `kills`: SIGKILL at random moments; the same work again ends with the bytes of one that nobody disturbed.
- `disk`: files that may not grow, folders that may not be written, two calls with one folder.
- `service`: many clients at once against the answers of one alone, and requests in bad faith.

Counted are tries that lost something, answered wrongly in silence, hung, ended in a traceback (or a process that
died), or in an internal error.

"""


def page(kept: dict[str, Any]) -> str:
    """The page of all rows that are kept, in the order of the parts."""
    rows = [(part, *row) for part in PARTS for row in kept.get(part, [])]
    lines = (HEAD, ["---"] * len(HEAD), *rows)
    return PAGE + "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines) + "\n"


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/attack", description="Attack lungsound; the exit code is 0 if it held."
    )
    parser.add_argument("parts", metavar="PART", nargs="*", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", metavar="SHARE", type=float, default=1.0, help="share of the tries, above 0 up to 1")
    parser.add_argument("--out", metavar="DIR", type=Path, default=ROOT / "docs", help="of the table and its numbers")
    options = parser.parse_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    if not 0 < options.tries <= 1:
        parser.error("--tries is above 0 and at most 1")
    numbers, faults = options.out / "reliability.json", list[str]()
    for part in options.parts or PARTS:
        began_s, commit = time.monotonic(), (revision() or "unknown")[:12]
        with tempfile.TemporaryDirectory(prefix="lungsound-attack-") as folder:
            os.environ["LUNGSOUND_CACHE"] = f"{folder}/cache"
            rows: list[Row] = PARTS[part](Path(folder), seed=options.seed, share=options.tries)
        made = (options.seed, commit, f"{datetime.now(UTC):%Y-%m-%d}", processor_name())
        kept = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else {}
        kept[part] = [[row.what, row.num_tries, *row.counts.values(), *made] for row in rows]
        write_json(numbers, kept)
        write_text(options.out / "reliability.md", page(kept))
        faults += [fault for row in rows for fault in row.faults]
        print(f"{part}: {sum(row.num_tries for row in rows)} tries in {time.monotonic() - began_s:.0f} s", flush=True)
    print(f"{len(faults)} faults", *faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
