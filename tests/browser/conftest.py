"""A browser of the system's own, the page as the service serves it, and a watch over both.

Needs the extra `serve`, playwright, and a Chromium that is installed: playwright's own download is not used.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.browser.served import Served

VARIABLE = "LUNGSOUND_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = f"no Chromium is installed: sudo apt-get install chromium (or {VARIABLE}=its path)"
HERE = ("http://127.0.0.1:", "blob:http://127.0.0.1:")
TIMEOUT_MS = 15_000
# A microphone that beeps, and nobody asks whether it may be used.
FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")  # it runs an event loop in this thread, which other modules want to run themselves
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=TIMEOUT_MS)
    path = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Served]":
    """The service with planted answers, not in review."""
    from tests.browser.served import serve

    with serve(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture
def page(browser: "Browser") -> "Iterator[Page]":
    """A page that must ask nobody but the machine it came from, break no rule of its policy, and make no mistake."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, permissions=["microphone"])
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    # A refused request is written to the console too; what the page says of it is tested.
    page.on("console", lambda said: wrong.append(said.text) if "Failed to load resource" not in said.text else None)
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(HERE) else None)
    page.set_default_timeout(TIMEOUT_MS)
    yield page
    context.close()
    assert wrong == []
