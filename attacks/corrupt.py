"""Files of a run and what is kept, corrupted: refused by name, or made anew, or the same answer; never another one."""

import pickle
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from rich.console import Console

from attacks.ground import Answers, Ground, answers_of, prepare, train
from attacks.watch import Fault, Row, attempts
from lungsound.data.file_facts import file_facts
from lungsound.data.reader import read_corpus
from lungsound.data.store import open_filter_banks
from lungsound.errors import DataError, LungsoundError
from lungsound.evaluation.runs import UNKNOWN, check_made_together, epoch_of_file, read_runs
from lungsound.files import cache_root
from lungsound.inference.bulk import STORE
from lungsound.inference.engines import make, read_parity
from lungsound.inference.graph import exported
from lungsound.inference.graph_files import probes
from lungsound.training.checkpoint import read_checkpoint
from lungsound.training.model_file import load_model
from lungsound.training.run import RunFolder

NUM_WAYS, OF_ANOTHER = 20, 13


def corrupt(path: Path, way: int, rng: Random, other: Path) -> None:
    """Corrupt a file in one of `NUM_WAYS` ways; `other` is another run's file of its kind."""
    content = path.read_bytes()
    flipped = bytearray(content)
    places = {4: range(min(64, len(content))), 6: range(len(content) - 1, len(content))}.get(way, range(len(content)))
    for _ in range({4: 1, 5: 1, 6: 1, 7: 64}.get(way, 0)):
        flipped[rng.choice(places)] ^= 1 << rng.randrange(8)
    made = {
        0: content[: len(content) // 2],
        1: content[:-1],
        2: content[:10],
        3: b"",
        **dict.fromkeys((4, 5, 6, 7), bytes(flipped)),
        8: b"{}",
        9: b"[]",
        10: b"NaN",
        11: b"[" * 100_000,
        12: content.decode("latin-1").encode("utf-16"),
        OF_ANOTHER: other.read_bytes() if other.is_file() else content[::-1],
        14: bytes(len(content)),
        15: content + content,
        16: rng.randbytes(len(content)),
    }
    path.unlink()
    if way in made:
        path.write_bytes(made[way])
    elif way == 17:
        path.mkdir()
    else:
        path.symlink_to({18: path.with_name("nothing"), 19: path}[way])


def loaders(ground: Ground) -> dict[str, tuple[Path, Callable[[], object]]]:
    """What reads each file: its path, and a call whose answer can be compared."""
    run, corpus = RunFolder(ground.run), read_corpus(ground.corpus)

    def model() -> object:
        trained = load_model(run.model)
        run.check_model()
        weights = {name: value.tobytes() for name, value in trained.weights.items()}
        return weights, trained.mean, trained.std, trained.sha256, trained.calibration, trained.evidence

    def store() -> object:
        values = open_filter_banks(corpus, load_model(run.model).front_end, console=Console(quiet=True))
        return [values[np.array([row])].tobytes() for row in range(len(values))], values.num_samples.tobytes()

    def graph() -> object:
        trained = load_model(run.model)
        probabilities, _ = make("onnx", trained).predict(probes(trained))
        return probabilities.round(3).tobytes()

    def columns() -> object:
        run.check_model()
        return [(each.keys, each.probabilities.tobytes(), each.labels.tobytes()) for each in run.columns().values()]

    def facts_of_files() -> object:
        return [file_facts().audio_info(each.path) for each in corpus.recordings]

    def tested() -> object:
        runs = read_runs(ground.run)
        return [(each.keys, each.probabilities.tobytes(), each.labels.tobytes()) for each in runs.runs], runs.choices

    def chosen() -> object:
        check_made_together(run.predictions)
        if (epoch := epoch_of_file(run.predictions)) == UNKNOWN:
            raise DataError("report.json does not say how the epoch was chosen")
        return epoch

    own = {
        "config.json": run.config,
        "run.json": run.facts,
        "report.json": chosen,
        "model.safetensors": model,
        "checkpoint.safetensors": lambda: (
            run.progress(),
            {k: v.numpy().tobytes() for k, v in read_checkpoint(run.checkpoint)[0].items()},
        ),
        "predictions.csv": tested,
        "epochs/last.csv": columns,
        "engines.json": lambda: read_parity(ground.run, load_model(run.model)),
        "model.onnx": graph,
        "model.json": graph,
    }
    known = {name: (ground.run / name, read) for name, read in own.items()}
    trained = load_model(run.model)
    rows = next((cache_root() / "filter-banks").iterdir())
    known |= {f"store: {name}": (rows / name, store) for name in ("values", "facts")}
    known |= {
        f"engine: {path.name}": (path, graph)
        for path in sorted(exported(trained).parent.iterdir())
        if path.is_file() and path.name != "lock"  # which holds nothing
    }
    return known | {"facts of sounds": (next((cache_root() / "files").iterdir()), facts_of_files)}


def attack_loaders(ground: Ground, folder: Path, *, seed: int, share: float) -> list[Row]:
    """Each file in each way, through what reads it, in a process of its own; the other run's file has the same name."""
    rows = []
    for name, (path, read) in loaders(ground).items():
        row, expected = Row("corrupt", name), pickle.dumps(read())
        other = (
            ground.other / path.relative_to(ground.run) if path.is_relative_to(ground.run) else ground.other / "none"
        )
        kept = folder / "kept"
        shutil.copy(path, kept)

        for way in range(0, NUM_WAYS, max(1, round(1 / share))):
            rng = Random(f"{seed} {name} {way}")
            ((_, fault),) = attempts(partial(_attempt, path, read, expected, other, rng), [way], limit_s=60)
            row.add(fault, where=f"way {way}")
            restore(path, kept)
        rows.append(row)
        print(f"corrupt: {name}: {row.num_tries} tries", flush=True)
    return rows


def _attempt(path: Path, read: Callable[[], object], expected: bytes, other: Path, rng: Random, way: int) -> None:
    corrupt(path, way, rng, other)
    try:
        answer = pickle.dumps(read())
    except (LungsoundError, OSError) as error:
        if path.name not in str(error) and path.parent.name not in str(error):
            raise Fault("silent", f"refused without its name: {error}") from None
    else:
        if answer != expected:
            raise Fault("silent", "another answer")


def restore(path: Path, kept: Path) -> None:
    """Put the file back in the place of what was made of it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    shutil.copy(kept, path)


def attack_commands(ground: Ground, folder: Path, *, seed: int, share: float) -> Row:
    """Each command once with each file of a run corrupted, in a way of chance."""
    row, rng, place = Row("corrupt", "through each command"), Random(f"{seed} commands"), folder / "commands"
    commands: dict[str, list[object]] = {
        "predict": ["predict", ground.sounds, "--model", place / "run", "--out", place / "out", "--skip-existing"],
        "rescore": ["rescore", place / "run", "--out", place / "scores"],
        "compare": ["compare", place / "run", ground.other],
        "calibrate": ["calibrate", place / "run"],
        "evaluate": ["evaluate", place / "run"],
        "resume": [*train(ground.corpus, place / "run", "train.seed=0"), "--resume"],
        "embed": ["embed", ground.sounds, "--model", place / "run", "--out", place / "features.csv"],
        "explain": ["explain", next(ground.sounds.iterdir()), "--model", place / "run", "--out", place / "explained"],
        "export": ["export", place / "run", "--num-cycles", 10],
    }

    def called(
        words: list[object], harm: Callable[[], Path] | None
    ) -> tuple[int | None, str, Answers, Fault | None, str]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(ground.run, place / "run")
        if words[0] == "predict":
            ground.call(*words)
        name = "" if harm is None else harm().name
        ended = ground.call(*words)
        said = {} if ended.code else {**answers_of(place / "run"), **answers_of(place)}
        return ended.code, ended.text, said, ended.fault(), name

    for command, words in commands.items():
        code, text, expected, _, _ = called(words, None)
        if code != 0:
            raise RuntimeError(f"{command}: {text}")
        files = [path.relative_to(ground.run) for path in sorted(ground.run.rglob("*")) if path.is_file()]
        files = [path for path in files if path.suffix in (".json", ".csv", ".safetensors")]
        answers = [Path("..") / "out" / STORE / "0"] if command == "predict" else []
        for relative in [*files, *answers]:
            way = rng.randrange(NUM_WAYS)
            if rng.random() > share or (way == OF_ANOTHER and relative.name == "model.safetensors"):
                continue  # a whole model is as good as any other one: what it answers names its hash

            def harm(relative: Path = relative, way: int = way) -> Path:
                path = place / "run" / relative
                if relative.name == "0":  # the first of the kept answers
                    path = min(path.parent.resolve().iterdir())
                corrupt(path, way, rng, ground.other / relative)
                return path

            code, text, said, fault, name = called(words, harm)
            if (
                fault is None
                and code == 0
                and (
                    differing := sorted(
                        key
                        for key in expected
                        if said.get(key) != expected[key] and key not in (str(relative), f"run/{relative}")
                    )
                )
            ):
                fault = Fault("silent", f"other answers in {', '.join(differing)[:300]}")
            is_run_named = "is not finished" in text  # where its report cannot be one
            if fault is None and code and not is_run_named and name not in text and str(relative) not in text:
                fault = Fault("silent", f"exit code {code} without the name: {text[-300:]}")
            row.add(fault, where=f"{command} with {relative} in way {way}")
        print(f"corrupt: {command}: {row.num_tries} tries", flush=True)
    return row


def attack(folder: Path, *, seed: int, share: float) -> list[Row]:
    """Through the loaders in every way, and through the commands."""
    ground = prepare(folder)
    if (ended := ground.call("export", ground.run, "--num-cycles", 10)).code != 0:
        raise RuntimeError(ended.text)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        rows = attack_loaders(ground, Path(own), seed=seed, share=share)
        return [*rows, attack_commands(ground, Path(own), seed=seed, share=share)]
