"""What everybody must be able to read and reach: widths, contrast in both themes, names of controls."""

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="driving a browser needs pip install playwright")
pytest.importorskip("fastapi", reason="the page needs pip install 'lungsound[serve]'")

from playwright.sync_api import Page, expect

from tests.browser.served import Served
from tests.browser.test_page import send

# [contrast, text] of each text of the page that is seen, on the nearest ground that is not transparent.
CONTRASTS = """() => {
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const linear = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    const colour = rgba(getComputedStyle(element).backgroundColor);
    return colour[3] === 255 || !element.parentElement ? colour : ground(element.parentElement);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !element.checkVisibility() || element.closest(":disabled")) continue;
    const pair = [luminance(rgba(getComputedStyle(element).color)), luminance(ground(element))];
    const [light, dark] = pair.sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), texts.currentNode.textContent.trim()]);
  }
  return found;
}"""
NAMELESS = """() => [...document.querySelectorAll("button, input, select, [role=slider], [role=option]")]
  .filter((control) => control.checkVisibility())
  .filter((control) => !control.textContent.trim() && !control.ariaLabel && !control.labels?.length)
  .map((control) => control.outerHTML)"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_and_controls_have_names(page: Page, served: Served, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    send(page, served)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("?")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [(round(ratio, 2), text) for ratio, text in contrasts if ratio < 4.5] == []
    assert page.evaluate(NAMELESS) == []


def test_the_theme_is_chosen_and_remembered(page: Page, served: Served) -> None:
    def ground() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page.goto(served.address)
    light = ground()
    for name in ("Theme: light", "Theme: dark"):
        page.locator("#theme").click()
        expect(page.locator("#theme")).to_have_text(name)
    assert ground() != light
    page.reload()
    expect(page.locator("#theme")).to_have_text("Theme: dark")
    assert ground() != light


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, served: Served, width: int, tmp_path: Path) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    long = tmp_path / f"{'long_name_' * 12}.wav"
    long.write_bytes(served.sound.read_bytes())
    send(page, served, long)
    page.locator("#zoom-in").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("#show-help").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dialog = page.locator("#help").bounding_box()
    assert dialog is not None
    assert dialog["width"] <= width


def test_labels_are_told_apart_without_colour(page: Page, served: Served) -> None:
    """By letter and by pattern."""
    send(page, served)
    page.keyboard.press("4")
    tiles = page.locator("#labels .tile")
    assert tiles.all_inner_texts() == ["N", "C", "W", "B"]
    patterns = [tile.evaluate("tile => getComputedStyle(tile).backgroundImage") for tile in tiles.all()]
    assert len(set(patterns)) == 4


def test_the_page_is_walked_through_by_keyboard(page: Page, served: Served) -> None:
    send(page, served)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    wanted = {"play", "scale", "handle-start", "handle-end", "threshold", "start", "share", "split", "show-help"}
    assert wanted - reached == set()
    page.locator("#play").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
