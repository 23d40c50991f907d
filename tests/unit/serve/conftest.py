"""A tiny model for all tests, and a folder for temporary files of each test's own."""

import tempfile
from pathlib import Path

import pytest

from lungsound.inference.predictor import Predictor
from lungsound.serve import readers
from tests.unit.serve.served import save_tiny


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny-run") / "model.safetensors")


@pytest.fixture(scope="session")
def tiny(tiny_path: Path) -> Predictor:
    return Predictor.load(tiny_path)


@pytest.fixture(scope="session", autouse=True)
def readers_started() -> None:
    """The process that readers are forked from outlives a test, and its folder is none of any test's own."""
    readers.start()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go: what is left there is a leak."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
