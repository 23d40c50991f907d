"""The most memory that a training step takes: each side in a process of its own, less what it imports.

`python -m benchmarks.memory FACTS` runs one side and prints the bytes.
"""

import json
import subprocess
import sys

import torch

from benchmarks.resident import peak_resident_bytes, resident_bytes
from benchmarks.training import make_step
from lungsound.errors import LungsoundError


def peak_bytes(side: str, size: str, *, batch_size: int, num_threads: int, is_quick: bool) -> int:
    """Bytes that two steps of `side` ("ours" or "peer") take at their peak, above those after all imports."""
    facts = {"side": side, "size": size, "batch_size": batch_size, "num_threads": num_threads, "is_quick": is_quick}
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(facts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"signal {-done.returncode}: is the memory used up?"]
        raise LungsoundError(f"the memory of a step of {size} ({side}) could not be measured: {reason[0]}")
    return int(done.stdout.split()[-1])


def main(text: str) -> None:
    facts = json.loads(text)
    torch.set_num_threads(facts["num_threads"])
    if facts["side"] == "peer":
        from benchmarks.peers import transformers

        transformers().ASTForAudioClassification  # noqa: B018 (imported when first asked for)
    baseline = resident_bytes()
    step = make_step(
        facts["side"],
        facts["size"],
        batch_size=facts["batch_size"],
        device=torch.device("cpu"),
        is_quick=facts["is_quick"],
    )
    step()
    step()
    print(peak_resident_bytes() - baseline)


if __name__ == "__main__":
    main(sys.argv[1])
