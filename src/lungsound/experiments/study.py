"""Results kept small, and the tables that are computed from them again.

A study is a folder with `study.toml` and, for each method, a folder of runs (`<method>/seed0`), or of folds that hold
runs (`<method>/<device>/seed0`). A kept run is a run folder with its predictions for the test and a few facts only.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from markupsafe import Markup
from pydantic import BaseModel, Field

from lungsound.config import Settings
from lungsound.data.splits import CALIBRATION, VALIDATION
from lungsound.errors import DataError
from lungsound.evaluation.compare import compare_methods, compare_runs, remarks, verdict
from lungsound.evaluation.predictions import (
    HELD_OUT_PARTS,
    Predictions,
    joined,
    read_predictions,
    rounded,
    write_predictions,
)
from lungsound.evaluation.runs import MethodRuns
from lungsound.evaluation.scores import SCORES_HEAD
from lungsound.evaluation.selection import COLUMN_HEAD, LAST, NAMES, RULE, column_rows, score_runs, unwatched_columns
from lungsound.experiments.challenge import challenge_page, challenge_tasks
from lungsound.experiments.methods import compared, draw_forest, methods_page, provenance
from lungsound.experiments.table import Comparisons, load_table
from lungsound.files import parse_toml, read_model, read_text, validated, write_json, write_text
from lungsound.page import Cell, bullets, escape, paragraphs, table
from lungsound.training.run import RunFolder

DIGITS = 4
STUDY_FILE, RUN_FILE = "study.toml", "run.json"
STUDY_HOLDS = (
    'title = "T", text = "T", kind = "columns" (or "left_out", of cross; "methods"; "challenge"), and for each method '
    'a table [[methods]] with name = "N" and folder = "METHOD"'
)
KEEP_AGAIN = "write it again with 'lungsound study keep'"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"
POOLED = "all together"


class Method(Settings):
    """One method of a study: its name in print, and its folder."""

    name: str
    folder: str


class Study(Settings):
    """The content of `study.toml`."""

    title: str
    text: str
    kind: Literal["columns", "left_out", "methods", "challenge"]
    """columns: the three ways to choose the epoch; left_out: a fold for each device that was left out; methods: the
    last epochs against each other; challenge: the tasks of SPRSound's."""
    methods: Annotated[tuple[Method, ...], Field(strict=False)]
    comparisons: Comparisons = ()
    """Names of two methods each, A and B."""


class KeptTrainSettings(BaseModel, extra="allow"):
    """The settings by which a kept run is told from others."""

    seed: int
    is_test_watched: bool = True
    selection: str = "last"


class KeptSettings(BaseModel, extra="allow"):
    """Settings of a kept run."""

    train: KeptTrainSettings


class KeptFacts(BaseModel, extra="allow"):
    """The content of a kept run's run.json, as far as tables are computed from it."""

    settings: KeptSettings
    num_cycles: dict[str, int]
    patients: dict[str, list[str]]
    epochs: dict[str, int]


def keep_run(run_dir: Path, target: Path, *, columns: Sequence[str] = tuple(NAMES)) -> list[Path]:
    """Write a run's test predictions, rounded and compressed, and its facts into the folder `target`; the files."""
    run = RunFolder(run_dir)
    predictions, facts, config = run.columns(), run.facts().model_dump(), run.config()
    if LAST not in predictions:
        raise DataError(f"{run_dir} keeps no predictions of its last epoch: train it again with this version")
    written = {name: target / "epochs" / f"{name}.csv.gz" for name in columns if name in predictions}
    for name, path in written.items():
        rows = [row for row, part in enumerate(predictions[name].parts) if part not in HELD_OUT_PARTS]
        write_predictions(path, rounded(predictions[name].of_rows(rows), DIGITS))
    kept = {name: facts[name] for name in ("revision", "processor", "versions", "num_cycles", "left_out_patients")}
    kept["num_patients"] = {part: len(names) for part, names in facts["patients"].items()}
    # By name, since some parts of a test have them too.
    kept["patients"] = {part: facts["patients"][part] for part in ("train", *HELD_OUT_PARTS)}
    kept["corpus"] = {name: facts["corpus"][name] for name in ("name", "num_recordings", "fingerprint")}
    kept["epochs"] = run.progress().best_epochs | {LAST: config.train.epochs}
    kept["command"] = without_folders(facts["command"])
    folders: dict[str, Any] = {"root": True, "corpora": {"__all__": {"root"}}}
    of_paths: dict[str, Any] = {"data": folders, "model": {"pretrained"}, "objective": {"teachers"}}
    kept["settings"] = config.model_dump(mode="json", exclude=of_paths)
    kept["teachers"] = list(facts["teachers"].values())
    write_json(target / RUN_FILE, kept)
    return [*written.values(), target / RUN_FILE]


