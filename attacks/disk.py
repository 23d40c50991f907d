"""Disks that are full, folders that may not be written, two at once: one line, nothing half written or lost."""

import shutil
from pathlib import Path
from random import Random

from attacks.ground import Answers, Ground, answers_of, compared, prepare, train
from attacks.watch import Fault, Row, Running, lungsound

NUM_FULL = 60
BUSY = "another training is at work"


def commands(ground: Ground, place: Path) -> dict[str, list[object]]:
    """Commands that write into a folder, by name."""
    return {
        "train": train(ground.corpus, place / "out"),
        "predict": ["predict", ground.sounds, "--model", ground.run, "--out", place / "out", "--format", "jsonl"],
        "embed": ["embed", ground.sounds, "--model", ground.run, "--out", place / "out" / "features.npz"],
        "rescore": ["rescore", ground.run, "--out", place / "out"],
        "convert": ["data", "convert", ground.corpus, "--out", place / "out", "--to", "table", "--lossy"],
        "synthesize": ["data", "synthesize", place / "out", "--patients", 4],
    }


def attack(folder: Path, *, seed: int, share: float) -> list[Row]:
    """Full disks, forbidden folders, two at once."""
    ground, expected, place = prepare(folder), {}, folder / "place"
    for name, words in commands(ground, place).items():
        ended = Running(lungsound(*words), cache=place / "cache").end()
        if ended.code != 0:
            raise RuntimeError(f"{name}: {ended.text}")
        expected[name] = answers_of(place / "out")
        shutil.rmtree(place)
    return [
        _full(ground, place, expected, seed=seed, num_tries=max(1, round(share * NUM_FULL))),
        _forbidden(ground, place),
        _two_at_once(ground, place, expected),
    ]


def _full(ground: Ground, place: Path, expected: dict[str, Answers], *, seed: int, num_tries: int) -> Row:
    """No file may grow past a size of chance, as on a disk that is full; then there is room."""
    row, rng = Row("disk", "full"), Random(f"{seed} full")
    for number in range(num_tries):
        name, words = list(commands(ground, place).items())[number % len(expected)]
        most = int(10 ** rng.uniform(2, 6))
        full = Running(lungsound(*words), cache=place / "cache", max_file_bytes=most).end()
        fault = full.fault()
        if fault is None and full.code not in (0, 2):
            fault = Fault("lost", f"exit code {full.code}: {full.text[-300:]}")
        if fault is None and full.code == 0 and answers_of(place / "out") != expected[name]:
            fault = Fault("silent", "exit code 0, and other files")
        if left := list(place.rglob("*.partial")):
            fault = fault or Fault("lost", f"{left[0].name} is left")
        if name in ("synthesize", "convert") and full.code == 0:  # these refuse a folder that holds something
            shutil.rmtree(place / "out", ignore_errors=True)
        is_begun = name == "train" and (place / "out" / "config.json").is_file()
        again = Running(lungsound(*words, *(["--resume"] if is_begun else [])), cache=place / "cache").end()
        row.add(fault or compared(again, expected[name], answers_of(place / "out")), where=f"{name}, {most} bytes")
        shutil.rmtree(place)
    print(f"disk: full: {row.num_tries} tries", flush=True)
    return row


def _forbidden(ground: Ground, place: Path) -> Row:
    """A folder for the files that may be read and not written."""
    row = Row("disk", "read-only folder")
    for name, words in commands(ground, place).items():
        (place / "out").mkdir(parents=True)
        (place / "cache").mkdir()
        for folder in (place / "out", place):
            folder.chmod(0o555)
        ended = Running(lungsound(*words), cache=place / "cache", is_without_privilege=True).end()
        fault = ended.fault()
        if fault is None and ended.code != 2:
            fault = Fault("silent", f"exit code {ended.code}: {ended.text[-300:]}")
        if fault is None and str(place / "out") not in ended.text:
            fault = Fault("silent", f"refused without the folder's name: {ended.text[-300:]}")
        row.add(fault, where=name)
        for folder in (place, place / "out"):
            folder.chmod(0o755)
        shutil.rmtree(place)
    print(f"disk: read-only folder: {row.num_tries} tries", flush=True)
    return row


def _two_at_once(ground: Ground, place: Path, expected: dict[str, Answers]) -> Row:
    """Two calls with the same folder: both succeed with the answers of one, or one does and the other is refused."""
    row = Row("disk", "two at once")
    for name, words in commands(ground, place).items():
        both = [Running(lungsound(*words), cache=place / "cache") for _ in range(2)]
        ended = [each.end() for each in both]
        codes = sorted(each.code if each.code is not None else -1 for each in ended)
        fault = next((each.fault() for each in ended if each.fault()), None)
        if fault is None and codes not in ([0, 0], [0, 2]):
            fault = Fault("lost", f"exit codes {codes}: {ended[0].text[-200:]} {ended[1].text[-200:]}")
        first = next((each for each in ended if each.code == 0), ended[0])
        row.add(fault or compared(first, expected[name], answers_of(place / "out")), where=name)
        shutil.rmtree(place)
    print(f"disk: two at once: {row.num_tries} tries", flush=True)
    return row
