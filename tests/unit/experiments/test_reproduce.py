"""A table is trained row by row and seed by seed, skips what is done, survives a row that fails, says what it is."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from rich.console import Console
from sklearn.metrics import confusion_matrix
from typer.testing import CliRunner

from lungsound.cli.main import app
from lungsound.config import RunConfig
from lungsound.data.synthetic import synthesize
from lungsound.errors import CorpusError, RunBusyError, SettingsError
from lungsound.experiments.reproduce import BUSY_S, plan_runs, reproduce
from lungsound.experiments.results import RunResult, write_results
from lungsound.experiments.table import PaperNumbers, Row, Table, load_table
from lungsound.training.run import RunFolder
from lungsound.training.trainer import RunInterrupted
from tests.unit.experiments.small import counted, write_sprsound_tree

SMALL = (
    "model.size=micro",
    "model.stride=16",
    "audio.duration_s=1",
    "audio.num_mels=32",
    "train.batch_size=16",
)
RANDOM = "model.pretrained=none"
PLAIN = Row(
    name="plain", recipe="ce", set=(RANDOM,), paper=PaperNumbers(score=59.55, score_sd=0.88, two_class_score=68.7)
)
MIXED = Row(name="mixed", recipe="patchmix_ce", set=(RANDOM,))


LOST = Row(name="lost", recipe="ce", set=("model.pretrained=no-such-weights",))
BOTH = Table(title="T", rows=(LOST, PLAIN))
QUIET = Console(quiet=True)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGSOUND_CACHE", str(tmp_path_factory.getbasetemp() / "tables-cache"))
        yield


def run(table: Table, data: Path, out: Path, *, num_seeds: int = 2) -> tuple[list[str], str]:
    """The failures, and what was printed."""
    console = Console(record=True, width=200, quiet=False, force_terminal=False)
    failures = reproduce(
        "t", table, data=[data], out=out, num_seeds=num_seeds, settings=("train.epochs=1", *SMALL), console=console
    )
    return failures, console.export_text()


def by_hand(folder: Path) -> tuple[float, float, float]:
    """Specificity, sensitivity and two-class sensitivity of a predictions file, counted by scikit-learn."""
    lines = [line.split(",") for line in (folder / "predictions.csv").read_text().splitlines()]
    label, answer = lines[0].index("label"), lines[0].index("answer")
    names = ["normal", "crackle", "wheeze", "both"]
    counts = confusion_matrix([x[label] for x in lines[1:]], [x[answer] for x in lines[1:]], labels=names)
    abnormal = counts[1:].sum()
    right = sum(counts[k, k] for k in (1, 2, 3))
    return counts[0, 0] / counts[0].sum(), right / abnormal, (abnormal - counts[1:, 0].sum()) / abnormal


@pytest.mark.slow
def test_a_table_gives_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    synthesize(tmp_path / "corpus", num_patients=14, seed=0)  # of fewer the test set has too few for an interval
    failures, printed = run(Table(title="Two rows", rows=(PLAIN, MIXED)), tmp_path / "corpus", tmp_path)
    assert failures == []
    runs = [tmp_path / "runs" / PLAIN.folder / f"seed{seed}" for seed in (0, 1)]
    hands = [by_hand(folder) for folder in runs]
    scores = [50 * (sp + se) for sp, se, _ in hands]
    folded = [50 * (sp + se2) for sp, _, se2 in hands]
    page = (tmp_path / "t.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| plain")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "59.55 \N{PLUS-MINUS SIGN} 0.88; as 2 classes 68.70"
    assert cells[2].startswith(f"{statistics.fmean(scores):.2f} \N{PLUS-MINUS SIGN} {statistics.stdev(scores):.2f} (")
    low, high = map(float, cells[3].split(" to "))
    assert low <= statistics.fmean(scores) <= high
    assert cells[4] == f"{statistics.fmean(folded):.2f} \N{PLUS-MINUS SIGN} {statistics.stdev(folded):.2f}"
    assert cells[5:] == ["2", "1 of 1, last", "random"]
    assert "| mixed |  |" in page
    assert page.startswith(
        "# Two rows. NOT COMPARABLE with the paper's scores: the corpus is synthetic, 1 epoch, model.size"
    )
    assert (tmp_path / "t-test.png").read_bytes().startswith(b"\x89PNG")
    assert "NOT COMPARABLE" in printed
    plain = json.loads((tmp_path / "t.json").read_text())
    assert [len(row["runs"]) for row in plain["rows"]] == [2, 2]
    assert plain["rows"][0]["runs"][1]["parts"]["test"]["score"] == pytest.approx(scores[1] / 100)
    summary = plain["rows"][0]["parts"]["test"]
    assert summary["mean_score"] == pytest.approx(statistics.fmean(scores) / 100)
    assert summary["sd_over_seeds"] == pytest.approx(statistics.stdev(scores) / 100)
    assert (100 * summary["low"], 100 * summary["high"]) == pytest.approx((low, high), abs=0.05)
    assert summary["num_seeds"] == 2


@pytest.fixture(scope="module")
def first_call(synthetic_corpus_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], str]:
    """The folder of a table of which one row fails and one is trained, the failures, and what was printed."""
    out = tmp_path_factory.mktemp("first")
    return out, *run(BOTH, synthetic_corpus_dir, out, num_seeds=1)


def test_a_row_that_fails_is_named_and_the_others_go_on(first_call: tuple[Path, list[str], str]) -> None:
    out, failures, printed = first_call
    assert len(failures) == 1
    assert failures[0].startswith("lost, seed 0: weights 'no-such-weights': no such file")
    page = (out / "t.md").read_text()
    assert "| lost |  | not run |" in page
    assert "| 1 | 1 of 1, last | random |" in page
    assert "no-such-weights" in printed


def test_what_is_done_is_not_trained_again(first_call: tuple[Path, list[str], str], synthetic_corpus_dir: Path) -> None:
    out, _, _ = first_call
    model = out / "runs" / PLAIN.folder / "seed0" / "model.safetensors"
    before = model.stat().st_mtime_ns
    failures, printed = run(Table(title="T", rows=(PLAIN,)), synthetic_corpus_dir, out, num_seeds=1)
    assert failures == []
    assert model.stat().st_mtime_ns == before
    assert printed.count("done already") == 1


@pytest.mark.slow
def test_runs_with_other_settings_are_not_taken_for_done(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    table = Table(title="T", rows=(PLAIN,))
    run(table, synthetic_corpus_dir, tmp_path, num_seeds=1)
    console = Console(quiet=True)
    failures = reproduce(
        "t",
        table,
        data=[synthetic_corpus_dir],
        out=tmp_path,
        num_seeds=1,
        settings=("train.epochs=2", *SMALL),
        console=console,
    )
    assert len(failures) == 1
    assert "started with other settings: train.epochs was 1, now 2" in failures[0]


@pytest.mark.slow
def test_a_row_goes_on_from_the_model_of_another(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    after = Row(name="after", recipe="ce", set=("train.learning_rate=1e-30",), after=PLAIN.folder)
    failures, _ = run(Table(title="T", rows=(PLAIN, after)), synthetic_corpus_dir, tmp_path, num_seeds=1)
    assert failures == []
    first, second = (tmp_path / "runs" / row.folder / "seed0" / "predictions.csv" for row in (PLAIN, after))
    assert first.read_text() == second.read_text()


@pytest.mark.slow
def test_an_interrupted_table_goes_on(
    synthetic_corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> Path:
        raise RunInterrupted("stopped in epoch 1")

    table = Table(title="T", rows=(PLAIN,))
    with monkeypatch.context() as patch:
        patch.setattr("lungsound.experiments.reproduce.train", stop)
        with pytest.raises(RunInterrupted, match="the same command goes on"):
            run(table, synthetic_corpus_dir, tmp_path, num_seeds=1)
    assert run(table, synthetic_corpus_dir, tmp_path, num_seeds=1)[0] == []


def test_a_mistake_of_our_own_is_not_taken_for_the_users(
    synthetic_corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise ZeroDivisionError

    monkeypatch.setattr("lungsound.experiments.reproduce.train", fail)
    with pytest.raises(ZeroDivisionError):
        run(Table(title="T", rows=(PLAIN,)), synthetic_corpus_dir, tmp_path, num_seeds=1)


def test_a_failure_of_several_runs_is_one_line(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    failures, printed = run(Table(title="T", rows=(LOST,)), synthetic_corpus_dir, tmp_path)
    (failure,) = failures
    assert failure.startswith("lost, seed 0, lost, seed 1: weights 'no-such-weights'")
    assert "table:" not in printed
    assert not list(tmp_path.glob("t*"))


@pytest.mark.slow
def test_a_finished_run_whose_files_were_lost_is_a_failure(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    table = Table(title="T", rows=(PLAIN, MIXED))
    run(table, synthetic_corpus_dir, tmp_path, num_seeds=1)
    (tmp_path / "runs" / PLAIN.folder / "seed0" / "predictions.csv").unlink()
    failures, _ = run(table, synthetic_corpus_dir, tmp_path, num_seeds=1)
    assert len(failures) == 1
    assert "predictions.csv: cannot be read" in failures[0]
    assert "| plain | 59.55 \N{PLUS-MINUS SIGN} 0.88; as 2 classes 68.70 | not run" in (tmp_path / "t.md").read_text()


@pytest.mark.slow
def test_a_finished_run_on_other_recordings_is_not_taken_for_done(tmp_path: Path) -> None:
    corpus, table = tmp_path / "corpus", Table(title="T", rows=(PLAIN,))
    synthesize(corpus, num_patients=8, seed=0)
    run(table, corpus, tmp_path / "out", num_seeds=1)
    annotation = next(path for path in sorted(corpus.glob("*_*_*_*.txt")))
    first, *others = annotation.read_text().splitlines()
    span, crackles, _ = first.rsplit("\t", 2)
    annotation.write_text("\n".join([f"{span}\t{1 - int(crackles)}\t1", *others]) + "\n")
    failures, _ = run(table, corpus, tmp_path / "out", num_seeds=1)
    assert len(failures) == 1
    assert "is not what" in failures[0]


@pytest.mark.slow
def test_a_row_does_not_go_on_from_a_run_that_is_not_finished(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    after = Row(name="after", recipe="ce", after=PLAIN.folder)
    run(Table(title="T", rows=(PLAIN,)), synthetic_corpus_dir, tmp_path, num_seeds=1)
    (tmp_path / "runs" / PLAIN.folder / "seed0" / "report.json").unlink()
    failures, _ = run(Table(title="T", rows=(after,)), synthetic_corpus_dir, tmp_path, num_seeds=1)
    assert failures == [f"after, seed 0: goes on from {PLAIN.folder}, seed 0, which is not finished"]


def test_a_run_in_the_hands_of_another_call_is_passed_over(
    synthetic_corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for once more at the end, and is no failure if it is still in other hands then."""
    trained: list[str] = []

    def note(config: RunConfig, folder: Path, **_: object) -> None:
        with RunFolder(folder).lock():
            trained.append(f"{folder.parent.name} {config.train.seed}")
            held.release()  # the other call gives the first run up meanwhile

    plain = tmp_path / "runs" / PLAIN.folder / "seed0"
    plain.mkdir(parents=True)
    held = FileLock(plain / ".lock")
    monkeypatch.setattr("lungsound.experiments.reproduce.train", note)
    monkeypatch.setattr("lungsound.experiments.reproduce.read_result", lambda _: None)
    monkeypatch.setattr("lungsound.experiments.reproduce.write_results", lambda *_, **__: None)
    table = Table(title="T", rows=(PLAIN, MIXED))
    held.acquire()
    failures, printed = run(table, synthetic_corpus_dir, tmp_path, num_seeds=1)
    assert failures == []
    assert trained == [f"{MIXED.folder} 0", f"{PLAIN.folder} 0"]
    assert printed.index("[1 of 2] plain, seed 0") < printed.index("another process trains it")
    assert "[once more] plain, seed 0" in printed
    only, _ = run(Table(title="T", rows=()), synthetic_corpus_dir, tmp_path, num_seeds=1)
    assert only == []
    with FileLock(plain / ".lock"):
        failures, printed = run(Table(title="T", rows=(PLAIN,)), synthetic_corpus_dir, tmp_path, num_seeds=1)
    assert failures == []
    assert printed.count("another process trains it") == 2


