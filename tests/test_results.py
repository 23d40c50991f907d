"""The tables of docs/results.md are those that the kept predictions give."""

from pathlib import Path

import pytest
from benchmarks.firm import MARK, measurements

from lungsound.experiments.study import BEGIN, END, study_markdown
from lungsound.extras import BOX_PACKAGE
from lungsound.training.model_file import load_model

ROOT = Path(__file__).resolve().parent.parent
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


def test_every_study_is_computed_by_the_script() -> None:
    script = (ROOT / "scripts" / "results").read_text(encoding="utf-8")
    assert STUDIES
    assert all(f"results/{study.name}" in script for study in STUDIES)
