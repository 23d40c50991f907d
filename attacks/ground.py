"""The ground of an attack: a synthetic corpus, two tiny runs trained on it, and answers that can be compared."""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from attacks.watch import Ended, Fault, Running, lungsound
from lungsound.data.synthetic import synthesize

NUM_PATIENTS = 8
SETTINGS = (
    "audio.duration_s=1.0",
    "audio.num_mels=32",
    "train.epochs=2",
    "train.batch_size=8",
    "train.warmup_epochs=1",
    "train.checkpoint_every_steps=2",
    "train.device=cpu",
    "train.selection=validation",
)
# Names of facts that no two calls share; of seals too, which follow from the others.
OF_NOW = re.compile(r"seconds|files|^(own_)?sha256$|created|date|time|command|revision|/s$")
# Pictures, pages and events hold times of the day, the log and the checkpoint the seconds of each epoch, the speeds of
# engines nothing else; a lock and what is looked up again hold nothing.
TIMED = re.compile(r"lock|log\.csv|checkpoint\.safetensors|speeds-.*\.json")
LEFT_OUT = (".png", ".html", ".md", ".lock", ".partial")
DECIMAL = re.compile(rb"-?\d+\.\d+(?:e[+-]?\d+)?")
TOLERANCE = 1e-6  # of decimals in text: probabilities depend so little on what is predicted together


@dataclass(frozen=True)
class Ground:
    """Folders: a corpus, a run, another run with other weights, three recordings, and the cache of all of them."""

    corpus: Path
    run: Path
    other: Path
    sounds: Path
    cache: Path

    def call(self, *arguments: object) -> Ended:
        """`lungsound ARGUMENTS`, to its end."""
        return Running(lungsound(*arguments), cache=self.cache).end()


@dataclass(frozen=True, eq=False)
class Said:
    """What a file says: the hash of its words, and the decimals among them."""

    words: str
    decimals: tuple[float, ...]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Said)
            and self.words == other.words
            and len(self.decimals) == len(other.decimals)
            and all(
                math.isclose(one, two, rel_tol=0, abs_tol=TOLERANCE)
                for one, two in zip(self.decimals, other.decimals, strict=True)
            )
        )


Answers = dict[str, Said]


def train(corpus: Path, out: Path, *settings: str) -> list[object]:
    """The words of a training."""
    return ["train", "demo", "--data", corpus, "--out", out, *(f"--set={each}" for each in (*SETTINGS, *settings))]


def prepare(folder: Path) -> Ground:
    """Make the ground; RuntimeError where that fails."""
    ground = Ground(*(folder / name for name in ("corpus", "run", "other", "sounds", "cache")))
    synthesize(ground.corpus, num_patients=NUM_PATIENTS, seed=0)
    ground.sounds.mkdir()
    for sound in sorted(ground.corpus.glob("*.wav"))[:3]:
        shutil.copy(sound, ground.sounds)
    for run, seed in ((ground.run, 0), (ground.other, 1)):
        done = ground.call(*train(ground.corpus, run, f"train.seed={seed}"))
        if done.code != 0:
            raise RuntimeError(done.text)
    return ground


def compared(ended: Ended, expected: Answers, found: Answers) -> Fault | None:
    """What is wrong with a command that should have ended with these answers."""
    if ended.code != 0:
        return ended.fault() or Fault("lost", f"exit code {ended.code}: {ended.text[-300:]}")
    differing = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
    return ended.fault() or (Fault("lost", f"other answers in {', '.join(differing)[:300]}") if differing else None)


def answers_of(folder: Path, names: Sequence[str] = ()) -> Answers:
    """What each file of a folder says, by its name, but for the time of the day; of these files, or of all."""
    files = [folder / name for name in names] or sorted(_files(folder))
    return {str(file.relative_to(folder)): _said(file, folder) for file in files}


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.is_file() and path.suffix not in LEFT_OUT and not TIMED.fullmatch(path.name) and "events" not in inside:
            yield path


def _said(file: Path, folder: Path) -> Said:
    content, decimals = file.read_bytes() if file.is_file() else b"(not there)", list[float]()
    if file.suffix in (".json", ".jsonl"):
        with suppress(ValueError, RecursionError):  # of a file that was made to be no JSON
            content = json.dumps([timeless(json.loads(line)) for line in _documents(content)]).encode()
    if file.suffix in (".csv", ".json", ".jsonl"):
        decimals = [float(each) for each in DECIMAL.findall(content)]
        content = DECIMAL.sub(b"#", content)
    return Said(hashlib.sha256(content.replace(str(folder).encode(), b"")).hexdigest(), tuple(decimals))


def _documents(content: bytes) -> list[bytes]:
    return content.splitlines() if content.count(b"\n") > 1 and content.startswith(b'{"') else [content]


def timeless(values: object) -> object:
    """The values of JSON without those that no two calls share."""
    if isinstance(values, dict):
        return {key: timeless(value) for key, value in values.items() if not OF_NOW.search(key)}
    return [timeless(value) for value in values] if isinstance(values, list) else values
