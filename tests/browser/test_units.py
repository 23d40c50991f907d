"""The page's modules that draw nothing, tested by node where it is installed, else in the browser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[2] / "src" / "lungsound" / "serve" / "static"
TESTS = Path(__file__).parent / "units.js"


def test_modules(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    node = shutil.which("node")
    found = run_by_node(node, tmp_path) if node else run_in_browser(request)
    assert len(found) >= 12
    assert {name: mistake for name, mistake in found if mistake} == {}


def run_by_node(node: str, folder: Path) -> list[list[str]]:
    shutil.copytree(STATIC, folder / "static")
    shutil.copy(TESTS, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    script = 'import("./units.js").then((all) => all.run("./static")).then((all) => console.log(JSON.stringify(all)))'
    printed = subprocess.run([node, "-e", script], cwd=folder, check=True, capture_output=True, text=True).stdout
    return json.loads(printed)


def run_in_browser(request: pytest.FixtureRequest) -> list[list[str]]:
    pytest.importorskip("playwright", reason="without node these tests need pip install playwright")
    page, served = request.getfixturevalue("page"), request.getfixturevalue("served")
    page.route("**/static/units.js", lambda route: route.fulfill(path=TESTS, content_type="text/javascript"))
    page.goto(served.address)
    return page.evaluate("import('/static/units.js').then((all) => all.run('/static'))")
