"""Make .venv and install lungsound and the model in the box into it; the work behind scripts/setup.

The standard library only, since it runs before anything is installed. Everything that decides whether the environment
is up to date stands in one stamp, .venv/lungsound.json; as long as it fits, a call costs a few hundredths of a second.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lungsound.json"
UNFINISHED = VENV / "lungsound.unfinished"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
KINDS = ("runtime", "dev")
TORCH_BUILDS = ("cpu", "cuda")
INPUTS = ("pyproject.toml", "box/pyproject.toml", "constraints.txt", "scripts/environment.py")
# Training, what people's own recordings need beside WAV, and the web page.
RUNTIME_EXTRAS = "train,av,serve"
# On all cores; pip would do it on one. Files that packages keep as data in another Python's syntax do not compile and
# need not.
COMPILE = "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2, workers=0)"


class SetupError(Exception):
    """One line that says what is wrong and what to do."""


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def read_stamp() -> dict[str, Any]:
    """What was installed by the last call that came to its end; empty when there was none."""
    try:
        stamp = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def torch_build(stamp: dict[str, Any]) -> str:
    """The build that the user asks for, else the one that is installed, else the one that fits the machine."""
    asked = os.environ.get("LUNGSOUND_TORCH", "")
    if asked and asked not in TORCH_BUILDS:
        raise SetupError(f"LUNGSOUND_TORCH is {asked!r}; it can be cpu or cuda, or unset to follow the machine")
    has_nvidia = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()
    return asked or stamp.get("torch") or ("cuda" if has_nvidia else "cpu")


def wanted_stamp(kind: str, stamp: dict[str, Any]) -> dict[str, Any]:
    """The stamp of an environment that is up to date. What holds the dev extra keeps it."""
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return {
        "root": str(ROOT),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "torch": torch_build(stamp),
        "inputs": digest.hexdigest(),
        "kind": "dev" if stamp.get("kind") == "dev" else kind,
    }


def is_editable() -> bool:
    """Whether .venv holds this folder and box/ themselves: `pip install .` by hand puts copies there that grow old."""
    notes = VENV.glob("lib/python*/site-packages/lungsound[-_]*/direct_url.json")
    installs = [json.loads(note.read_text()) for note in notes]
    return len(installs) == 2 and all(each.get("dir_info", {}).get("editable") for each in installs)


def run(*command: str | Path) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1"}
    environment.pop("PYTHONPATH", None)
    words = [str(part) for part in command]
    # The open lock goes to the child: should this process be killed, the lock is held until the child has ended too.
    if subprocess.run(words, cwd=ROOT, env=environment, close_fds=False).returncode != 0:
        raise SetupError(
            "could not install (see the lines above); the next call starts over. Without a network: docs/install.md"
        )


def make_venv(wanted: dict[str, Any]) -> None:
    """A fresh, empty .venv made by the interpreter under this one."""
    interpreter = getattr(sys, "_base_executable", sys.executable)
    say(f"making .venv with Python {wanted['python']} ({interpreter})")
    # Removed by us, not by venv --clear, so that the mark of an unfinished installation is never absent.
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != UNFINISHED:
            entry.unlink()
    run(interpreter, "-m", "venv", VENV)


def install(wanted: dict[str, Any]) -> None:
    """Install torch by itself, then everything else, at the versions of constraints.txt.

    Only torch's step looks at the index of CPU builds: its 2.13.0+cpu satisfies torch==2.13.0 and is preferred to the
    CUDA build of the same version. When that index is out of reach pip goes on without it after one retry.
    """
    pip = (PYTHON, "-m", "pip", "install", "--no-compile", "--constraint", "constraints.txt")
    extra_index: tuple[str, ...] = ()
    if wanted["torch"] == "cpu" and sys.platform == "linux":
        extra_index = ("--extra-index-url", CPU_INDEX, "--retries", "1", "--timeout", "15")
    say(f"installing torch ({wanted['torch']} build)")
    run(*pip, "--no-deps", *extra_index, "torch")
    if extra_index and not list(VENV.glob("lib/python*/site-packages/torch-*+cpu.dist-info")):
        say(f"no CPU build of torch to be had ({CPU_INDEX}): went on with the CUDA build, several gigabytes")
    say(f"installing lungsound ({wanted['kind']}) with the versions of constraints.txt; this takes a minute or two")
    run(*pip, "--quiet", "hatchling")
    target = ".[dev]" if wanted["kind"] == "dev" else f".[{RUNTIME_EXTRAS}]"
    run(*pip, "--quiet", "--no-build-isolation", "--editable", "./box", "--editable", target)
    run(PYTHON, "-c", COMPILE)


def set_up(kind: str) -> None:
    stamp = read_stamp()
    if stamp and stamp == wanted_stamp(kind, stamp) and is_editable():
        return
    with (ROOT / ".venv.lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is at work; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = read_stamp()
        wanted = wanted_stamp(kind, stamp)
        if stamp == wanted and is_editable():
            return
        is_kept = bool(stamp) and all(stamp.get(key) == wanted[key] for key in ("root", "python", "torch"))
        if VENV.exists() and any(VENV.iterdir()) and not stamp and not UNFINISHED.exists():
            raise SetupError(f"{VENV} was not made by this script; move it away, or delete it, and call again")
        VENV.mkdir(exist_ok=True)
        UNFINISHED.touch()
        STAMP.unlink(missing_ok=True)
        if not is_kept:
            make_venv(wanted)
        install(wanted)
        partial = STAMP.with_name(STAMP.name + ".partial")
        partial.write_text(json.dumps(wanted, indent=2) + "\n")
        partial.replace(STAMP)
        UNFINISHED.unlink()
        say("done; .venv is ready")


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else "dev"
    try:
        if kind not in KINDS or len(sys.argv) > 2:
            raise SetupError(f"usage: scripts/setup [{'|'.join(KINDS)}]; got {' '.join(sys.argv[1:])}")
        set_up(kind)
    except SetupError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        say("interrupted; the next call starts over")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
