"""A folder under review in the browser: saved at once, and read by `lungsound train`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="driving a browser needs pip install playwright")
pytest.importorskip("fastapi", reason="the page needs pip install 'lungsound[serve]'")

from playwright.sync_api import Page, expect

from lungsound.data.table import read_table
from tests.browser.served import Served, serve, write_sound
from tests.browser.test_page import marks
from tests.integration.command import lungsound

CORRECTIONS = "corrections/corrections.csv"
QUICK = ["audio.duration_s=0.5", "audio.num_mels=32", "model.stride=16", "train.batch_size=2", "train.epochs=1"]
NAMES = ("p01_a.wav", "p02_a.wav", "p03_a.wav")


@pytest.fixture
def reviewed(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "run").mkdir()
    for seed, name in enumerate(NAMES):
        write_sound(tmp_path / "sounds" / name, seed=seed)
    with serve(tmp_path / "run", review=tmp_path / "sounds") as found:
        yield found


def words(table: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cycle in read_table(table).require_sound().cycles:
        found.setdefault(cycle.recording.name, []).append(cycle.word)
    return found


def test_corrections_are_saved_at_once_and_there_again(page: Page, reviewed: Served, tmp_path: Path) -> None:
    page.goto(reviewed.address)
    expect(page.locator("#title")).to_have_text(NAMES[0])
    expect(page.locator("#recordings small").first).to_contain_text("4 cycles \N{MIDDLE DOT} uncertainty 0.5")
    page.keyboard.press("4")
    expect(page.locator("#status")).to_have_text("Saved.")
    expect(page.locator("#progress")).to_have_text("1 of 3 done")
    assert words(tmp_path / "sounds" / CORRECTIONS) == {NAMES[0]: ["both", "crackle", "crackle", "wheeze"]}
    page.keyboard.press("3")
    page.keyboard.press("n")  # before the pause is over: nothing is lost
    expect(page.locator("#title")).to_have_text(NAMES[1])
    page.keyboard.press("y")
    expect(page.locator("#title")).to_have_text(NAMES[2])
    expect(page.locator("#progress")).to_have_text("2 of 3 done")
    assert words(tmp_path / "sounds" / CORRECTIONS) == {
        NAMES[0]: ["wheeze", "crackle", "crackle", "wheeze"],
        NAMES[1]: ["normal", "crackle", "crackle", "wheeze"],
    }
    page.reload()
    expect(page.locator("#title")).to_have_text(NAMES[0])
    expect(page.locator(".band")).to_have_count(4)
    assert marks(page) == "W C C W"


def test_nothing_is_left_that_cannot_be_saved(page: Page, reviewed: Served) -> None:
    page.goto(reviewed.address)
    expect(page.locator(".band")).to_have_count(4)
    page.keyboard.press("Delete")
    page.locator("#view").click(position={"x": 10, "y": 50})
    page.keyboard.press("a")
    page.keyboard.press("n")
    expect(page.get_by_role("alert")).to_contain_text("Cycle 1 has no label")
    expect(page.locator("#title")).to_have_text(NAMES[0])
    page.keyboard.press("1")
    page.keyboard.press("n")
    expect(page.locator("#title")).to_have_text(NAMES[1])


def test_a_recording_that_cannot_be_read_stops_nobody(page: Page, reviewed: Served, tmp_path: Path) -> None:
    page.goto(reviewed.address)
    expect(page.locator(".band")).to_have_count(4)
    (tmp_path / "sounds" / NAMES[1]).write_bytes(b"no sound")
    page.keyboard.press("n")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("#workplace")).to_be_hidden()
    page.keyboard.press("n")
    expect(page.locator("#title")).to_have_text(NAMES[2])


def test_what_was_reviewed_is_trained_on(page: Page, reviewed: Served, tmp_path: Path) -> None:
    page.goto(reviewed.address)
    expect(page.locator(".band")).to_have_count(4)
    page.keyboard.press("2")
    for num_done, _ in enumerate(NAMES, 1):
        page.keyboard.press("y")
        expect(page.locator("#progress")).to_have_text(f"{num_done} of 3 done")
        expect(page.locator("#title")).to_have_text(NAMES[min(num_done, 2)])
    table = tmp_path / "sounds" / CORRECTIONS
    settings = [part for setting in QUICK for part in ("--set", setting)]
    assert lungsound("train", "demo", "--data", table, "--out", tmp_path / "new", *settings) == 0
    assert (tmp_path / "new" / "model.safetensors").exists()
