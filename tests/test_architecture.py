"""The shape of the package: arrows point down, the config stops at the builder, everything stays small.

Each rule is a function from a source tree to the list of what breaks it. Every rule runs on our own tree, and on a
tree with that very mistake planted in it.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
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
    "randomness": 0,
    "labels": 1,
    "page": 1,
    "config": 1,
    "audio": 2,
    "data": 3,
    "model": 4,
    "evaluation": 5,
    "training": 6,
    "answers": 6,
    "build": 7,
    "checkpoint": 7,
    "run_folder": 7,
    "table": 7,
    "watch": 8,
    "report_inputs": 8,
    "engines": 8,
    "scoring": 8,
    "recipe": 8,
    "app": 9,
    "serve": 9,
    "__main__": 9,
    # The root lists the public names and imports them late; nothing may import it.
    "": 10,
}
LOWEST_LAYER_WITH_CONFIG = LAYERS["build"]
MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 50
MAX_LINES = {"recipe.py": 100}
CATCH_ALL_NAMES = {"util", "utils", "misc", "helper", "helpers", "common", "tools"}

# Folders of the machine on which something was written, and addresses of package registries.
MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:work|root|home/\w+|tmp/dev)\b|pypi\.org|pythonhosted\.org|npmjs\.org")
TEXT_SUFFIXES = {"", ".py", ".md", ".toml", ".txt", ".cff", ".csv", ".json", ".sh", ".yml"}
TEXT_FOLDERS = ("src", "tests", "scripts", "docs", "recipes", "benchmarks", ".ci")


# ---- reading a tree ----


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


def config_leaks(package: Path) -> list[str]:
    return [
        f"{module}:{line} imports config"
        for module, target, line in imports(package)
        if part(target) == "config" and LAYERS.get(part(module), -1) < LOWEST_LAYER_WITH_CONFIG
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


def long_modules(package: Path) -> list[str]:
    found = []
    for path in sorted(package.rglob("*.py")):
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        limit = MAX_LINES.get(str(path.relative_to(package)), MAX_MODULE_LINES)
        if num_lines > limit:
            found.append(f"{path.relative_to(package)} has {num_lines} lines, more than {limit}")
    return found


def long_functions(package: Path) -> list[str]:
    """Functions over the budget, from the line of `def` (decorators not counted) to the last line of the body."""
    return [
        f"{name}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for name, tree in sources(package).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]


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
    config_leaks,
    import_cycles,
    busy_inits,
    missing_docstrings,
    catch_all_names,
    long_modules,
    long_functions,
    swallowed_exceptions,
    non_ascii_sources,
)
# The rules that hold for tests and scripts as well as for the package.
RULES_EVERYWHERE = (long_functions, swallowed_exceptions, non_ascii_sources)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert rule(PACKAGE) == []


@pytest.mark.parametrize("folder", ["tests", "scripts", "benchmarks"])
@pytest.mark.parametrize("rule", RULES_EVERYWHERE, ids=lambda rule: rule.__name__)
def test_what_stands_beside_the_package_keeps_the_rule(rule: Callable[[Path], list[str]], folder: str) -> None:
    assert rule(ROOT / folder) == []


# ---- the rules find what they are for ----

PLANTED = [
    (unlayered_modules, {"extras.py": '"""D."""'}, 1),
    (upward_imports, {"errors.py": "from lungsound.labels import LungSound"}, 1),
    (upward_imports, {"audio/fbank.py": "from lungsound import data"}, 1),
    (upward_imports, {"audio/fbank.py": "import lungsound.data.corpus"}, 1),
    (upward_imports, {"audio/fbank.py": "from ..data import corpus"}, 1),
    (upward_imports, {"audio/fbank.py": "def late():\n    from lungsound.data.corpus import Corpus"}, 1),
    (
        upward_imports,
        {"data/corpus.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lungsound.recipe"},
        1,
    ),
    (upward_imports, {"app/cli.py": "from lungsound import Predictor"}, 1),
    (upward_imports, {"app/cli.py": "import lungsound"}, 1),
    (upward_imports, {"app/cli.py": "from lungsound.data.corpus import Corpus\nfrom lungsound import errors"}, 0),
    (config_leaks, {"model/encoder.py": "from lungsound.config import ModelConfig"}, 1),
    (config_leaks, {"training/trainer.py": "from lungsound import config"}, 1),
    (config_leaks, {"build.py": "from lungsound.config import ModelConfig"}, 0),
    (import_cycles, {"data/a.py": "from lungsound.data import b", "data/b.py": "import lungsound.data.a"}, 2),
    (import_cycles, {"data/a.py": "def f():\n    from lungsound.data.a import g"}, 1),
    (import_cycles, {"data/a.py": "from lungsound.data import b", "data/b.py": "import lungsound.errors"}, 0),
    (busy_inits, {"data/__init__.py": '"""D."""\nfrom lungsound.data.corpus import Corpus'}, 1),
    (busy_inits, {"data/__init__.py": '"""D."""'}, 0),
    (busy_inits, {"__init__.py": '"""D."""\n__all__ = []'}, 0),
    (missing_docstrings, {"data/corpus.py": "import csv"}, 1),
    (catch_all_names, {"data/utils.py": '"""D."""'}, 1),
    (catch_all_names, {"data/utility_meters.py": '"""D."""'}, 0),
    (long_modules, {"data/corpus.py": "pass\n" * 351}, 1),
    (long_modules, {"data/corpus.py": "pass\n" * 350}, 0),
    (long_modules, {"recipe.py": "pass\n" * 101}, 1),
    (long_functions, {"data/corpus.py": "class C:\n    async def f(self):\n" + "        pass\n" * 50}, 1),
    (long_functions, {"data/corpus.py": "def f():\n" + "    pass\n" * 49}, 0),
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
    sound |= {"data/corpus.py", "app/__init__.py"}
    for name, text in {**dict.fromkeys(sorted(sound), '"""D."""'), **files}.items():
        path = tmp_path / "lungsound" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert len(rule(tmp_path / "lungsound")) == num_found


# ---- the repository ----


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
    declared = [*project["build-system"]["requires"], *project["project"]["dependencies"], *extras["dev"]]
    for requirement in map(Requirement, declared):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
