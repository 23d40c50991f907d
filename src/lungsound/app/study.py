"""Results that can be printed again: the answers of runs kept small, and the tables that are made from them.

A study is a folder with `study.toml` and, for each method, a folder of runs (`<method>/seed0`), or of folds that hold
runs (`<method>/<device>/seed0`). A kept run is a run folder with its answers to the test and a few facts only.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from lungsound.app.left_out import Fold, TrainedOn, left_out_table, pooled
from lungsound.config import Settings
from lungsound.data.protocol import VALIDATION
from lungsound.errors import DataError
from lungsound.evaluation.columns import (
    COLUMN_HEAD,
    LAST,
    NAMES,
    RULE,
    column_rows,
    read_columns,
    unwatched_columns,
)
from lungsound.evaluation.comparison.compare import compare_runs
from lungsound.evaluation.comparison.page import remarks, verdict
from lungsound.evaluation.predictions import Predictions, read_predictions, rounded, write_predictions
from lungsound.files import write_text
from lungsound.page import Block, Bullets, Heading, Paragraph, Table
from lungsound.run_folder import RunFolder

# What a person writes into STUDY_FILE.
HOLDS = (
    'title = "T", text = "T", kind = "columns" (or "left_out", of cross), and for each method a table [[methods]] '
    'with name = "N" and folder = "METHOD"'
)
DIGITS = 4
STUDY_FILE, RUN_FILE = "study.toml", "run.json"
BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"


class Method(Settings):
    """One method of a study: its name in print, and its folder."""

    name: str
    folder: str


class Study(Settings):
    """What `study.toml` says."""

    title: str
    text: str
    kind: Literal["columns", "left_out"]
    """columns: the three ways to choose the epoch; left_out: a fold for each device that was left out."""
    methods: Annotated[tuple[Method, ...], Field(strict=False)]


def keep_run(run_dir: Path, target: Path, *, columns: Sequence[str] = tuple(NAMES)) -> list[Path]:
    """Put a run's answers to the test, rounded and compressed, and its facts into the folder `target`; the files."""
    run = RunFolder(run_dir)
    answers, facts, config = run.columns(), run.facts(), run.config()
    if LAST not in answers:
        raise DataError(f"{run_dir} keeps no answers of its last epoch: train it again with this version")
    written = {name: target / "epochs" / f"{name}.csv.gz" for name in columns if name in answers}
    for name, path in written.items():
        write_predictions(path, rounded(_test_rows(answers[name]), DIGITS))
    kept = {name: facts[name] for name in ("revision", "versions", "num_cycles", "left_out_patients")}
    kept["num_patients"] = {part: len(names) for part, names in facts["patients"].items()}
    # By name, since some parts of a test have them too.
    kept["patients"] = {part: facts["patients"][part] for part in ("train", VALIDATION)}
    kept["corpus"] = {name: facts["corpus"][name] for name in ("name", "num_recordings", "fingerprint")}
    kept["epochs"] = run.progress().best_epochs | {LAST: config.train.epochs}
    # No command: it names folders of the machine. The settings say the same.
    kept["settings"] = config.model_dump(mode="json", exclude={"data": {"root"}, "model": {"pretrained"}})
    write_text(target / RUN_FILE, json.dumps(kept, indent=1) + "\n")
    return [*written.values(), target / RUN_FILE]


def _test_rows(answers: Predictions) -> Predictions:
    return answers.of_rows([row for row, part in enumerate(answers.parts) if part != VALIDATION])


def read_study(folder: Path) -> Study:
    """The study of a folder; DataError when it is none."""
    path = folder / STUDY_FILE
    try:
        return Study.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(
            f"{folder} holds no study: {path.name} cannot be read ({error.strerror}); write one: {HOLDS}"
        ) from None
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise DataError(f"{path} is not well formed: {' '.join(str(error).split())}") from None


def study_blocks(folder: Path) -> list[Block]:
    """The study as blocks of a page: every number is computed from the kept answers."""
    study = read_study(folder)
    make = _column_blocks if study.kind == "columns" else _left_out_blocks
    return [Heading(study.title), Paragraph(study.text), *make(folder, study.methods)]


