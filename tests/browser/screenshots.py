"""Pictures of the page for the docs: python -m tests.browser.screenshots RUN RECORDING OUT

RUN is a trained run, RECORDING a synthetic one (`lungsound data synthesize`) with its annotation beside it. Writes
page.png (1280 px, light), page-dark.png, page-phone.png (390 px) and review.png, made small.
LUNGSOUND_CHROMIUM is the path of a Chromium.
"""

import os
import sys
import threading
from pathlib import Path
from socket import create_server

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lungsound.inference.predictor import Predictor
from lungsound.serve.limits import Limits
from lungsound.serve.review import ReviewFolder
from lungsound.serve.routes import Service, application
from lungsound.serve.server import Server

NUM_COLOURS = 96
MAX_WIDTH_PX = 960


def main(run: Path, recording: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    predictor = Predictor.load(run)
    review = ReviewFolder(recording.parent, predictor.trained.label_set, Limits())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["LUNGSOUND_CHROMIUM"])
        for name, width, height, scheme, folder in (
            ("page", 1280, 860, "light", None),
            ("page-dark", 1280, 860, "dark", None),
            ("page-phone", 390, 844, "light", None),
            ("review", 1280, 860, "light", review),
        ):
            size = {"width": width, "height": height}
            page = browser.new_page(viewport=size, color_scheme=scheme, device_scale_factor=1.5 if width == 390 else 1)
            shoot(page, Service(predictor, folder=folder, is_ready=True), recording, out / f"{name}.png")
            page.close()


def shoot(page: Page, service: Service, recording: Path, path: Path) -> None:
    listening = create_server(("127.0.0.1", 0))
    server = Server(service, application(service), timeout_s=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    page.set_default_timeout(600_000)  # on a busy machine a prediction takes its time
    page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/")
    if service.folder is None:
        page.set_input_files("#file", [recording, recording.with_suffix(".txt")])
    page.locator("#spectrogram[aria-busy=false]").wait_for()
    page.keyboard.press("ArrowRight")
    if service.folder is not None:
        page.locator("#recordings").get_by_text("not predicted yet").first.wait_for(state="detached")
    page.screenshot(path=path)
    server.should_exit = True
    thread.join()
    picture = Image.open(path).convert("RGB")
    picture.thumbnail((MAX_WIDTH_PX, picture.height), Image.Resampling.LANCZOS)
    picture.quantize(NUM_COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
