"""Fixtures for every test: where golden numbers and real recordings lie, and a small synthetic corpus."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SEE = "see docs/install.md"

# Read when torch, numpy and the like are first imported, which is after this file.
if "PYTEST_XDIST_WORKER" in os.environ:
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
# No test asks the network for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shared", metavar="DIR", help="golden numbers, real recordings, weights (default: ../shared)")
    parser.addoption("--data", metavar="DIR", help="a tree of ICBHI or SPRSound for the tests on real recordings")


def pytest_configure(config: pytest.Config) -> None:
    for option in ("--shared", "--data"):
        given = config.getoption(option)
        if given and not Path(given).is_dir():
            raise pytest.UsageError(f"{option} {given}: no such folder")
    data = config.getoption("--data")
    if data and icbhi_tree(Path(data)) is None and sprsound_tree(Path(data)) is None:
        raise pytest.UsageError(
            f"--data {data}: needs recordings beside their .txt (ICBHI), or train_json and train_wav (SPRSound)"
        )


def icbhi_tree(folder: Path) -> Path | None:
    """The folder itself or its ICBHI_final_database, whichever holds annotations named as ICBHI names them."""
    for tree in (folder / "ICBHI_final_database", folder):
        if any(tree.glob("[0-9][0-9][0-9]_*_*_*_*.txt")):
            return tree
    return None


def sprsound_tree(folder: Path) -> Path | None:
    return folder if (folder / "train_json").is_dir() else None


def shared_path(config: pytest.Config, name: str, what: str) -> Path:
    """`name` in the shared folder; skips the test, saying `what` was missing, when it is not there."""
    shared = config.getoption("--shared")
    path = (Path(shared) if shared else ROOT.parent / "shared") / name
    if not path.exists():
        pytest.skip(f"{what} not found at {Path(shared or '../shared') / name}; {SEE}")
    return path


@pytest.fixture(scope="session")
def shared_dir(pytestconfig: pytest.Config) -> Path:
    """The folder of golden numbers, real recordings and weights."""
    return shared_path(pytestconfig, "", "golden numbers, real recordings and weights")


@pytest.fixture(scope="session")
def golden_dir(pytestconfig: pytest.Config) -> Path:
    return shared_path(pytestconfig, "golden", "golden numbers")


@pytest.fixture(scope="session")
def icbhi_dir(pytestconfig: pytest.Config) -> Path:
    """Recordings of ICBHI 2017 beside their annotations: `--data`, if it is that, else the shared part of it."""
    given = pytestconfig.getoption("--data")
    tree = icbhi_tree(Path(given)) if given else None
    return tree or shared_path(pytestconfig, "data/icbhi/ICBHI_final_database", "recordings of ICBHI 2017")


@pytest.fixture(scope="session")
def sprsound_dir(pytestconfig: pytest.Config) -> Path:
    """The official tree of SPRSound 2022: `--data`, if it is that, else the shared one."""
    given = pytestconfig.getoption("--data")
    tree = sprsound_tree(Path(given)) if given else None
    return tree or shared_path(pytestconfig, "data/sprsound", "recordings of SPRSound 2022")


@pytest.fixture(scope="session")
def deit_tiny_path(pytestconfig: pytest.Config) -> Path:
    return shared_path(pytestconfig, "weights/deit_tiny_patch16_224.safetensors", "DeiT-Tiny weights")


@pytest.fixture(scope="session")
def mn04_path(pytestconfig: pytest.Config) -> Path:
    return shared_path(pytestconfig, "weights/mn04_as_mAP_432.pt", "EfficientAT mn04 weights")


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the cache of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGSOUND_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def synthetic_corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic corpus of eight patients, made once and shared by all workers: read it, do not change it."""
    from lungsound.data.synthetic import synthesize

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    corpus = base / "synthetic"
    with (base / "synthetic.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not corpus.is_dir():
            partial = base / "synthetic.partial"
            synthesize(partial, num_patients=8, seed=0)
            partial.rename(corpus)
    return corpus
