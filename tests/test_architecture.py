"""The shape of the package: arrows point down, nobody imports the command line, one training run is one page.

Each rule is a function from a source tree to the list of what breaks it. Every rule runs on our own tree, and on a
tree with that very mistake planted in it.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lungsound"

LAYERS = {
    "errors": 0,
    "axes": 0,
    "files": 0,
    "download": 1,
    "randomness": 0,
    "ranks": 0,
    "extras": 0,
    "storage": 0,
    "cluster": 0,
    "processor": 0,
    "progress": 0,
    "labels": 1,
    "config": 1,
    "page": 1,
    "audio": 2,
    "data": 3,
    "models": 4,
    "evaluation": 5,
    "training": 6,
    "recipe": 7,
    "inference": 8,
    "experiments": 9,
    "serve": 10,
    "cli": 11,
    "__main__": 12,
    # The root lists the public names and imports them late; nothing may import it.
    "": 13,
}
# Each is imported by nobody but these: what is for programs and people at the other end of a pipe is no library.
DOORS = {"cli": {"cli", "__main__"}, "serve": {"serve", "cli.serve"}}
RECIPE_LINES = 100  # one page
CATCH_ALL_NAMES = {"util", "utils", "misc", "helper", "helpers", "common", "tools"}

# Folders of the machine on which something was written, and addresses of package registries.
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:work|root|home/\w+|tmp/dev)\b|pypi\.org|pythonhosted\.org|npmjs\.org")
TEXT_SUFFIXES = {"", ".py", ".md", ".toml", ".txt", ".cff", ".csv", ".json", ".sh", ".yml"}
TEXT_FOLDERS = ("src", "tests", "scripts", "docs", "recipes", "benchmarks", "attacks", ".ci")


# ---- reading a tree ----


@cache
def sources(package: Path) -> dict[str, ast.Module]:
    """Dotted name inside the package ("" for the root, "data.icbhi", "app" for app/__init__.py) -> parsed source."""
    trees = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees


def imported_names(node: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[str, ...]]:
    """What one statement imports from lungsound: dotted names within the package, longest reading first."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == "lungsound":
                yield (alias.name.removeprefix("lungsound").lstrip("."),)
    elif isinstance(node, ast.ImportFrom):
        if node.level == 0:
            if (node.module or "").split(".")[0] != "lungsound":
                return
            base = (node.module or "").removeprefix("lungsound").lstrip(".")
        else:
            package = module.split(".") if is_package else module.split(".")[:-1]
            kept = [part for part in package if part][: len(package) - (node.level - 1)]
            base = ".".join([*kept, *([node.module] if node.module else [])])
        for alias in node.names:
            yield (f"{base}.{alias.name}".lstrip("."), base)


@cache
def imports(package: Path) -> list[tuple[str, str, int]]:
    """(importer, imported module, line), wherever the import stands: at the top, in a function, under TYPE_CHECKING."""
    trees = sources(package)
    packages = {name for name in trees if (package / name.replace(".", "/") / "__init__.py").exists()}
    edges = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            for readings in imported_names(node, module, is_package=module in packages):
                target = next((name for name in readings if name in trees), readings[-1])
                edges.append((module, target, getattr(node, "lineno", 0)))
    return edges


def part(module: str) -> str:
    return module.split(".")[0]


# ---- the rules ----


def unlayered_modules(package: Path) -> list[str]:
    return [f"{name}: not in the table of layers" for name in sources(package) if part(name) not in LAYERS]


def upward_imports(package: Path) -> list[str]:
    return [
        f"{module}:{line} imports {target or 'the root package'}, a higher layer"
        for module, target, line in imports(package)
        if LAYERS.get(part(target), -1) > LAYERS.get(part(module), 99)
    ]


def imported_doors(package: Path) -> list[str]:
    return [
        f"{module}:{line} imports {target}, which only {' and '.join(sorted(allowed))} may"
        for module, target, line in imports(package)
        if (allowed := DOORS.get(part(target))) and not {module, part(module)} & allowed
    ]


