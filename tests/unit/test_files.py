"""Atomic writes, JSON, and short names of paths."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from lungsound.files import first_names, short_names, to_json, write_json, write_text, written_whole


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_file_appears_when_its_block_ends(is_shared: bool, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with written_whole(path, is_shared=is_shared) as partial:
        partial.write_bytes(b"half")
        assert not path.exists()
    assert [each.name for each in path.parent.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"half"


def test_after_an_error_the_old_file_stands_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old \u00e9")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800 is no character")
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text(encoding="utf-8") == "old \u00e9"


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.txt.partial").write_text("half of it")
    write_text(tmp_path / "a.txt", "all")
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_standard_whatever_the_numbers_are(tmp_path: Path) -> None:
    values = {
        "nan": math.nan,
        "list": (1, 2.5, [math.inf, -math.inf]),
        "numpy": {"array": np.array([[0.1, np.nan]]), "number": np.float32(0.5), "count": np.int64(3)},
        "text": "\u00e9",
        "flag": True,
        "nothing": None,
    }
    write_json(tmp_path / "a.json", values)
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "nan": None,
        "list": [1, 2.5, [None, None]],
        "numpy": {"array": [[0.1, None]], "number": 0.5, "count": 3},
        "text": "\u00e9",
        "flag": True,
        "nothing": None,
    }
    assert to_json({"a": [np.float64(0.1), 1]}, indent=None) == '{"a": [0.1, 1]}'


def test_what_json_does_not_know_is_an_error() -> None:
    with pytest.raises(TypeError, match="Path"):
        to_json({"path": Path("a")}, indent=None)


def test_names_are_what_paths_differ_in() -> None:
    for paths, names in (
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
    ):
        assert short_names([Path(path) for path in paths]) == names


def test_a_path_of_blanks_and_dots_has_the_name_of_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert short_names([Path(), tmp_path.parent / "other"]) == (tmp_path.name, "other")


def test_the_first_names_stand_for_all() -> None:
    assert first_names(["a", "b"]) == "a, b"
    assert first_names(tuple("abcde")) == "a, b, c and 2 more"
    assert first_names("abcde", 5) == "a, b, c, d, e"
