"""The tables of docs/results.md are those that the kept predictions give."""

from pathlib import Path

import pytest

from lungsound.experiments.study import BEGIN, END, study_markdown

ROOT = Path(__file__).resolve().parent.parent
STUDIES = sorted(path.parent for path in (ROOT / "results").glob("*/study.toml"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_table_of_the_results_is_what_its_kept_answers_give(study: Path) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    _, _, after = page.partition(BEGIN.format(study.name))
    written, _, _ = after.partition(END.format(study.name))
    assert written.strip() == study_markdown(study).strip()


def test_every_study_is_computed_by_the_script() -> None:
    script = (ROOT / "scripts" / "results").read_text(encoding="utf-8")
    assert STUDIES
    assert all(f"results/{study.name}" in script for study in STUDIES)