def without_folders(command: str) -> str:
    """A command with the last name of each absolute path only: the folders of a machine say nothing elsewhere."""
    return re.sub(r"(?<![\w.~])/([^\s'\"=]*/)?", "", command)


def study_markdown(folder: Path, *, images: Path | None = None) -> str:
    """The study as Markdown: every number is computed from the kept predictions; DataError when it is none.

    With `images` the picture of a study of methods is drawn in that folder.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise DataError(f"{folder} holds no study: there is no {path.name}; write one: {STUDY_HOLDS}")
    study = validated(parse_toml(read_text(path, DataError), DataError, path=path), Study, DataError, path=path)
    if study.kind in ("methods", "challenge"):
        page = _own(folder, study, images)
    else:
        page = (_columns if study.kind == "columns" else _left_out)(folder, study.methods)
    return paragraphs(Markup(f"## {escape(study.title)}"), study.text, *page)


def _own(folder: Path, study: Study, images: Path | None) -> list[str]:
    kept = {method.name: _kept_runs(folder / method.folder) for method in study.methods}
    facts = {name: [facts for _, facts in seeds] for name, seeds in kept.items()}
    methods = {
        name: MethodRuns(tuple(run[LAST] for run, _ in seeds), frozenset([LAST]), seeds=_seeds(facts[name]))
        for name, seeds in kept.items()
    }
    if study.kind == "challenge":
        page = challenge_page(methods, challenge_tasks(methods), load_table("sprsound").published, heading="###")
    else:
        comparisons, picture = compared(methods, study.comparisons), f"{folder.name}-differences.png"
        if images is not None and comparisons:
            draw_forest(comparisons, images / picture)
        page = methods_page(methods, comparisons, picture=f"images/{picture}", heading="###")
    return [*page, provenance(facts)]


def _columns(folder: Path, methods: Sequence[Method]) -> list[str]:
    kept = {method.name: _kept_runs(folder / method.folder) for method in methods}
    runs = {name: [predictions for predictions, _ in seeds] for name, seeds in kept.items()}
    facts = {name: [facts for _, facts in seeds] for name, seeds in kept.items()}
    first = next(iter(runs.values()))[0]
    page: list[str] = []
    for part in sorted(set(first[LAST].parts)):
        rows: list[tuple[str, ...]] = []
        for name, of_method in runs.items():
            train, num_cycles = facts[name][0]["settings"]["train"], facts[name][0]["num_cycles"]
            unwatched = unwatched_columns(
                train["selection"], is_test_watched=train["is_test_watched"], has_validation=num_cycles[VALIDATION] > 0
            )
            epochs = [each["epochs"] for each in facts[name]]
            columns = column_rows(of_method, epochs, part=part, unwatched=unwatched)
            rows += [(name if number == 0 else "", *row) for number, row in enumerate(columns)]
        tested = _tested_patients(first[LAST].of_part(part), [each for of in facts.values() for each in of])
        page += [Markup(f"### Tested on {escape(part)}"), tested, table(("method", *COLUMN_HEAD), rows)]

    (one, ours), (other, theirs) = list(runs.items())[:2]
    lines: list[str] = []
    missing: list[str] = []
    once: dict[str, None] = {}
    for column, name in NAMES.items():
        if not all(column in run for run in (*ours, *theirs)):
            missing.append(f"{name}: not compared, since not every run has it")
            continue
        sides = (
            MethodRuns(tuple(run[column] for run in runs), frozenset([column]), seeds=_seeds(facts[method]))
            for method, runs in ((one, ours), (other, theirs))
        )
        for each in compare_methods(*sides, names=(one, other)):
            lines.append(f"{name}, {each.part}: {verdict(each)}")
            once |= dict.fromkeys(remarks(each))
    intro = f"What lungsound compare says (A: {one}, B: {other}):"
    return [*page, RULE, intro, bullets([*lines, *missing, *once])]


def _seeds(facts: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(each["settings"]["train"]["seed"] for each in facts)


def _tested_patients(predictions: Predictions, facts: Sequence[Mapping[str, Any]]) -> str:
    """The number of cycles and patients, and of those who train, validate or are new, for each seed."""
    tested = set(predictions.patients)
    seeds: dict[str, dict[str, None]] = {}
    for each in facts:
        met = {part: len(tested & set(each["patients"].get(part, ()))) for part in ("train", *HELD_OUT_PARTS)}
        what = {"train": "train", VALIDATION: "validate", CALIBRATION: "calibrate"}
        known = [f"{met[part]} {verb}" for part, verb in what.items() if met[part] or part != CALIBRATION]
        numbers = f"{', '.join(known)}, {len(tested) - sum(met.values())} are new"
        seeds.setdefault(numbers, {})[f"seed {each['settings']['train']['seed']}"] = None
    shared = "; ".join(f"{numbers} ({', '.join(names)})" for numbers, names in seeds.items())
    return f"{len(predictions.keys):,} cycles of {len(tested)} patients, of whom {shared}."


def _left_out(folder: Path, methods: Sequence[Method]) -> list[str]:
    page: list[str] = []
    pooled_runs = []
    for method in methods:
        folds = sorted(path for path in (folder / method.folder).iterdir() if path.is_dir())
        kept = {fold.name: _kept_runs(fold) for fold in folds}
        runs = {name: [predictions[LAST] for predictions, _ in seeds] for name, seeds in kept.items()}
        pooled_runs.append(pooled(runs))
        facts = {name: [facts for _, facts in seeds] for name, seeds in kept.items()}
        page += [Markup(f"### {escape(method.name)}"), left_out_table(runs, facts)]
    if len(methods) > 1:
        pair = methods[0].name, methods[1].name
        compared = compare_runs(*pooled_runs[:2], names=pair)
        intro = f"What lungsound compare says of all cycles together (A: {pair[0]}, B: {pair[1]}):"
        page += [intro, bullets([line for each in compared for line in (verdict(each), *remarks(each))])]
    return page


def left_out_table(
    runs: Mapping[str, Sequence[Predictions]], facts: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Markup:
    """A row for each thing that was left out, from its runs and their facts by seed, and one of all cycles together.

    In the last row each cycle is predicted by a model that did not train on what the cycle was recorded with.
    """
    rows: list[tuple[Cell, ...]] = []
    for name, of_fold in {**runs, **({POOLED: pooled(runs)} if len(runs) > 1 else {})}.items():
        trained: list[Cell] = ["", ""]  # of the row of all
        if name in facts:
            counts = ([each["num_cycles"]["train"], len(each["patients"]["train"])] for each in facts[name])
            # One number when all seeds have the same, else the least and the most.
            trained = [n[0] if len(set(n)) == 1 else f"{min(n)} to {max(n)}" for n in zip(*counts, strict=True)]
        *values, auc = score_runs(of_fold).in_percent()
        # Probabilities of models that trained on other cycles are not on one scale: no area of all together.
        values.append(auc if name in runs else "")
        rows.append((name, len(of_fold[0].keys), len(set(of_fold[0].patients)), *trained, *values))
    numbers = ("cycles", "patients", "cycles that train", "patients who train")
    return table(("left out and tested on", *numbers, *SCORES_HEAD), rows)


def pooled(runs: Mapping[str, Sequence[Predictions]]) -> list[Predictions]:
    """For each seed that every fold has, the predictions of all folds together."""
    return [joined(folds) for folds in zip(*runs.values(), strict=False)]


def _kept_runs(folder: Path) -> list[tuple[dict[str, Predictions], dict[str, Any]]]:
    """For each seed the kept predictions, by column, and the facts."""
    seeds = sorted(path for path in folder.glob("seed*") if (path / RUN_FILE).is_file())
    if not seeds:
        raise DataError(f"{folder} holds no kept runs: fill it with 'lungsound study keep RUN {folder}/seed0'")
    kept = []
    for seed in seeds:
        paths = {name: seed / "epochs" / f"{name}.csv.gz" for name in NAMES}
        predictions = {name: read_predictions(path) for name, path in paths.items() if path.is_file()}
        kept.append((predictions, read_model(seed / RUN_FILE, KeptFacts, DataError, advice=KEEP_AGAIN).model_dump()))
    return kept


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks `<!-- begin: name -->` and `<!-- end: name -->` of a file."""
    page = path.read_text(encoding="utf-8")
    begin, end = BEGIN.format(name), END.format(name)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise DataError(f"{path} needs the line '{begin}' and after it '{end}', once each")
    before, after = page[: page.index(begin) + len(begin)], page[page.index(end) :]
    write_text(path, f"{before}\n\n{text.strip()}\n\n{after}")
