"""Facts of files: read once, read again after any change, kept beside what other processes write."""

import hashlib
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lungsound.audio.io import AudioInfo, probe
from lungsound.data import file_facts
from lungsound.data.file_facts import FileFacts
from lungsound.errors import AudioError


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.arange(800) / 1000, 4000, subtype="PCM_16")
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often headers are read and files hashed; files are trusted however young they are."""
    found: Counter[str] = Counter()

    def counted(name: str) -> None:
        before = getattr(file_facts, name)

        def call(path: Path) -> object:
            found[name] += 1
            return before(path)

        monkeypatch.setattr(file_facts, name, call)

    counted("probe")
    counted("hash_file")
    monkeypatch.setattr(file_facts, "MIN_AGE_S", 0.0)
    return found


def test_what_is_known_is_right_and_read_once(sound: Path, tmp_path: Path, calls: Counter[str]) -> None:
    facts = FileFacts(tmp_path / "facts")
    for _ in range(3):
        assert facts.audio_info(sound) == AudioInfo(800, 4000, 1) == probe(sound)
        assert facts.sha256([sound, sound]) == [hashlib.sha256(sound.read_bytes()).hexdigest()] * 2
    assert calls == {"probe": 1, "hash_file": 2}  # twice in the first call, which names it twice


def test_another_process_knows_what_was_saved(sound: Path, tmp_path: Path, calls: Counter[str]) -> None:
    first = FileFacts(tmp_path / "facts")
    known = (first.audio_info(sound), first.sha256([sound]))
    assert FileFacts(tmp_path / "facts").sha256([sound]) == known[1]
    assert calls["hash_file"] == 2
    first.save()
    calls.clear()
    second = FileFacts(tmp_path / "facts")
    assert (second.audio_info(sound), second.sha256([sound])) == known
    assert not calls


def rewritten(path: Path) -> None:
    """Other bytes, as many, with the time of modification set back."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    time.sleep(0.02)  # more than one tick of the clock of a file system
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes()[:-2] + b"ab")
    other.replace(path)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"ab")


@pytest.mark.parametrize("change", [rewritten, replaced, longer])
def test_a_changed_file_is_read_again(change, sound: Path, tmp_path: Path, calls: Counter[str]) -> None:
    facts = FileFacts(tmp_path / "facts")
    facts.audio_info(sound)
    before = facts.sha256([sound])
    change(sound)
    facts.audio_info(sound)
    after = facts.sha256([sound])
    assert after == [hashlib.sha256(sound.read_bytes()).hexdigest()] != before
    assert calls == {"probe": 2, "hash_file": 2}


def test_a_file_that_changed_moments_ago_is_not_trusted(
    sound: Path, tmp_path: Path, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_facts, "MIN_AGE_S", 3600.0)
    facts = FileFacts(tmp_path / "facts")
    for _ in range(2):
        facts.sha256([sound])
    facts.save()
    assert calls["hash_file"] == 2
    assert not (tmp_path / "facts").exists()


@pytest.mark.usefixtures("calls")
def test_a_file_that_changes_while_it_is_read_is_not_trusted(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = FileFacts(tmp_path / "facts")
    before = file_facts.hash_file

    def slow(path: Path) -> str:
        found = before(path)
        longer(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(file_facts, "hash_file", slow)
        facts.sha256([sound])
    assert facts.sha256([sound]) == [hashlib.sha256(sound.read_bytes()).hexdigest()]


def test_two_that_save_keep_what_both_found(sound: Path, tmp_path: Path, calls: Counter[str]) -> None:
    other = sound.with_name("b.wav")
    other.write_bytes(sound.read_bytes())
    one, two = FileFacts(tmp_path / "facts"), FileFacts(tmp_path / "facts")
    one.audio_info(sound)
    two.audio_info(other)
    one.save()
    two.save()
    calls.clear()
    third = FileFacts(tmp_path / "facts")
    third.audio_info(sound)
    third.audio_info(other)
    assert not calls
    assert len(list((tmp_path / "facts").iterdir())) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "other"}', "null"])
def test_a_damaged_file_of_facts_is_as_good_as_none(
    content: str, sound: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    first = FileFacts(tmp_path / "facts")
    first.audio_info(sound)
    first.save()
    (file,) = (tmp_path / "facts").iterdir()
    kept = file.read_text()
    file.write_text(content)
    second = FileFacts(tmp_path / "facts")
    assert second.audio_info(sound) == AudioInfo(800, 4000, 1)
    assert calls["probe"] == 2
    second.save()
    assert file.read_text() == kept


def test_errors_are_those_of_reading_and_are_not_remembered(tmp_path: Path, calls: Counter[str]) -> None:
    facts = FileFacts(tmp_path / "facts")
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    for _ in range(2):
        with pytest.raises(AudioError, match=r"bad\.wav"):
            facts.audio_info(tmp_path / "bad.wav")
        with pytest.raises(AudioError, match="No such file"):
            facts.audio_info(tmp_path / "none.wav")
        with pytest.raises(FileNotFoundError):
            facts.sha256([tmp_path / "none.wav"])
    assert calls["probe"] == 4


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(sound: Path, tmp_path: Path, calls: Counter[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    facts = FileFacts(tmp_path / "file" / "facts")
    assert facts.audio_info(sound) == AudioInfo(800, 4000, 1)
    facts.save()
    assert calls["probe"] == 1