class LastFirst:
    """A cluster in which the task that was given last is done first; `loses` names one whose worker is lost."""

    class exceptions:
        class RayError(Exception): ...

        class RayTaskError(RayError):
            cause = ZeroDivisionError()

    def __init__(self, num_gpus: int = 0, **outcomes: object) -> None:
        """`outcomes` of a row's seed 0, in turn: what a task gives or raises; True after these."""
        self.num_gpus, self.events = num_gpus, list[str]()
        self.outcomes = {f"{row}, seed 0": [*each] for row, each in outcomes.items()}

    def cluster_resources(self) -> dict[str, int]:
        return {"CPU": 9, "GPU": self.num_gpus}

    def remote(self, **resources: int) -> Callable[[object], "LastFirst"]:
        self.resources = resources
        return lambda _: self

    def options(self, *, name: str) -> SimpleNamespace:
        def remote(*_: object) -> str:
            self.events.append(f"+ {name}")
            return name

        return SimpleNamespace(remote=remote)

    def wait(self, tasks: list[str], *, num_returns: int) -> tuple[list[str], list[str]]:
        assert num_returns == 1
        return tasks[-1:], tasks[:-1]

    def get(self, task: str) -> object:
        self.events.append(f"- {task}")
        outcome = (self.outcomes.get(task) or [True]).pop(0)
        if isinstance(outcome, self.exceptions.RayError | KeyboardInterrupt):
            raise outcome
        return outcome


