"""How long a run takes from its start to its first batch, and how its memory grows over a pass through the corpus.

`python -m benchmarks.start FACTS` does in a process of its own what a run does before its first step.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from benchmarks.resident import resident_bytes
from lungsound.config import load_config
from lungsound.data.batches import training_batches, training_inputs
from lungsound.data.splits import divide, load_corpus
from lungsound.errors import LungsoundError


def first_batch(corpus: Path, *, cache: Path, settings: tuple[str, ...] = ()) -> Mapping[str, float]:
    """`start_s` to the first training batch, `growth_mib` of resident memory after all cycles were read once.

    The store is in the folder `cache`; it is warm when it was filled by an earlier call.
    """
    facts = json.dumps({"corpus": str(corpus.absolute()), "settings": settings, "began_s": time.time()})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.start", facts],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LUNGSOUND_CACHE": str(cache)},
    )
    if done.returncode:
        raise LungsoundError(f"the start of a run could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(text: str) -> None:
    facts = json.loads(text)
    config = load_config("patchmix_cl", [f"data.root={facts['corpus']}", *facts["settings"]])
    baseline = resident_bytes()
    corpus = load_corpus(config.data)
    parts = divide(corpus, config.data, config.train)
    quiet = Console(quiet=True)
    inputs = training_inputs(config, corpus, parts, console=quiet)
    batches = training_batches(config, corpus, parts, inputs, console=quiet)
    next(batches.epoch(1))
    start_s = time.time() - facts["began_s"]
    num_cycles = sum(len(fbank) for fbank, _ in inputs.to_predict(range(len(corpus.cycles)), 32))
    growth_mib = (resident_bytes() - baseline) / 2**20
    print(json.dumps({"start_s": start_s, "growth_mib": growth_mib, "num_cycles": num_cycles}))


if __name__ == "__main__":
    main(sys.argv[1])
