"""Results that are kept small and printed again from what is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lungsound.errors import DataError
from lungsound.evaluation.predictions import Predictions, write_predictions
from lungsound.experiments.study import (
    BEGIN,
    END,
    POOLED,
    left_out_table,
    pooled,
    study_markdown,
    without_folders,
    write_between,
)
from lungsound.experiments.table import Row
from lungsound.labels import LABEL_SETS
from tests.unit.data.trees import DAMAGED
from tests.unit.experiments.small import FACTS, answered

CLASSES = ("normal", "crackle", "wheeze", "both")
STUDY = """
title = "Two methods"
text = "Synthetic answers."
kind = "{kind}"
[[methods]]
name = "plain"
folder = "plain"
[[methods]]
name = "mixed"
folder = "mixed"
"""


def answers(share_right: float, *, seed: int, first: str = "p", device: str = "A") -> Predictions:
    """160 cycles of 20 patients, of which about this share is answered right, and two validation rows."""
    generator = np.random.default_rng(seed)
    labels = np.arange(160) % 4
    chosen = np.where(generator.random(160) < share_right, labels, 0)
    probabilities = 0.6 * np.eye(4)[np.concatenate([chosen, [0, 0]])] + 0.1
    return Predictions(
        keys=tuple(f"{first}{i}#0.000-1.000" for i in range(162)),
        patients=tuple(f"{first}{i // 8}" for i in range(160)) + ("v", "v"),
        devices=(device,) * 162,
        parts=("test",) * 160 + ("validation",) * 2,
        labels=np.concatenate([labels, [0, 1]]),
        probabilities=probabilities,
        classes=CLASSES,
    )


def write_kept(
    folder: Path, columns: dict[str, Predictions], epochs: dict[str, int], *, held: tuple[str, ...] = ("v",)
) -> None:
    """A kept run of 30 training cycles; patients p0 and p1 of the test train too, `held` validate."""
    for name, found in columns.items():
        rows = [row for row, part in enumerate(found.parts) if part != "validation"]
        write_predictions(folder / "epochs" / f"{name}.csv.gz", found.of_rows(rows))
    seed = int(folder.name.removeprefix("seed"))
    facts = {
        "epochs": epochs,
        "num_cycles": {"train": 30 + seed, "validation": 2},
        "patients": {"train": ["p0", "p1", "t"], "validation": [*held]},
        "settings": {"train": {"seed": seed, "is_test_watched": True, "selection": "last"}},
    }
    (folder / "run.json").write_text(json.dumps(facts))


@pytest.fixture
def columns_study(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY.format(kind="columns"))
    for method, share in (("plain", 0.3), ("mixed", 0.9)):
        for seed in (0, 1):
            last, test = answers(share, seed=seed), answers(share + 0.1, seed=seed + 9)
            write_kept(tmp_path / method / f"seed{seed}", {"last": last, "test": test}, {"last": 8, "test": 3 + seed})
    return tmp_path


def test_a_study_of_columns_is_printed_with_epochs_differences_and_verdicts(columns_study: Path) -> None:
    text = study_markdown(columns_study)
    assert "Two methods" in text
    assert "| plain | last epoch | 8, 8 |" in text
    assert "chosen on test (as published) | 3, 4 |" in text
    assert text.count("| chosen on validation | none (no epoch had a sensitivity over 5 %) |") == 2
    assert "- chosen on validation: not compared, since not every run has it" in text
    assert "among those with a sensitivity over 5 %" in text
    lines = [line for line in text.splitlines() if line.startswith("- last epoch, test: ")]
    assert len(lines) == 1
    assert "mixed" in lines[0]
    assert "not distinguishable" not in lines[0]


def test_who_of_the_tested_patients_trains_and_validates_is_said_for_each_seed(columns_study: Path) -> None:
    text = study_markdown(columns_study)
    assert "160 cycles of 20 patients, of whom 2 train, 0 validate, 18 are new (seed 0, seed 1)." in text
    same = answers(0.3, seed=5)
    for method in ("plain", "mixed"):
        (columns_study / method / "seed1" / "epochs" / "test.csv.gz").unlink()
        write_kept(columns_study / method / "seed1", {"last": same}, {"last": 8}, held=("p5", "p6", "p7"))
    text = study_markdown(columns_study)
    assert "of whom 2 train, 0 validate, 18 are new (seed 0); 2 train, 3 validate, 15 are new (seed 1)." in text
    assert "3, none (no mean: in 1 of 2 runs no epoch had a sensitivity over 5 %)" in text


def test_methods_that_answer_alike_are_not_distinguishable(columns_study: Path) -> None:
    same = answers(0.3, seed=5)
    for method in ("plain", "mixed"):
        for seed in (0, 1):
            write_kept(columns_study / method / f"seed{seed}", {"last": same, "test": same}, {"last": 8, "test": 3})
    assert study_markdown(columns_study).count("not distinguishable") == 2


def test_a_study_of_what_was_left_out_has_a_row_for_each_fold_and_one_of_all(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY.format(kind="left_out"))
    for method, share in (("plain", 0.3), ("mixed", 0.9)):
        for device in ("A", "B"):
            found = answers(share, seed=1, first=device, device=device)
            write_kept(tmp_path / method / device / "seed0", {"last": found}, {"last": 8})
    text = study_markdown(tmp_path)
    assert text.count("| A | 160 | 20 | 30 | 3 |") == 2
    assert text.count(f"| {POOLED} | 320 | 40 |  |  |") == 2
    # A right answer of 0.7 and a wrong one of 0.1 or 0.7 for "normal": the area is in every row but that of all.
    normal = answers(0.3, seed=1, first="A").probabilities[:160, 0]
    area = roc_auc_score(np.arange(160) % 4 > 0, 1.0 - normal)
    (line,) = [line for line in text.split("### ")[1].splitlines() if line.startswith("| A |")]
    assert line.split(" | ")[-1].startswith(f"{100 * area:.1f} (")
    assert all(line.endswith("|  |") for line in text.splitlines() if line.startswith(f"| {POOLED}"))
    assert "of all cycles together" in text


def write_own(folder: Path, runs: dict[str, Predictions], seed: int) -> None:
    for method, run in runs.items():
        kept = folder / method / f"seed{seed}"
        write_predictions(kept / "epochs" / "last.csv.gz", run)
        (kept / "run.json").write_text(json.dumps(FACTS | {"settings": {"train": {"seed": seed}}}))


def test_a_study_of_methods_has_scores_differences_and_their_picture(tmp_path: Path) -> None:
    study = tmp_path / "both"
    study.mkdir()
    (study / "study.toml").write_text('comparisons = [["mixed", "plain"]]' + STUDY.format(kind="methods"))
    for seed in (0, 1, 2):
        runs = {name: answered(skill, CLASSES, seed=seed) for name, skill in (("plain", 0.4), ("mixed", 0.8))}
        write_own(study, runs, seed)
    text = study_markdown(study)
    assert text == study_markdown(study, images=tmp_path / "images")
    assert (tmp_path / "images" / "both-differences.png").is_file()
    assert "![Differences](images/both-differences.png)" in text
    assert text.count("| mixed | 3 | ") == 3  # inter, intra, and their mean
    assert "- A: mixed; B: plain; on mean of inter and intra: " in text
    assert "| mixed | 6 | 4990 | 0123456789abcdef | c0ffee0c0 | x86_64 A Processor |" in text


def test_a_study_of_the_challenge_has_its_tasks(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY.format(kind="challenge"))
    classes = {name: LABEL_SETS[f"sprsound_{name}"].classes for name in ("event7", "record5")}
    for seed in (0, 1):
        runs = {"plain": answered(0.7, classes["event7"], seed=seed), "mixed": answered(0.7, classes["record5"])}
        write_own(tmp_path, runs, seed)
    text = study_markdown(tmp_path)
    assert [text.count(f"| {task} | ") for task in ("1-1", "1-2", "2-1", "2-2")] == [4, 4, 4, 4]  # and in the head
    assert "Shuvo and Hasan 2025" in text


def test_a_kept_command_names_no_folder_of_the_machine() -> None:
    command = "/opt/env/bin/lungsound train laptop --data /mnt/a/sprsound --out ../runs/x --set 'data.root=/a/b/c'"
    expected = "lungsound train laptop --data sprsound --out ../runs/x --set 'data.root=c'"
    assert without_folders(command) == expected


def test_folds_are_pooled_seed_by_seed() -> None:
    runs = {name: [answers(0.5, seed=seed, first=name) for seed in (0, 1)] for name in ("A", "B")}
    of_seeds = pooled(runs)
    assert [len(each.keys) for each in of_seeds] == [324, 324]
    assert of_seeds[1].keys[:162] == runs["A"][1].keys
    facts = [{"num_cycles": {"train": num}, "patients": {"train": ["p"] * 9}} for num in (50, 48)]
    assert "\n| A | 162 | 21 | 48 to 50 | 9 |" in left_out_table({"A": runs["A"]}, {"A": facts})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"holds no study: .*; write one: title = .* kind = .* \[\[methods\]\]"),
        ("title = 1", r"study\.toml: is not as expected"),
        ("title", r"study\.toml: no valid TOML"),
    ],
)
def test_what_is_no_study_is_named(content: str | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "study.toml").write_text(content)
    with pytest.raises(DataError, match=told) as caught:
        study_markdown(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_method_without_runs_is_named(columns_study: Path) -> None:
    (columns_study / "mixed" / "seed0" / "run.json").unlink()
    (columns_study / "mixed" / "seed1" / "run.json").unlink()
    with pytest.raises(DataError, match="mixed holds no kept runs"):
        study_markdown(columns_study)


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN.format('x')}\nold\n{END.format('x')}\nafter\n")
    write_between(page, "x", "new\n")
    assert page.read_text() == f"before\n{BEGIN.format('x')}\n\nnew\n\n{END.format('x')}\nafter\n"
    write_between(page, "x", "new\n")
    assert page.read_text().count("new") == 1


@pytest.mark.parametrize("text", ["", "{b}", "{e}{b}", "{b}{b}{e}"])
def test_marks_that_are_not_there_are_asked_for(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text.format(b=BEGIN.format("x"), e=END.format("x")))
    with pytest.raises(DataError, match="needs the line"):
        write_between(page, "x", "new")


def test_a_row_of_a_device_that_is_left_out_has_a_folder_of_its_own() -> None:
    row = Row(name="without X", recipe="tiny_ce", set=("data.split=device:Litt 3200",))
    assert row.folder == "tiny_ce+split=device_Litt_3200"
    assert row.config().data.split == "device:Litt 3200"


def test_damaged_facts_of_a_kept_run_are_named(columns_study: Path) -> None:
    for damaged in (*DAMAGED, b'{"epochs": {"last": 8}, "num_cycles": {}, "patients": {}, "settings": {"train": {}}}'):
        (columns_study / "mixed" / "seed1" / "run.json").write_bytes(damaged)
        with pytest.raises(DataError, match=r"mixed/seed1/run\.json.*write it again"):
            study_markdown(columns_study)
