"""Names of paths in print: short, and different for different paths."""

from pathlib import Path

import pytest

from lungsound.files import short_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (("r/ce/seed0", "r/cl/seed0"), ("ce", "cl")),
        (("r/ce/seed0", "r/ce/seed1"), ("seed0", "seed1")),
        (("a/ce", "b/cl"), ("a/ce", "b/cl")),
        (("a.csv", "b/a.csv"), ("a.csv", "b/a.csv")),
        (("a/ce", "a/ce"), ("ce", "ce")),
        (("a/ce", "a/b/../ce"), ("ce", "ce")),
        (("corpus", "o2/corpus", "o3/corpus"), ("corpus", "o2/corpus", "o3/corpus")),
        (("data/icbhi", "data/far/sprsound"), ("icbhi", "far/sprsound")),
        (("x/a/c", "y/a/c", "z/b"), ("x/a/c", "y/a/c", "z/b")),
        (("only/one",), ("one",)),
    ],
)
def test_names_are_what_paths_differ_in(paths: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert short_names([Path(path) for path in paths]) == names


def test_a_path_of_blanks_and_dots_has_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_names([Path(), tmp_path.parent / "other"]) == (tmp_path.name, "other")
