"""The tables of docs/results.md are those that the kept predictions give."""

from pathlib import Path

import pytest
from benchmarks.firm import MARK, measurements

from lungsound.experiments.study import BEGIN, END, study_markdown
from lungsound.extras import BOX_PACKAGE
from lungsound.training.model_file import load_model

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ("no", "one", "two", "three", "four", "five")
STUDIES = sorted(path.parent for path in (ROOT / "results").glob("*/study.toml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_table_of_the_results_is_what_its_kept_answers_give(study: Path) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    _, _, after = page.partition(BEGIN.format(study.name))
    written, _, _ = after.partition(END.format(study.name))
    assert written.strip() == study_markdown(study).strip()


def test_the_figures_of_the_box_are_those_of_the_model_that_is_shipped() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    _, _, after = page.partition(BEGIN.format(MARK))
    written, _, _ = after.partition(END.format(MARK))
    trained = load_model(ROOT / "box" / "src" / BOX_PACKAGE / "model.safetensors")
    assert written.strip().startswith(measurements(trained))
    assert "| hearts | 50 |" in written


def test_the_readme_has_the_scores_of_the_challenge() -> None:
    page, readme = study_markdown(ROOT / "results" / "sprsound-challenge"), (ROOT / "README.md").read_text("utf-8")
    events, recordings = (
        next(line for line in page.splitlines() if line.startswith(f"| lungsound, trained on {unit} |")).split(" | ")
        for unit in ("events", "recordings")
    )
    num_seeds, num_others = NUMBERS[int(events[5])], NUMBERS[int(recordings[5])]
    assert f"(task 1-1) score {events[1]} and in seven (1-2) {events[2]}, {num_seeds} seeds" in readme
    assert f"(2-1) score {recordings[3]} and those of five classes (2-2) {recordings[4]}, {num_others} seeds" in readme


def test_the_readme_has_what_is_predicted_where_no_stethoscope_is_stated() -> None:
    card, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("box/README.md", "README.md"))
    rows = (line.split(" | ") for line in card.partition("| test | predicted |")[2].splitlines())
    share = {cells[0]: cells[1] for cells in rows if len(cells) > 1}
    of_icbhi = " and ".join(share[f"| ICBHI 2017 test, {device}"] for device in ("Litt3200", "Meditron"))
    assert f"of the cycles of SPRSound's new patients {share['| SPRSound inter']} % are predicted" in readme
    assert f"two test stethoscopes {of_icbhi} % ([card]" in readme


def test_the_readme_has_the_scores_of_the_single_channel_half() -> None:
    page = study_markdown(ROOT / "results" / "laptop-methods-icbhi")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in page.splitlines()]
    for method in ("cross-entropy", "Patch-Mix contrastive"):
        score = next(cells[2] for cells in lines if cells[0] == f"| {method}")  # the first table is that of scores
        assert f"{method} {score}" in readme
    (difference,) = (cells[3] for cells in lines if len(cells) == 8 and cells[1] == "cross-entropy")
    assert f"the difference {difference}" in readme


def test_every_study_is_computed_by_the_script() -> None:
    script = (ROOT / "scripts" / "results").read_text(encoding="utf-8")
    assert STUDIES
    assert all(f"results/{study.name}" in script for study in STUDIES)


def test_the_readme_has_the_scores_and_differences_of_the_methods() -> None:
    page, readme = study_markdown(ROOT / "results" / "laptop-methods"), (ROOT / "README.md").read_text(encoding="utf-8")
    sections = {part.partition("\n")[0]: part for part in page.split("### ")}

    def scores(section: str) -> dict[str, str]:
        lines = [line.split(" | ") for line in sections[section].splitlines() if line.startswith("| ")][2:]
        return {cells[0].strip("| "): cells[2] for cells in lines}

    inter, mean = scores("Tested on inter"), scores("Tested on mean of inter and intra")
    assert len(inter) == 4
    for method, score in inter.items():
        assert f"| {method} | {score} | {mean[method]} |" in readme
    contrastive = [
        line for line in sections["Differences"].splitlines() if line.startswith("| Patch-Mix contrastive |")
    ]
    for other in ("cross-entropy", "Patch-Mix contrastive, padded to 8 s"):
        (row,) = (each for each in contrastive if f"| {other} | mean of inter and intra |" in each)
        assert row.split(" | ")[3] in readme
