"""What the package shows to the world is what it declares, documented, and cheap to import."""

import ast
import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import lungsound

ROOT = Path(__file__).resolve().parent.parent


def test_what_is_exported_is_what_is_declared() -> None:
    for name in lungsound.__all__:
        getattr(lungsound, name)
    exported = {
        name
        for name, value in vars(lungsound).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("lungsound")
    }
    assert exported <= set(lungsound.__all__)
    assert set(lungsound.__all__) <= set(dir(lungsound))
    assert list(lungsound.__all__) == sorted(set(lungsound.__all__))


def test_editors_and_type_checkers_are_told_the_same_names() -> None:
    (block,) = [node for node in ast.parse(Path(lungsound.__file__).read_text()).body if isinstance(node, ast.If)]
    told = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert told == lungsound._HOMES


def test_star_import_gives_exactly_what_is_declared() -> None:
    names: dict[str, object] = {}
    exec("from lungsound import *", names)
    assert set(names) - {"__builtins__"} == set(lungsound.__all__)


def docstrings(name: str, value: object) -> dict[str, str]:
    """The docstrings of a public object and of the public functions of a class, by name."""
    members: dict[str, object] = {name: value}
    if inspect.isclass(value):
        for key, member in vars(value).items():
            if not key.startswith("_") and isinstance(member, types.FunctionType | classmethod | staticmethod):
                members[f"{name}.{key}"] = member
    return {key: (member.__doc__ or "").strip() for key, member in members.items()}


def test_every_public_name_is_documented() -> None:
    """A dataclass without a docstring is given its signature as one, which does not count."""
    for name in lungsound.__all__:
        found = docstrings(name, getattr(lungsound, name))
        assert [key for key, text in found.items() if not text or text.startswith(f"{name}(")] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lungsound.no_such_name


def test_every_place_that_names_the_version_agrees() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert importlib.metadata.version("lungsound") == version == lungsound.__version__
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src" / "lungsound" / "py.typed").is_file()


def test_torch_is_imported_late() -> None:
    code = "import lungsound, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lungsound" in loaded
    assert not {"torch", "matplotlib", "scipy", "sklearn", "transformers", "tensorboardX"} & set(loaded)