def import_cycles(package: Path) -> list[str]:
    """Modules that reach themselves."""
    graph: dict[str, set[str]] = {}
    for module, target, _ in imports(package):
        graph.setdefault(module, set()).add(target)

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        frontier = [start]
        while frontier:
            new = graph.get(frontier.pop(), set()) - found
            found |= new
            frontier.extend(new)
        return found

    return [
        f"{module} imports itself, through others or directly"
        for module in sorted(graph)
        if module in reachable(module)
    ]


def busy_inits(package: Path) -> list[str]:
    """Sub-packages whose __init__ holds more than a docstring."""
    return [
        f"{path.relative_to(package)} holds more than a docstring"
        for path in sorted(package.rglob("__init__.py"))
        if path.parent != package and len(ast.parse(path.read_text(encoding="utf-8")).body) != 1
    ]


def missing_docstrings(package: Path) -> list[str]:
    return [
        f"{name or 'the root'} has no docstring"
        for name, tree in sources(package).items()
        if not ast.get_docstring(tree)
    ]


def catch_all_names(package: Path) -> list[str]:
    return [f"{name}: a name that says nothing" for name in sources(package) if CATCH_ALL_NAMES & set(name.split("."))]


def long_recipe(package: Path) -> list[str]:
    num_lines = len((package / "recipe.py").read_text(encoding="utf-8").splitlines())
    return [f"recipe.py has {num_lines} lines, more than a page of {RECIPE_LINES}"] if num_lines > RECIPE_LINES else []


def swallowed_exceptions(package: Path) -> list[str]:
    """Bare `except:`, and handlers that do nothing."""
    return [
        f"{name}:{node.lineno} {'catches everything' if node.type is None else 'drops an exception'}"
        for name, tree in sources(package).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or all(
                isinstance(statement, ast.Pass)
                or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
                for statement in node.body
            )
        )
    ]


