"""A start with everything in the cache: no sound file is opened, nothing is hashed, decoded or computed."""

import json
import os
import subprocess
import sys
from pathlib import Path

# In a process of its own, since an audit hook stays. Counts, not seconds.
START = """
import json, sys
from collections import Counter
from pathlib import Path
from rich.console import Console
from lungsound.data.splits import load_corpus, divide
from lungsound.audio.front_end import FrontEnd
from lungsound.data.batches import training_batches, training_inputs
from lungsound.config import load_config
from lungsound.data import file_facts
import soundfile

counts = Counter()
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".wav"):
        counts["opened"] += 1
sys.addaudithook(hook)
def counted(owner, name, what):
    before = getattr(owner, name)
    def call(*arguments, **more):
        counts[what] += 1
        return before(*arguments, **more)
    setattr(owner, name, call)
counted(soundfile, "SoundFile", "decoder")
counted(file_facts, "hash_file", "hashed")
counted(FrontEnd, "read", "decoded")
counted(FrontEnd, "filter_banks", "filter banks")
file_facts.MIN_AGE_S = 0

config = load_config("demo", [f"data.root={sys.argv[1]}"])
corpus = load_corpus(config.data)
parts = divide(corpus, config.data, config.train)
inputs = training_inputs(config, corpus, parts, console=Console(quiet=True))
batch = next(training_batches(config, corpus, parts, inputs, console=Console(quiet=True)).epoch(1))
print(json.dumps([len(corpus.recordings), counts, corpus.fingerprint, inputs.mean, float(batch.fbank.double().sum())]))
"""


def start(corpus: Path, cache: Path) -> list:
    done = subprocess.run(
        [sys.executable, "-c", START, str(corpus)],
        env=os.environ | {"LUNGSOUND_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_warm_start_touches_no_sound(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    num_recordings, cold, *values = start(synthetic_corpus_dir, tmp_path)
    assert cold["hashed"] == cold["decoded"] == num_recordings
    assert cold["decoder"] == 2 * num_recordings  # its header, then its samples
    again = start(synthetic_corpus_dir, tmp_path)
    assert again == [num_recordings, {}, *values]
