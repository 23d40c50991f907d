"""A file is there whole or not at all."""

from pathlib import Path

import pytest

from lungsound.files import write_text, written_whole


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