@pytest.fixture
def on_cluster(
    synthetic_corpus_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[LastFirst, Table, int], list[str]]:
    def call(ray: LastFirst, table: Table, num_workers: int) -> list[str]:
        monkeypatch.setattr("lungsound.experiments.reproduce.joined_cluster", lambda *_, **__: nullcontext(ray))
        monkeypatch.setattr("lungsound.experiments.reproduce.read_result", lambda _: None)
        monkeypatch.setattr("lungsound.experiments.reproduce.write_results", lambda *_, **__: None)
        return reproduce(
            "t",
            table,
            data=[synthetic_corpus_dir],
            out=tmp_path,
            num_seeds=2,
            settings=SMALL,
            on="ray",
            num_workers=num_workers,
            console=QUIET,
        )

    return call


AFTER = Row(name="after", recipe="ce", after=PLAIN.folder)


def test_a_cluster_has_as_many_runs_at_a_time_as_workers_and_none_before_its_first(
    on_cluster: Callable[[LastFirst, Table, int], list[str]],
) -> None:
    ray = LastFirst()
    assert on_cluster(ray, Table(title="T", rows=(PLAIN, AFTER, MIXED)), 2) == []
    assert ray.resources == {"num_cpus": 1, "num_gpus": 0, "max_retries": 10}
    started = [event[2:] for event in ray.events if event.startswith("+")]
    assert len(started) == len(set(started)) == 6
    assert ray.events[:4] == ["+ plain, seed 0", "+ mixed, seed 0", "- mixed, seed 0", "+ plain, seed 1"]
    for seed in (0, 1):
        assert ray.events.index(f"- plain, seed {seed}") < ray.events.index(f"+ after, seed {seed}")
    num_running = np.cumsum([1 if event.startswith("+") else -1 for event in ray.events])
    assert num_running.max() == 2
    for num_gpus, share in ((4, 1), (2, 1), (1, 0.5)):
        on_cluster(ray := LastFirst(num_gpus=num_gpus), Table(title="T", rows=(PLAIN,)), 2)
        assert ray.resources["num_gpus"] == share


