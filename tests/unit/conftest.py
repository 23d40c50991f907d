from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.unit.inference.models import saved_model


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File of a model in the box, small and with random weights, in the place of any that is installed."""
    folder = tmp_path / "site" / "lungsound_box"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    metadata = folder.parent / "lungsound_box-0.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.4\nName: lungsound-box\nVersion: 0.1\nLicense-Expression: GPL-3.0-only\n")
    saved_model(folder)
    monkeypatch.syspath_prepend(folder.parent)
    return folder / "model.safetensors"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, to see what is on them."""
    saved: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.append(self)
        original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved
