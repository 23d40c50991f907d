"""The notebook runs from its first cell to its last, and is kept without outputs."""

from pathlib import Path

import pytest

NEEDS = "needs nbformat, nbclient and ipykernel: pip install 'lungsound[dev]'"
pytest.importorskip("ipykernel", reason=NEEDS)
nbclient = pytest.importorskip("nbclient", reason=NEEDS)
nbformat = pytest.importorskip("nbformat", reason=NEEDS)

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "first_steps.ipynb"


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(cell: nbformat.NotebookNode) -> str:
    """What a cell printed."""
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_is_kept_as_it_was_written() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert (cell.outputs, cell.execution_count) == ([], None)
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = [output for cell in code_cells(notebook) for output in cell.outputs if output.output_type == "stream"]
    assert [output.text for output in printed if output.name == "stderr"] == [], "warnings"
    _, corpus, picture, _, report, answers = code_cells(notebook)
    assert [line.split(":")[0] for line in text(corpus).splitlines()] == ["train", "test"]
    assert any("image/png" in output.get("data", {}) for output in picture.outputs)
    assert "Score" in text(report)
    assert " s: " in text(answers).splitlines()[0]