def test_a_worker_that_is_lost_for_good_costs_its_run_alone(
    on_cluster: Callable[[LastFirst, Table, int], list[str]],
) -> None:
    ray, table = LastFirst(plain=[LastFirst.exceptions.RayError()]), Table(title="T", rows=(PLAIN, MIXED))
    (failure,) = on_cluster(ray, table, 2)
    assert failure.startswith("plain, seed 0: its worker was lost")
    assert len(ray.events) == 8
    with pytest.raises(ZeroDivisionError):
        on_cluster(LastFirst(plain=[LastFirst.exceptions.RayTaskError()]), table, 2)
    with pytest.raises(RunInterrupted, match="the same command goes on"):
        on_cluster(LastFirst(plain=[KeyboardInterrupt()]), table, 2)


def test_a_run_that_is_busy_or_was_asked_to_stop_is_tried_again(
    on_cluster: Callable[[LastFirst, Table, int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another process trains: once, at the end. One whose worker was stopped, and not the command: soon."""
    waited_s: list[float] = []
    monkeypatch.setattr(time, "sleep", waited_s.append)
    table = Table(title="T", rows=(PLAIN, AFTER, MIXED))
    ray = LastFirst(plain=[RunBusyError("busy")], mixed=[RunInterrupted("stopped")])
    assert on_cluster(ray, table, 2) == []
    assert [ray.events.count(f"+ {row}, seed 0") for row in ("plain", "after", "mixed")] == [2, 1, 2]
    assert ray.events[-1] == "- after, seed 0"  # after the second try of the run that it goes on from
    assert waited_s == [BUSY_S]
    ray = LastFirst(plain=[RunBusyError("busy")] * 9)
    assert on_cluster(ray, table, 2) == []
    assert ray.events.count("+ plain, seed 0") == 2


@pytest.mark.slow
def test_the_challenge_of_sprsound_from_two_trainings(tmp_path: Path) -> None:
    corpus = write_sprsound_tree(tmp_path / "corpus")
    rows = tuple(
        Row(name=name, recipe="patchmix_cl", set=(RANDOM, f"data.label_set=sprsound_{name}"), num_seeds=num_seeds)
        for name, num_seeds in (("event7", None), ("record5", 1))
    )
    table = Table(title="SPRSound", rows=rows, kind="challenge", published=load_table("sprsound").published)
    failures, printed = run(table, corpus, tmp_path)
    assert failures == []
    tasks = json.loads((tmp_path / "t.json").read_text())["tasks"]
    assert [(each["task"], each["num_seeds"]) for each in tasks if each["tested_on"] == "inter"] == [
        ("1-1", 2),
        ("1-2", 2),
        ("2-1", 1),
        ("2-2", 1),
    ]
    page = (tmp_path / "t.md").read_text()
    assert "NOT COMPARABLE: inter and intra not as in the challenge" in page
    assert "Shuvo and Hasan 2025" in page
    assert "event7, task 1-1, mean of inter and intra: Score " in printed
    assert (tmp_path / "t.html").is_file()


@pytest.mark.slow
def test_methods_against_each_other_with_their_picture(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    table = Table(
        title="Methods", rows=(PLAIN, MIXED, LOST), kind="methods", comparisons=(("mixed", "plain"), ("lost", "plain"))
    )
    failures, printed = run(table, synthetic_corpus_dir, tmp_path, num_seeds=3)
    assert len(failures) == 1
    page = (tmp_path / "t.md").read_text()
    assert "| mixed | plain | test |" in page
    assert "Not run yet: lost." in page
    assert "A: mixed; B: plain; on test: " in printed
    assert (tmp_path / "t-differences.png").read_bytes().startswith(b"\x89PNG")
    (pair,) = json.loads((tmp_path / "t.json").read_text())["comparisons"]
    assert (pair["A"], pair["B"], pair["parts"][0]["is_paired_by_seed"]) == ("mixed", "plain", True)


def test_folders_that_are_none_are_refused_before_any_run(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    table, file = Table(title="T", rows=(PLAIN,)), tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError, match="file cannot be made a folder"):
        run(table, synthetic_corpus_dir, file)
    with pytest.raises(CorpusError, match="no folder"):
        run(table, tmp_path / "missing", tmp_path)


def test_a_corpus_may_be_a_table(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text("path,label\na.wav,normal\n")
    failures, _ = run(Table(title="t", rows=(PLAIN,)), table, tmp_path / "out", num_seeds=1)
    assert len(failures) == 1
    assert "patient" in failures[0]  # read as a table: it lacks a column


def test_the_title_says_what_is_not_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole ICBHI, all epochs, five seeds of every row that ran: comparable; else not, for each reason."""
    monkeypatch.setattr("lungsound.experiments.results.draw_results", lambda path, **_: path.touch())
    table = Table(title="T", rows=(PLAIN, MIXED))

    def title(
        *, changes: tuple[str, ...] = (), seeds: tuple[int, int] = (5, 5), corpus: str = "icbhi", n: int = 920
    ) -> str:
        answers = counted({"a/b": np.array([[[6, 4, 0], [6, 4, 0], [0, 0, 0]]])})
        results = {
            row.folder: [RunResult(seed, answers, corpus, n, 50, "last", 50, "random") for seed in range(num)]
            for row, num in zip(table.rows, seeds, strict=True)
            if num
        }
        write_results(tmp_path / "t", table, results, changes=changes, console=Console(quiet=True))
        return (tmp_path / "t.md").read_text().splitlines()[0]

    assert title() == "# T (ICBHI, 920 recordings)"
    assert title(seeds=(5, 0)) == "# T (ICBHI, 920 recordings)"
    no = "# T. NOT COMPARABLE with the paper's scores: "
    assert title(seeds=(5, 3)) == no + "3 of 5 seeds"
    assert title(n=919) == no + "919 of 920 recordings of ICBHI"
    assert title(corpus="sprsound") == no + "the corpus is sprsound"
    assert title(changes=("train.epochs=1", "model.size=tiny")) == no + "1 epoch, model.size=tiny"
    assert (tmp_path / "t-a_b.png").is_file()
    plain = json.loads((tmp_path / "t.json").read_text(), parse_constant=pytest.fail)
    expected = {"score": 0.5, "specificity": 0.6, "sensitivity": 0.4, "two_class": 0.5}
    assert plain["rows"][0]["runs"][0]["parts"]["a/b"] == expected
    assert plain["rows"][0]["parts"]["a/b"]["low"] is None  # one patient


def test_nothing_is_cut_off_on_a_narrow_terminal(tmp_path: Path) -> None:
    table = Table(title="T", rows=(PLAIN.model_copy(update={"name": "Patch-Mix, mixed-label cross-entropy"}),))
    answers = counted({"test": np.array([[[6, 4], [6, 4]]])})
    weights = "run of lungsound, sha256 41eb7b5539748b16"
    result = RunResult(0, answers, "icbhi", 920, 50, "best_on_test", 50, weights)
    console = Console(record=True, width=80, quiet=False, force_terminal=False)
    write_results(tmp_path / "t", table, {PLAIN.folder: [result]}, changes=(), console=console)
    printed = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed
    table_lines = [line for line in printed.splitlines() if "|" not in line]
    letters = "".join(line[-14:].replace(" ", "") for line in table_lines)
    assert "41eb7b5539748b16" in letters


@pytest.mark.slow
def test_the_command_names_what_it_was_asked_for(synthetic_corpus_dir: Path, tmp_path: Path) -> None:
    """Rows with all settings in the dry run; the table as published beside the other, not over it."""
    cli = CliRunner()
    listed = cli.invoke(app, ["reproduce", "mixing", "--dry-run", "--epochs", "1", "--set", "model.size=micro"])
    assert listed.exit_code == 0
    alone = "--data DIR --out runs/tables/runs/patchmix_cl/seed0  # paper: 62.37"
    assert f"lungsound train patchmix_cl --set train.epochs=1 --set model.size=micro {alone}" in listed.output
    wrong = cli.invoke(app, ["reproduce", "mixing", "--dry-run", "--set", "model.sise=micro"])
    assert isinstance(wrong.exception, SettingsError)
    arguments = ["reproduce", "mixing", "--data", str(synthetic_corpus_dir), "--out", str(tmp_path), "--seeds", "1"]
    arguments += ["--epochs", "1", *(part for setting in (*SMALL, RANDOM) for part in ("--set", setting))]
    for more in ([], ["--as-published"]):
        assert cli.invoke(app, [*arguments, *more]).exit_code == 0
    plain, published = (tmp_path / f"{name}.md" for name in ("mixing", "mixing-as-published"))
    assert "on test (optimistic)" not in plain.read_text()
    assert published.read_text().startswith(
        "# What is mixed: single patches, or whole time columns; all as published. NOT"
    )


def test_a_row_may_have_fewer_seeds(tmp_path: Path) -> None:
    rows = (PLAIN, MIXED.model_copy(update={"num_seeds": 2}))
    for num_seeds, planned in ((1, 2), (3, 5)):
        table = Table(title="T", rows=rows)
        assert len(plan_runs(table, data=[tmp_path], out=tmp_path, num_seeds=num_seeds, settings=())) == planned


def test_the_plan_trains_the_first_seed_of_all_rows_first(tmp_path: Path) -> None:
    planned = plan_runs(
        Table(title="T", rows=(PLAIN, MIXED)),
        data=[tmp_path],
        out=tmp_path,
        num_seeds=2,
        settings=["train.epochs=3", "train.batch_size=5"],
    )
    assert [(run.row.name, run.seed) for run in planned] == [("plain", 0), ("mixed", 0), ("plain", 1), ("mixed", 1)]
    assert {(run.config.train.epochs, run.config.train.batch_size) for run in planned} == {(3, 5)}
    assert [run.config.train.seed for run in planned] == [0, 0, 1, 1]