def _column_blocks(folder: Path, methods: Sequence[Method]) -> list[Block]:
    answers = {method.name: _runs(folder / method.folder) for method in methods}
    facts = {method.name: _facts(folder / method.folder) for method in methods}
    first = next(iter(answers.values()))[0]
    blocks: list[Block] = []
    for part in sorted(set(first[LAST].parts)):
        rows = []
        for name, runs in answers.items():
            epochs = [each["epochs"] for each in facts[name]]
            found = read_columns(runs, epochs, part=part, unwatched=_unwatched(facts[name][0]))
            rows += [(name if number == 0 else "", *row) for number, row in enumerate(column_rows(found))]
        head = ("method", *COLUMN_HEAD)
        tested = Paragraph(_who_is_tested(first[LAST].of_part(part), facts))
        blocks += [Heading(f"Tested on {part}", level=3), tested, Table(head, rows)]
    return [*blocks, Paragraph(RULE), *_verdicts(answers)]


def _unwatched(facts: Mapping[str, Any]) -> dict[str, str]:
    train = facts["settings"]["train"]
    is_test_watched = train["is_test_watched"] or train["selection"] == "best_on_test"
    return unwatched_columns(is_test_watched=is_test_watched, has_validation=facts["num_cycles"][VALIDATION] > 0)


def _who_is_tested(answers: Predictions, facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """How many cycles and patients, and who of the patients trains, validates or is new, for each seed."""
    tested = set(answers.patients)
    seeds: dict[str, list[str]] = {}
    for of_method in facts.values():
        for each in of_method:
            train, held = (len(tested & set(each["patients"][part])) for part in ("train", VALIDATION))
            told = f"{train} train, {held} validate, {len(tested) - train - held} are new"
            seed = f"seed {each['settings']['train']['seed']}"
            if seed not in seeds.setdefault(told, []):
                seeds[told].append(seed)
    shared = "; ".join(f"{told} ({', '.join(names)})" for told, names in seeds.items())
    return f"{len(answers.keys):,} cycles of {len(tested)} patients, of whom {shared}."


def _verdicts(answers: Mapping[str, Sequence[Mapping[str, Predictions]]]) -> list[Block]:
    """What `compare` says of the first two methods, for each column and part."""
    (first, ours), (second, theirs) = list(answers.items())[:2]
    compared = {
        said: compare_runs([run[column] for run in ours], [run[column] for run in theirs], names=(first, second))
        for column, said in NAMES.items()
        if all(column in run for run in (*ours, *theirs))
    }
    lines = [f"{said}, {each.part}: {verdict(each)}" for said, parts in compared.items() for each in parts]
    lines += [f"{said}: not compared, since not every run has it" for said in NAMES.values() if said not in compared]
    said_once = dict.fromkeys(remark for parts in compared.values() for each in parts for remark in remarks(each))
    return [Paragraph(f"What lungsound compare says (A: {first}, B: {second}):"), Bullets([*lines, *said_once])]


def _left_out_blocks(folder: Path, methods: Sequence[Method]) -> list[Block]:
    blocks: list[Block] = []
    together = []
    for method in methods:
        names = sorted(path.name for path in (folder / method.folder).iterdir() if path.is_dir())
        folds = {name: _fold(folder / method.folder / name) for name in names}
        together.append(pooled(folds))
        blocks += [Heading(method.name, level=3), left_out_table(folds)]
    if len(methods) > 1:
        pair = methods[0].name, methods[1].name
        said = [line for each in compare_runs(*together[:2], names=pair) for line in (verdict(each), *remarks(each))]
        intro = f"What lungsound compare says of all cycles together (A: {pair[0]}, B: {pair[1]}):"
        blocks += [Paragraph(intro), Bullets(said)]
    return blocks


def _fold(folder: Path) -> Fold:
    trained_on = [TrainedOn(each["num_cycles"]["train"], each["num_patients"]["train"]) for each in _facts(folder)]
    return Fold([run[LAST] for run in _runs(folder)], trained_on)


def _seeds(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("seed*") if (path / RUN_FILE).is_file())
    if not found:
        raise DataError(f"{folder} holds no kept runs: fill it with 'lungsound study keep RUN {folder}/seed0'")
    return found


def _runs(folder: Path) -> list[dict[str, Predictions]]:
    """The kept answers of each seed, by column."""
    return [
        {name: read_predictions(path) for name in NAMES if (path := seed / "epochs" / f"{name}.csv.gz").is_file()}
        for seed in _seeds(folder)
    ]


def _facts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((seed / RUN_FILE).read_text(encoding="utf-8")) for seed in _seeds(folder)]


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the two marks `<!-- begin: name -->` and `<!-- end: name -->` of a file."""
    page = path.read_text(encoding="utf-8")
    begin, end = BEGIN.format(name), END.format(name)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise DataError(f"{path} needs the line '{begin}' and after it '{end}', once each")
    before, after = page[: page.index(begin) + len(begin)], page[page.index(end) :]
    write_text(path, f"{before}\n\n{text.strip()}\n\n{after}")
