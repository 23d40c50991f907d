"""Processes that are killed at random moments: the same work again ends as one that nobody disturbed."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rich.console import Console

from attacks.ground import Answers, Ground, answers_of, compared, prepare, train
from attacks.service import asked, port_of, started
from attacks.watch import Fault, Row, Running, lungsound
from lungsound.data.reader import read_corpus
from lungsound.data.store import open_filter_banks
from lungsound.training.model_file import load_model

MAX_IN_A_ROW = 4
Work = Callable[[Path], Callable[[], object]]


@dataclass(frozen=True)
class Job:
    """Work in a folder of its own; what it needs there at first; which files say how it ended; number of kills."""

    work: Work
    num_kills: int
    answers: Callable[[Path], Answers]
    lay_out: Callable[[Path], object] = Path.mkdir


def jobs(ground: Ground) -> dict[str, Job]:
    """Each job by its name; each folder holds its own cache."""

    def training(place: Path) -> Callable[[], object]:
        is_begun = (place / "run" / "config.json").is_file()
        return lungsound(*train(ground.corpus, place / "run"), *(["--resume"] if is_begun else []))

    def storing(place: Path) -> Callable[[], object]:
        def store() -> None:
            front_end = load_model(ground.run / "model.safetensors").front_end
            open_filter_banks(read_corpus(ground.corpus), front_end, console=Console(quiet=True))

        del place
        return store

    def predicting(place: Path) -> Callable[[], object]:
        words = (
            "--model",
            ground.run,
            "--out",
            place / "out",
            "--skip-existing",
            "--format",
            "csv",
            "--format",
            "jsonl",
        )
        return lungsound("predict", ground.corpus, *words)

    def exporting(place: Path) -> Callable[[], object]:
        return lungsound("export", place / "run", "--num-cycles", 10)

    def all_of(*names: str) -> Callable[[Path], Answers]:
        return lambda place: {f"{name}/{key}": said for name in names for key, said in answers_of(place / name).items()}

    return {
        "training": Job(training, 30, all_of("run")),
        "store of filter banks": Job(storing, 25, lambda place: answers_of(place / "cache" / "filter-banks")),
        "predict": Job(predicting, 25, all_of("out")),
        "export": Job(
            exporting, 10, all_of("run", "cache/engines"), lambda place: shutil.copytree(ground.run, place / "run")
        ),
    }


def attack(folder: Path, *, seed: int, share: float) -> list[Row]:
    """All jobs, one after the other, and corrections under review."""
    ground = prepare(folder)
    rows = [attack_job(name, job, folder, seed=seed, share=share) for name, job in jobs(ground).items()]
    return [*rows, attack_review(ground, folder, seed=seed, num_kills=max(1, round(25 * share)))]


def attack_job(name: str, job: Job, folder: Path, *, seed: int, share: float) -> Row:
    """Kill a job again and again, let it end now and then, and compare it with the one that nobody disturbed."""
    row, rng, place = Row("kills", name), Random(f"{seed} {name}"), folder / f"{name} undisturbed"
    whole = _laid_out(job, place).end()
    expected = job.answers(place)
    if whole.code != 0 or not expected:
        raise RuntimeError(whole.text)
    while row.num_tries < max(1, round(share * job.num_kills)):
        place, running = folder / f"{name} {row.num_tries}", None
        for _ in range(rng.randrange(1, MAX_IN_A_ROW + 1)):
            running = _laid_out(job, place) if running is None else Running(job.work(place), cache=place / "cache")
            ended = running.end(kill_after_s=rng.uniform(0, whole.seconds))
            if ended.code is not None:
                break
            row.add(None, where="")
        ended = Running(job.work(place), cache=place / "cache").end()
        row.judge(compared(ended, expected, job.answers(place)), where=f"before kill {row.num_tries}")
        shutil.rmtree(place)
    print(f"kills: {name}: {row.num_tries} kills, {whole.seconds:.1f} s undisturbed", flush=True)
    return row


def _laid_out(job: Job, place: Path) -> Running:
    place.mkdir() if job.lay_out is Path.mkdir else job.lay_out(place)
    return Running(job.work(place), cache=place / "cache")


def attack_review(ground: Ground, folder: Path, *, seed: int, num_kills: int) -> Row:
    """Kill the service that keeps corrections: at its next start each that was answered is there, and no other line."""
    row, rng, place = Row("kills", "corrections under review"), Random(f"{seed} review"), folder / "reviewed"
    labels = load_model(ground.run / "model.safetensors").label_set.classes
    shutil.copytree(ground.sounds, place)
    sent, allowed, running = 0, dict[str, list[object]](), started(ground, "review", place)

    def cycles(number: int) -> list[dict[str, object]]:
        return [{"start_s": 0.0, "end_s": 0.5 + number % 1000 / 1000, "label": labels[number % len(labels)]}]

    for kill in range(num_kills + 1):
        port = port_of(running)
        status, content = asked(port, "GET", "/v1/recordings")
        ids = sorted(each["id"] for each in json.loads(content) if each["id"] is not None)
        if status != 200 or len(ids) != len(json.loads(content)):
            row.judge(Fault("lost", f"{status} {content[:300]!r}"), where=f"after kill {kill}")
        for id in ids:
            found = json.loads(asked(port, "GET", f"/v1/recordings/{id}")[1])["corrected"]
            if found not in allowed.setdefault(id, [None]):
                row.judge(Fault("lost", f"{found} instead of {allowed[id]}"), where=f"after kill {kill}")
            allowed[id] = [found]
        if kill == num_kills:
            break
        killer = threading.Timer(rng.uniform(0.05, 1.5), os.killpg, (running.pid, signal.SIGKILL))
        killer.start()
        status = 200
        while status == 200:
            id, sent = ids[sent % len(ids)], sent + 1
            allowed[id].append(cycles(sent))
            body = json.dumps(cycles(sent)).encode()
            status, _ = asked(port, "PUT", f"/v1/recordings/{id}/cycles", body, {"Content-Type": "application/json"})
            if status == 200:
                allowed[id] = [cycles(sent)]
        killer.join()
        ended = running.end()
        row.add(ended.fault() if ended.code == -signal.SIGKILL else Fault("lost", f"{status} while it ran"), where="")
        running = started(ground, "review", place)
    os.kill(running.pid, signal.SIGTERM)
    running.end()
    print(f"kills: {row.what}: {row.num_tries} kills, {sent} corrections", flush=True)
    return row
