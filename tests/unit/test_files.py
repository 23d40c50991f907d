"""Atomic writes, JSON, and short names of paths."""

import gzip
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lungsound.errors import DataError, SettingsError
from lungsound.files import (
    as_text,
    first_names,
    number,
    parse_json,
    parse_toml,
    read_text,
    short_names,
    to_json,
    write_json,
    write_text,
    written_whole,
)


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
    with pytest.raises(TypeError), written_whole(path) as partial:
        partial.write_bytes("no bytes")  # type: ignore[arg-type]
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


DEEP_KEY = ".".join("a" * 10_000)
DIGITS = "9" * 5_000


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (parse_json, "[" * 100_000, "nested deeper"),
        (parse_json, "[" * 40 + "]" * 40, "nested deeper"),
        (parse_json, DIGITS, "digits"),
        (parse_json, "[1e999999999999999999]", "no number"),
        (parse_json, '{"a": NaN}', "NaN"),
        (parse_json, '{"a":\n b}', "line 2: .*column 2"),
        (parse_json, "", "line 1"),
        (parse_toml, f"{DEEP_KEY} = 1", "line 1: a key of more than"),
        (parse_toml, f"x = {{ {DEEP_KEY} = 1 }}", "a key of more than"),
        (parse_toml, f"y = 1\n[{DEEP_KEY}]", "line 2: a key of more than"),
        (parse_toml, "x = " + "[" * 3_000, "nested deeper"),
        (parse_toml, "x = " + "[" * 40 + "]" * 40, "nested deeper"),
        (parse_toml, f"x = {DIGITS}", "digits"),
        (parse_toml, "a = 1\nb\nc = 2", "line 2"),
    ],
)
def test_text_without_measure_is_refused_at_once(read: Callable[..., object], text: str, reason: str) -> None:
    start_s = time.process_time()
    with pytest.raises(SettingsError, match=rf"given: .*{reason}|given, .*{reason}"):
        read(text, SettingsError, path=Path("given"))
    assert time.process_time() - start_s < 1  # tomllib alone takes seconds for the deep key


def test_text_of_the_usual_kind_is_read() -> None:
    assert parse_json('{"a": [1, 0.5, -1e-3, true, null]}', DataError, path=Path()) == {
        "a": [1, 0.5, -0.001, True, None]
    }
    assert math.isnan(parse_json("NaN", DataError, path=Path(), is_nan_allowed=True))
    words = ". ".join(["Words"] * 100)
    assert parse_toml(f'a.b.c = "{words}"', DataError) == {"a": {"b": {"c": words}}}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("normal".encode("utf-16"), "UTF-16"),
        ("normal".encode("utf-16-le"), "UTF-16"),
        ("normal".encode("utf-16-be"), "UTF-16"),
        ("normal".encode("utf-32"), "UTF-32"),
        (b"normal\nM\xfcller", "line 2: no text in UTF-8, from byte 2 of the line"),
    ],
)
def test_another_encoding_is_named_with_its_place(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.txt.*{reason}"):
        read_text(tmp_path / "a.txt", DataError)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffnormal".encode())
    assert read_text(tmp_path / "a.txt", DataError) == "normal"


def test_a_file_of_any_length_is_read_to_the_limit_alone(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x" * 1000))
    assert len(read_text(tmp_path / "a.gz", DataError, max_bytes=1000)) == 1000
    for path in (tmp_path / "a.gz", Path("/dev/zero")):
        with pytest.raises(DataError, match="more than 999 bytes"):
            read_text(path, DataError, max_bytes=999)
    with pytest.raises(DataError, match=r"none\.txt: cannot be read"):
        read_text(tmp_path / "none.txt", DataError)


def test_a_number_is_written_as_the_field_writes_it() -> None:
    assert [number(text) for text in ("0.579", "-3", "+1", ".5", "5.", "1e-3")] == [0.579, -3, 1, 0.5, 5, 0.001]
    for text in ("1_000", "\u0663", "nan", "inf", "1e999", "0x1", "1e1_0", " 1", "", DIGITS):
        with pytest.raises(ValueError, match="is no number"):
            number(text)


def test_bytes_of_a_name_that_are_no_utf_8_are_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert as_text(name) == r"caf\udce9"
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == r"caf\udce9"
