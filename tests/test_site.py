"""The documentation: it builds as a site that loads nothing from elsewhere, and its commands work."""

import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from lungsound.cli.main import app
from lungsound.config import load_config, recipe_names
from tests.documents import ROOT, blocks, commands, environment, run, run_page

NOTICE = "Research software, not a medical device."
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NAMES = {str(page.relative_to(ROOT / "docs")): page for page in PAGES}
# Whose blocks are run here; README's and those of this list are all that there are to run.
RUN = [name for name, page in NAMES.items() if any(block.not_run is None for block in blocks(page, "sh", "python"))]
FROM_ELSEWHERE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def only_parsing(command: Any, called: list[dict[str, object]]) -> Any:
    """The command line without what it does: a call puts its options into `called`."""
    for each in getattr(command, "commands", {}).values():
        only_parsing(each, called)
    if not hasattr(command, "commands"):
        command.callback = lambda **options: called.append(options)
    return command


@pytest.mark.parametrize("name", NAMES)
def test_commands_have_the_options_that_exist(name: str) -> None:
    """Every `lungsound` line, also where no test runs it; `a|b` stands for each of them."""
    called: list[dict[str, object]] = []
    command = only_parsing(get_command(app), called)
    given = [each for words in commands(NAMES[name]) for each in product(*(word.split("|") for word in words))]
    for words in given:
        command.main(list(words), prog_name="lungsound", standalone_mode=False)
    assert len(called) == len(given)
    for options in called:
        if options.get("recipe") in recipe_names():
            load_config(str(options["recipe"]), options["settings"] or ())  # type: ignore[arg-type]


def test_an_option_that_does_not_exist_is_seen() -> None:
    command = only_parsing(get_command(app), [])
    with pytest.raises(Exception, match="--formats"):
        command.main(["predict", "RUN", "PATH", "--formats", "csv"], prog_name="lungsound", standalone_mode=False)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory, synthetic_corpus_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train = ["train", "demo", "--data", str(synthetic_corpus_dir), "--out", "run", "--set", "train.epochs=1"]
    # At the rate of the paper's models, which transformers needs.
    run([sys.executable, "-m", "lungsound", *train, "--set", "audio.sample_rate_hz=16000"], folder)
    return folder / "run"


@pytest.fixture
def reader_dir(tmp_path: Path, first_run: Path, synthetic_corpus_dir: Path) -> Path:
    """What the pages take for there: a corpus in ICBHI's layout, a run, recordings without annotations."""
    (tmp_path / "ICBHI_final_database").symlink_to(synthetic_corpus_dir)
    shutil.copytree(first_run, tmp_path / "runs" / "first")
    (tmp_path / "recordings").mkdir()
    sounds = sorted(synthetic_corpus_dir.glob("*.wav"))
    for sound in sounds:
        shutil.copy(sound, tmp_path / "recordings")
    shutil.copy(sounds[0], tmp_path / "recording.wav")
    shutil.copy(sounds[1], tmp_path / "another.wav")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run_in_order(name: str, reader_dir: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the pages call curl, which is not installed")
    run_page(NAMES[name], reader_dir)


@pytest.fixture(scope="module")
def site_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="needs mkdocs-material and mkdocstrings: pip install 'lungsound[docs]'")
    out = tmp_path_factory.mktemp("site")
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment() | nowhere, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return out


@pytest.mark.slow
def test_the_site_has_every_page_with_the_notice(site_dir: Path) -> None:
    for name in NAMES:
        page = site_dir / Path(name).with_suffix(".html")
        assert NOTICE in page.read_text(encoding="utf-8"), name


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site_dir: Path) -> None:
    found = [(page.name, tag) for page in site_dir.rglob("*.html") for tag in FROM_ELSEWHERE.findall(page.read_text())]
    assert found == []


@pytest.mark.slow
def test_the_reference_says_what_the_docstrings_say(site_dir: Path) -> None:
    from lungsound import LungSoundClassifier, Predictor

    for page, documented in (("predictor", Predictor), ("classifier", LungSoundClassifier)):
        text = (site_dir / "reference" / f"{page}.html").read_text(encoding="utf-8")
        assert (documented.__doc__ or "").splitlines()[0] in text
