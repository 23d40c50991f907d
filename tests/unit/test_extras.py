"""Optional packages are imported without telling anybody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lungsound import extras
from lungsound.errors import SettingsError


def test_onnx_runtime_is_imported_without_telemetry(tmp_path: Path) -> None:
    """With telemetry its import writes a session into the folder of temporary files."""
    program = "from lungsound.extras import load; print(load('onnxruntime', extra=None).__version__)"
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_TELEMETRY")}
    places = dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME"), str(tmp_path))
    subprocess.run([sys.executable, "-c", program], env=environment | places, check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_box_is_the_installed_one(box: Path) -> None:
    assert extras.box_file() == box


@pytest.mark.usefixtures("box")
def test_a_missing_box_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "BOX_PACKAGE", "no_such_package")
    with pytest.raises(SettingsError, match=r"is not installed: run scripts/setup .* pip install the wheel"):
        extras.box_file()


@pytest.mark.parametrize("is_folder_alone", [True, False])
def test_a_box_without_a_model_is_missing_too(
    box: Path, is_folder_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.unlink()
    if is_folder_alone:  # any folder of that name on the path of Python
        (box.parent / "__init__.py").unlink()
    box.parent.rename(box.parent.with_name("another_box"))  # lungsound_box may be installed in earnest
    monkeypatch.setattr(extras, "BOX_PACKAGE", "another_box")
    with pytest.raises(SettingsError, match="is not installed"):
        extras.box_file()
