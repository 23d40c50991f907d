"""Optional packages are imported without telling anybody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_onnx_runtime_is_imported_without_telemetry(tmp_path: Path) -> None:
    """With telemetry its import writes a session into the folder of temporary files."""
    pytest.importorskip("onnxruntime")
    program = "from lungsound.extras import load; print(load('onnxruntime', extra='onnx').__version__)"
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_TELEMETRY")}
    places = dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME"), str(tmp_path))
    subprocess.run([sys.executable, "-c", program], env=environment | places, check=True)
    assert list(tmp_path.iterdir()) == []