def non_ascii_sources(package: Path) -> list[str]:
    return [
        f"{path.relative_to(package)}:{number} is not ASCII"
        for path in sorted(package.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if not line.isascii()
    ]


RULES: tuple[Callable[[Path], list[str]], ...] = (
    unlayered_modules,
    upward_imports,
    imported_doors,
    import_cycles,
    busy_inits,
    missing_docstrings,
    catch_all_names,
    long_recipe,
    swallowed_exceptions,
    non_ascii_sources,
)
# The rules that hold for tests and scripts as well as for the package.
RULES_EVERYWHERE = (swallowed_exceptions, non_ascii_sources)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert rule(PACKAGE) == []


@pytest.mark.parametrize("folder", ["tests", "scripts", "benchmarks", "attacks"])
@pytest.mark.parametrize("rule", RULES_EVERYWHERE, ids=lambda rule: rule.__name__)
def test_what_stands_beside_the_package_keeps_the_rule(rule: Callable[[Path], list[str]], folder: str) -> None:
    assert rule(ROOT / folder) == []


# ---- the rules find what they are for ----

PLANTED = [
    (unlayered_modules, {"surplus.py": '"""D."""'}, 1),
    (upward_imports, {"errors.py": "from lungsound.labels import LungSound"}, 1),
    (upward_imports, {"audio/filter_bank.py": "from lungsound import data"}, 1),
    (upward_imports, {"audio/filter_bank.py": "import lungsound.data.corpus"}, 1),
    (upward_imports, {"audio/filter_bank.py": "from ..data import corpus"}, 1),
    (upward_imports, {"audio/filter_bank.py": "def late():\n    from lungsound.data.corpus import Corpus"}, 1),
    (
        upward_imports,
        {"data/corpus.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lungsound.recipe"},
        1,
    ),
    (upward_imports, {"cli/main.py": "from lungsound import Predictor"}, 1),
    (upward_imports, {"cli/main.py": "import lungsound"}, 1),
    (upward_imports, {"cli/main.py": "from lungsound.data.corpus import Corpus\nfrom lungsound import errors"}, 0),
    (imported_doors, {"data/a.py": "def f():\n    from lungsound.cli.main import main"}, 1),
    (imported_doors, {"cli/predict.py": "from lungsound.serve import server"}, 1),
    (
        imported_doors,
        {"cli/serve.py": "from lungsound.serve import server", "serve/a.py": "import lungsound.serve.b"},
        0,
    ),
    (imported_doors, {"__main__.py": "from lungsound.cli.main import main", "cli/a.py": "import lungsound.cli.b"}, 0),
    (import_cycles, {"data/a.py": "from lungsound.data import b", "data/b.py": "import lungsound.data.a"}, 2),
    (import_cycles, {"data/a.py": "def f():\n    from lungsound.data.a import g"}, 1),
    (import_cycles, {"data/a.py": "from lungsound.data import b", "data/b.py": "import lungsound.errors"}, 0),
    (busy_inits, {"data/__init__.py": '"""D."""\nfrom lungsound.data.corpus import Corpus'}, 1),
    (busy_inits, {"data/__init__.py": '"""D."""'}, 0),
    (busy_inits, {"__init__.py": '"""D."""\n__all__ = []'}, 0),
    (missing_docstrings, {"data/corpus.py": "import csv"}, 1),
    (catch_all_names, {"data/utils.py": '"""D."""'}, 1),
    (catch_all_names, {"data/utility_meters.py": '"""D."""'}, 0),
    (long_recipe, {"recipe.py": "pass\n" * 101}, 1),
    (long_recipe, {"recipe.py": "pass\n" * 100}, 0),
    (swallowed_exceptions, {"data/corpus.py": "try:\n    f()\nexcept OSError:\n    pass"}, 1),
    (swallowed_exceptions, {"data/corpus.py": "try:\n    f()\nexcept OSError:\n    ..."}, 1),
    (swallowed_exceptions, {"data/corpus.py": "try:\n    f()\nexcept:\n    g()"}, 1),
    (swallowed_exceptions, {"data/corpus.py": "try:\n    f()\nexcept OSError:\n    g()"}, 0),
    (non_ascii_sources, {"data/corpus.py": "# 10 \N{MICRO SIGN}s"}, 1),
]


@pytest.mark.parametrize(("rule", "files", "num_found"), PLANTED)
def test_the_rule_finds_a_planted_mistake(
    rule: Callable[[Path], list[str]], files: dict[str, str], num_found: int, tmp_path: Path
) -> None:
    sound = {"__init__.py", "errors.py", "labels.py", "recipe.py", "config.py", "audio/__init__.py", "data/__init__.py"}
    sound |= {"data/corpus.py", "cli/__init__.py", "cli/main.py", "serve/__init__.py", "serve/server.py"}
    for name, text in {**dict.fromkeys(sorted(sound), '"""D."""'), **files}.items():
        path = tmp_path / "lungsound" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert len(rule(tmp_path / "lungsound")) == num_found


# ---- the repository ----


def test_the_picture_of_the_floors_is_that_of_the_code() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / "floors", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def machine_paths(root: Path) -> list[str]:
    """Lines that name a folder of somebody's machine or a registry's address."""
    files = [path for path in root.iterdir() if path.is_file() and path.suffix]
    files += [path for folder in TEXT_FOLDERS for path in (root / folder).rglob("*") if path.is_file()]
    return [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in sorted(files)
        if path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]


def test_no_text_names_a_path_of_somebodys_machine(tmp_path: Path) -> None:
    assert machine_paths(ROOT) == []
    text = "a /work b\n/root/x\nsee /home/ann/x\n'/tmp/dev/y'\nnetwork/work is fine\nPATH/to/work\n/homes\n/workers\n"
    (tmp_path / "notes.md").write_text(text)
    assert [line.split(":")[1] for line in machine_paths(tmp_path)] == ["1", "2", "3", "4"]


def test_constraints_pin_every_dependency_to_a_version_that_fits() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pairs}
    assert not [version for version in pins.values() if not re.fullmatch(r"[0-9.]+", version)]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    own = f"{project['project']['name']}["  # an extra that takes in another
    named = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *extras["train"],
        *extras["dev"],
    ]
    declared = [each for each in named if not each.startswith(own)]
    for requirement in map(Requirement, declared):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
