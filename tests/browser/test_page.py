"""The page at work: a sound in, answers seen and heard, corrected, saved and read back."""

import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="driving a browser needs pip install playwright")
pytest.importorskip("fastapi", reason="the page needs pip install 'lungsound[serve]'")

from playwright.sync_api import Page, expect

from lungsound.data.reader import read_corpus
from tests.browser.served import Served, serve

ROW = "#table tbody tr"


def send(page: Page, served: Served, *files: Path) -> None:
    page.goto(served.address)
    page.set_input_files("#file", files or [served.sound])
    expect(page.locator(".band")).to_have_count(4)


def marks(page: Page) -> str:
    return " ".join(page.locator(".band b").all_inner_texts())


def spans(page: Page) -> list[str]:
    return [" ".join(row.locator("td").all_inner_texts()[1:3]) for row in page.locator(ROW).all()]


def saved(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_a_sound_is_answered_corrected_and_read_back(page: Page, served: Served, tmp_path: Path) -> None:
    send(page, served)
    expect(page.locator("#note")).to_have_text("Research software, not a medical device.")
    expect(page.locator("#facts")).to_contain_text(re.compile("8.0 s .* 8 kHz .* cycles from segm"))
    expect(page.locator("#quality")).to_have_text("Quality: hum at 50 Hz")
    assert marks(page) == "N C? C W"
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cycle-said")).to_have_text("Uncertain best guess crackle")
    expect(page.locator("#cycle-note")).to_contain_text("It cannot rule out normal, crackle.")
    page.keyboard.press("3")
    assert marks(page) == "N W C W"
    page.keyboard.press("]")
    assert spans(page) == ["0.00 2.00", "2.00 4.02", "4.02 5.60", "6.40 8.00"]
    table = saved(page, "CSV table", served.folder)
    assert table.name == "p01_left.csv"
    cycles = read_corpus(table).require_sound().cycles
    assert [(cycle.start_s, cycle.end_s, cycle.word) for cycle in cycles] == [
        (0.0, 2.0, "normal"),
        (2.0, 4.02, "wheeze"),
        (4.02, 5.6, "crackle"),
        (6.4, 8.0, "wheeze"),
    ]
    assert saved(page, "ICBHI .txt", tmp_path).read_text().splitlines()[1] == "2\t4.02\t0\t1"


def test_a_boundary_is_dragged_and_the_drag_undone_at_once(page: Page, served: Served) -> None:
    send(page, served)
    page.keyboard.press("ArrowRight")
    box = page.locator("#track").bounding_box()
    assert box is not None
    middle, px_per_s = box["y"] + 100, box["width"] / 8.0
    page.mouse.move(box["x"] + 2.0 * px_per_s, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 1.8 * px_per_s, middle)
    page.mouse.move(box["x"] + 1.5 * px_per_s, middle)
    page.mouse.up()
    assert spans(page)[:2] == ["0.00 1.50", "1.50 4.00"]
    expect(page.locator("#cycle-note")).to_contain_text("before its boundaries were moved")
    page.keyboard.press("Control+z")
    assert spans(page)[:2] == ["0.00 2.00", "2.00 4.00"]
    page.keyboard.press("Control+y")
    assert spans(page)[:2] == ["0.00 1.50", "1.50 4.00"]
    page.get_by_label("Start of cycle 2").press("ArrowRight")
    assert spans(page)[1] == "1.52 4.00"
    expect(page.get_by_label("Start of cycle 2")).to_have_attribute("aria-valuetext", "1.52 seconds")


def test_cycles_are_split_merged_deleted_and_added(page: Page, served: Served) -> None:
    send(page, served)
    page.keyboard.press("x")
    assert spans(page)[:3] == ["0.00 1.00", "1.00 2.00", "2.00 4.00"]
    page.keyboard.press("m")
    assert spans(page) == ["0.00 2.00", "2.00 4.00", "4.00 5.60", "6.40 8.00"]
    page.keyboard.press("Delete")
    assert marks(page) == "C? C W"
    page.keyboard.press("a")
    expect(page.locator("#status")).to_contain_text("No free stretch here")
    page.locator("#view").click(position={"x": 10, "y": 50})
    page.keyboard.press("a")
    assert marks(page) == "- C? C W"
    page.get_by_role("button", name="CSV table").click()
    expect(page.get_by_role("alert")).to_have_text("Cycle 1 has no label: select it and press 1 to 4.")
    page.keyboard.press("4")
    assert marks(page) == "B C? C W"
    expect(page.get_by_role("alert")).to_be_hidden()


def test_labels_follow_the_threshold_but_not_those_given_by_hand(page: Page, served: Served) -> None:
    send(page, served)
    page.keyboard.press("2")
    page.locator("#threshold").fill("0.9")
    assert marks(page) == "C N? C N"
    expect(page.locator("#counts")).to_have_text("2 of 4 cycles abnormal, 1 uncertain, 1 by hand.")
    page.keyboard.press("0")
    assert marks(page) == "N N? C N"
    page.get_by_role("button", name="Back to the model's labels", exact=True).click()
    assert marks(page) == "N C? C W"


def test_who_was_recorded_is_sent_and_a_withheld_cycle_says_why(page: Page, served: Served) -> None:
    page.goto(served.address)
    expect(page.locator("#evidence")).to_contain_text("Trained on")
    page.get_by_label("Age").fill("7")
    page.get_by_label("Stethoscope").fill("Meditron")
    page.set_input_files("#file", [served.sound])
    expect(page.locator(".band")).to_have_count(4)
    expect(page.locator("#facts")).to_contain_text("Meditron")
    expect(page.locator("#facts")).to_contain_text("7 years")
    expect(page.locator("#cycle-note")).not_to_contain_text("Withheld")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cycle-note")).to_contain_text("low_confidence")


def test_a_click_plays_a_cycle_and_stops_it(page: Page, served: Served) -> None:
    send(page, served)
    play = page.locator("#play")
    page.locator(".band").nth(2).click()
    expect(page.locator("#cycle-title")).to_have_text("Cycle 3 of 4")
    expect(play).to_contain_text("Stop")
    expect(page.locator("#playhead")).to_be_visible()
    page.locator(".band").nth(2).click()
    expect(play).to_contain_text("Play")
    page.keyboard.press("l")
    page.keyboard.press("Space")
    expect(play).to_contain_text("Stop")
    page.wait_for_timeout(2000)  # longer than the cycle: it loops
    expect(play).to_contain_text("Stop")
    page.keyboard.press("Space")
    expect(play).to_contain_text("Play")


def test_the_spectrogram_is_drawn(page: Page, served: Served) -> None:
    send(page, served)
    spectrogram = page.get_by_role("img", name="Spectrogram")
    pictures = set()
    for scale in ("linear", "log"):
        page.select_option("#scale", scale)
        expect(spectrogram).to_have_attribute("aria-busy", "false")
        page.evaluate("new Promise(requestAnimationFrame)")
        pictures.add(spectrogram.evaluate("canvas => canvas.toDataURL()"))
    assert len(pictures) == 2
    assert min(map(len, pictures)) > 50_000  # an empty canvas of this size takes 5,000


def test_a_sound_is_recorded_from_the_microphone(page: Page, served: Served) -> None:
    page.goto(served.address)
    page.get_by_role("button", name="Record").click()
    expect(page.locator("#recorded")).to_have_text("2 s")
    page.get_by_role("button", name="Stop and listen").click()
    expect(page.locator(".band")).to_have_count(4)
    expect(page.locator("#title")).to_contain_text("recording-20")
    assert float(page.locator("#facts").inner_text().split()[0]) == pytest.approx(2.5, abs=1.5)


RECORD = """async () => {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream, { mimeType: "audio/webm;codecs=opus" });
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const ended = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start();
  setTimeout(() => recorder.stop(), 1500);
  await ended;
  const answer = await fetch("v1/predictions?name=own.webm", { method: "POST", body: new Blob(parts) });
  return [answer.status, await answer.json()];
}"""


def test_what_a_browser_records_by_itself_is_answered(page: Page, served: Served) -> None:
    """WebM with Opus, without a length in its header."""
    pytest.importorskip("av", reason="reading webm needs the extra 'av'")
    page.goto(served.address)
    status, record = page.evaluate(RECORD)
    assert (status, record["path"], record["sample_rate_hz"]) == (200, "own.webm", 48000)
    assert 1.0 < record["duration_s"] < 2.0


def test_what_goes_wrong_is_said_in_one_line_and_the_page_goes_on(page: Page, served: Served, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound")
    page.goto(served.address)
    alert = page.get_by_role("alert")
    page.set_input_files("#file", tmp_path / "text.wav")
    expect(alert).to_be_visible()
    assert "\n" not in alert.inner_text()
    page.set_input_files("#file", [served.sound, tmp_path / "text.wav"])
    expect(alert).to_contain_text("One recording at a time (2 were given)")
    page.route("**/v1/predictions*", lambda route: route.abort())
    page.set_input_files("#file", served.sound)
    expect(alert).to_contain_text("The service does not respond")
    page.unroute("**/v1/predictions*")
    page.set_input_files("#file", served.sound)
    expect(page.locator(".band")).to_have_count(4)
    expect(alert).to_be_hidden()


def test_help_lists_the_keys_and_keys_of_one_letter_can_be_switched_off(page: Page, served: Served) -> None:
    send(page, served)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.get_by_label("Use keys of one letter").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    page.keyboard.press("3")
    assert marks(page) == "N C? C W"
    page.keyboard.press("ArrowRight")
    expect(page.locator("#cycle-title")).to_have_text("Cycle 2 of 4")


def test_a_service_with_a_token_asks_for_it(page: Page, tmp_path: Path) -> None:
    with serve(tmp_path, token="a long secret token") as served:
        page.goto(served.address)
        page.get_by_label("Token", exact=True).fill("a long secret token")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("alert")).to_be_hidden()
        page.set_input_files("#file", served.sound)
        expect(page.locator(".band")).to_have_count(4)


def test_a_sound_is_dropped_with_its_annotation(page: Page, served: Served) -> None:
    page.goto(served.address)
    drop = """([sound, text]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([Uint8Array.from(sound)], "dropped.wav"));
      transfer.items.add(new File([text], "dropped.txt"));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [list(served.sound.read_bytes()), "0.5\t1.5\t1\t0\n"])
    expect(page.locator("#title")).to_have_text("dropped.wav")
    expect(page.locator("#facts")).to_contain_text("cycles from the annotation")


def test_what_this_browser_cannot_play_is_answered_all_the_same(page: Page, served: Served) -> None:
    page.add_init_script("OfflineAudioContext.prototype.decodeAudioData = () => Promise.reject(new Error('unknown'))")
    send(page, served)
    expect(page.locator("#status")).to_contain_text("This browser cannot play this format")
    expect(page.locator("#play")).to_be_disabled()
    page.keyboard.press("4")
    assert marks(page) == "B C? C W"


def test_unsaved_corrections_are_not_lost_by_mistake(page: Page, served: Served, tmp_path: Path) -> None:
    send(page, served)
    page.keyboard.press("4")
    asked: list[str] = []
    page.once("dialog", lambda dialog: [asked.append(dialog.message), dialog.dismiss()])
    page.set_input_files("#file", served.sound)
    page.wait_for_timeout(300)
    assert asked == ["The corrections of p01_left.wav are not saved. Open another recording?"]
    assert marks(page) == "B C? C W"
    saved(page, "CSV table", tmp_path)
    page.set_input_files("#file", served.sound)
    expect(page.locator(".band b").first).to_have_text("N")


def test_a_real_recording_is_corrected_and_read_as_a_corpus(
    page: Page, served: Served, icbhi_dir: Path, tmp_path: Path
) -> None:
    recording = next(iter(sorted(icbhi_dir.glob("*_sc_Meditron.*[cv]"))))
    shutil.copy(recording, tmp_path)
    send(page, served, recording)
    expect(page.locator("#play")).to_be_enabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("1")
    cycles = read_corpus(saved(page, "CSV table", tmp_path)).require_sound().cycles
    assert [cycle.word for cycle in cycles] == ["normal", "normal", "crackle", "wheeze"]
    assert {cycle.recording.path.resolve() for cycle in cycles} == {(tmp_path / recording.name).resolve()}
