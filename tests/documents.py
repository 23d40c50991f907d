"""The blocks of code that our Markdown pages show, and how tests run them as a reader would.

A comment on the line before a block may say what a test has to know: `<!-- not run: REASON -->`, or
`<!-- file: NAME -->` for what the reader saves under that name.
"""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:^<!-- (not run|file): (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}| {7}).*\n?)+", re.MULTILINE)
SERVERS = ("serve", "review")
ADDRESS = "127.0.0.1:8000"  # of the pages
LONGEST_START_S, LONGEST_S = 120.0, 600.0


@dataclass(frozen=True)
class Block:
    """A fenced block: `not_run` is the reason why no test runs it, `file` the name under which a reader saves it."""

    language: str
    text: str
    not_run: str | None = None
    file: str | None = None


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page, in order; of all languages unless some are named."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    made = [
        Block(language, text, not_run=said if what == "not run" else None, file=said if what == "file" else None)
        for what, said, language, text in found
    ]
    return [block for block in made if not languages or block.language in languages]


def commands(page: Path) -> list[list[str]]:
    """Words of every `lungsound` command in a fenced or an indented block, less the name itself and an ellipsis."""
    fenced = [block.text for block in blocks(page) if block.language in ("", "sh")]
    indented = INDENTED.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    lines = "\n".join(fenced + indented).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True)[1:] for line in map(str.strip, lines) if line.startswith("lungsound ")]
    return [[word for word in words if word != "..."] for words in found]


def environment() -> dict[str, str]:
    """That of a reader whose shell finds this environment's programs first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command: list[str], cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    result = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    assert result.returncode == 0, f"{command} ended with {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks of sh and Python in `folder`, in order, each of which must succeed.

    A service that it starts listens at another port, which takes the place of the page's, and must end well.
    """
    port = free_port()
    with ExitStack() as services:
        for block in blocks(page):
            text = block.text.replace(ADDRESS, f"127.0.0.1:{port}")
            if block.file is not None:
                (folder / block.file).write_text(block.text, encoding="utf-8")
            elif block.not_run is not None:
                continue
            elif block.language == "sh" and is_service(text):
                services.enter_context(service(f"exec {text.strip()} --port {port}", folder, port))
            elif block.language == "sh":
                run(["sh", "-euc", text], folder)
            elif block.language == "python":
                run([sys.executable, "-c", text], folder)


def is_service(text: str) -> bool:
    return text.startswith(tuple(f"lungsound {name} " for name in SERVERS))


@contextmanager
def service(command: str, folder: Path, port: int) -> Iterator[None]:
    """A service that is ready; afterwards it is told to stop."""
    with (folder / "service.log").open("w+") as log:
        process = subprocess.Popen(["sh", "-c", command], cwd=folder, env=environment(), stdout=log, stderr=log)
        try:
            wait_until_ready(process, port)
            yield
            process.terminate()
            status = process.wait(LONGEST_START_S)
        finally:
            process.kill()
            process.wait()
            log.seek(0)
            told = log.read()
    assert status == 0, f"{command} ended with {status}\n{told}"


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + LONGEST_START_S
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5):
                return
        except OSError:
            assert process.poll() is None, "the service ended before it was ready"
            assert time.monotonic() < end, f"the service was not ready after {LONGEST_START_S:g} s"
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
