"""Atomic writes, JSON, and short names of paths."""

import contextlib
import gzip
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lungsound import files
from lungsound.errors import DataError, SettingsError
from lungsound.files import (
    as_text,
    first_names,
    number,
    own_folder,
    parse_json,
    parse_toml,
    read_record,
    read_text,
    remove_folder,
    require_room,
    short_names,
    to_json,
    write_json,
    write_record,
    write_text,
    written_folder,
    written_together,
    written_whole,
)

# Begins a file, a folder and files of a folder, and is killed.
KILLED = """
import os, sys
from pathlib import Path
from lungsound.files import written_folder, written_together, written_whole
here = Path(sys.argv[1])
with written_whole(here / "a.txt") as one, written_folder(here / "a") as two, written_together(here / "b") as three:
    for path in (one, two / "half", three / "half"):
        path.write_text("half")
    os._exit(9)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with written_whole(path) as partial:
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


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_has_the_rights_that_any_new_file_has(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "mine")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / f".{'0' * 16}.partial").symlink_to(mine)
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False).returncode == 9
    assert len([name for name in names(tmp_path) if name.endswith(".partial")]) == 3
    files._remove_left.cache_clear()
    with written_whole(tmp_path / "b.txt") as partial:
        assert [path for path in tmp_path.glob(".*.partial") if not path.is_symlink()] == [partial]
        files._remove_left.cache_clear()
        write_text(tmp_path / "c.txt", "of another")
        partial.write_text("still there")
    with written_together(tmp_path / "b") as staging:
        (staging / "whole").write_text("whole")
    assert names(tmp_path) == [f".{'0' * 16}.partial", "b", "b.txt", "c.txt", "mine.txt"]
    assert names(tmp_path / "b") == ["whole"]
    assert mine.read_text() == "mine"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # is multi-threaded, use of fork()
def test_a_forked_process_removes_nothing_of_its_parent() -> None:
    block = files.private_folder()
    folder = block.__enter__()
    if (child := os.fork()) == 0:
        block.__exit__(None, None, None)
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.is_dir()
    block.__exit__(None, None, None)
    assert not folder.exists()


def test_a_private_folder_is_removed_when_its_block_ends_or_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False).returncode == 9
    (tmp_path / f".{'0' * 16}.partial").symlink_to(tmp_path.parent)
    (tmp_path / "other").mkdir()
    with files.private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert names(tmp_path) == sorted([f".{'0' * 16}.partial", folder.name, "b", "other"])
        files._remove_left.cache_clear()
        with files.private_folder() as another:
            assert folder.is_dir()
            assert another != folder
    assert names(tmp_path) == [f".{'0' * 16}.partial", "b", "other"]


def test_a_folder_that_another_process_takes_for_left_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process comes between the making of the folder and its lock."""
    made, mkdir = [], Path.mkdir

    def taken(path: Path, *args: int, **options: bool) -> None:
        mkdir(path, *args, **options)
        if path.name.endswith(".partial"):
            made.append(path)
            if len(made) == 1:
                path.rmdir()

    monkeypatch.setattr(Path, "mkdir", taken)
    with files.private_folder(tmp_path) as folder:
        assert made[1:] == [folder]
        assert folder.is_dir()


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    left = tmp_path / f".{'0' * 16}.partial"
    left.write_text("maybe being written")
    write_text(tmp_path / "a.txt", "ours")
    assert names(tmp_path) == [left.name, "a.txt"]


def test_no_link_is_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for name in ("a.txt", "a.txt.partial", f"a.txt.{os.getpid()}.partial"):
        (tmp_path / name).symlink_to(mine)
    write_text(tmp_path / "a.txt", "ours")
    assert mine.read_text() == "mine"
    assert not (tmp_path / "a.txt").is_symlink()
    with written_folder(tmp_path / "folder") as one, written_folder(tmp_path / "folder") as two:
        assert one != two


def test_a_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(SettingsError, match=r"a\.csv is a folder where a file is to be written"):
        write_text(tmp_path / "a.csv", "x")
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match="cannot be made a folder"):
            require_room(out)
    assert require_room(tmp_path / "new" / "one").is_dir()


def test_a_folder_of_ours_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "review").symlink_to("elsewhere")
    with pytest.raises(SettingsError, match="is a link"):
        own_folder(tmp_path, "review")
    assert own_folder(tmp_path, "other") == tmp_path / "other"


def test_of_several_that_write_one_file_each_writes_its_own(tmp_path: Path) -> None:
    def write(letter: str) -> None:
        for _ in range(20):
            write_text(tmp_path / "a.txt", letter * 10_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a.txt").read_text()
    assert len(content) == 10_000
    assert len(set(content)) == 1
    assert names(tmp_path) == ["a.txt"]


def test_files_move_up_together_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "out" / "mine.txt", "mine")
    with written_together(tmp_path / "out") as staging:
        (staging / "a").write_text("whole")
        (staging / "pieces").mkdir()
    with contextlib.suppress(KeyboardInterrupt), written_together(tmp_path / "out") as staging:
        (staging / "a").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path / "out") == ["a", "mine.txt"]
    assert (tmp_path / "out" / "a").read_text() == "whole"


def test_a_folder_goes_at_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("c")
    remove_folder(tmp_path / "a")
    assert names(tmp_path) == []


def test_a_sealed_file_is_read_only_as_it_was_written(tmp_path: Path) -> None:
    path, values = tmp_path / "report.json", {"score": 0.5, "notes": ["a"]}
    files.write_json(path, values, is_sealed=True)
    content = path.read_bytes()
    assert files.read_json(path, DataError).items() >= values.items()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            found = files.read_json(path, DataError)
            assert found.items() >= values.items(), place  # what was changed is the name of the seal, or no value
    path.write_bytes(content.replace(b"0.5", b"0.6"))
    with pytest.raises(DataError, match="not as it was written"):
        files.read_json(path, DataError)
    files.write_json(path, values)
    assert files.read_json(path, DataError) == values


def test_a_record_is_given_back_only_as_it_was_written_and_for_what_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert read_record(path, made_for="a") is None
    write_record(path, {"\u00e9": [1, 2.5]}, made_for="a")
    assert read_record(path, made_for="a") == {"\u00e9": [1, 2.5]}
    assert read_record(path, made_for="b") is None
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert read_record(path, made_for="a") is None, place
    for other in (b"", b"{}", b"[]", b"null", content[:-3], content + content, b"\xff" * 80):
        path.write_bytes(other)
        assert read_record(path, made_for="a") is None, other


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
        (parse_json, '[{"label": 1, "a": 2, "label": 3}]', "'label' stands twice"),
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


def test_what_was_given_is_told_in_part_where_it_is_long() -> None:
    message = str(DataError(f"first {'x' * 100_000} last", path=Path("a.csv"), line=3))
    assert len(message) < 2_100
    assert message.startswith("a.csv, line 3: first x")
    assert message.endswith("x last")
