"""The attacks: a small share of each part, and that they see what they are for."""

import os
import shutil
import sys
import time
from pathlib import Path
from random import Random

import pytest

pytest.importorskip("av", reason="the attack on sound needs the extra 'av'")
if sys.platform != "linux":
    pytest.skip("attacks read /proc and drop Linux's capabilities", allow_module_level=True)

from attacks.__main__ import page
from attacks.ground import Ground
from attacks.watch import Fault, Row, Running, attempts, lungsound

from attacks import corrupt, disk, kills, service, sound, text
from lungsound.errors import LungsoundError
from tests.unit.serve.served import save_tiny

PARSERS = text.parsers()


@pytest.fixture
def ground(tmp_path: Path, synthetic_corpus_dir: Path) -> Ground:
    """The shared corpus, a model of random weights, and two recordings."""
    made = Ground(synthetic_corpus_dir, *(tmp_path / name for name in ("run", "other", "sounds", "cache")))
    for folder in (made.run, made.sounds):
        folder.mkdir()
    save_tiny(made.run / "model.safetensors")
    for path in sorted(made.corpus.glob("*.wav"))[:2]:
        shutil.copy(path, made.sounds)
    return made


@pytest.mark.parametrize("what", PARSERS)
def test_a_share_of_the_mutated_texts(what: str, tmp_path: Path) -> None:
    attempt = text.attack_parser(what, PARSERS[what], tmp_path, seed=0)
    for content in PARSERS[what].seeds:
        if content:
            (tmp_path / PARSERS[what].name).write_bytes(content)
            PARSERS[what].read(tmp_path / PARSERS[what].name)  # as it is, it is good
    for number in range(12):
        attempt(number)


@pytest.mark.parametrize("format", sound.FORMATS)
def test_a_share_of_the_mutated_sounds(format: str, tmp_path: Path) -> None:
    attempt = sound.attack_format(format, tmp_path, seed=0)
    for number in range(8):
        attempt(number)


def test_what_an_attempt_does_is_seen() -> None:
    def attempt(number: int) -> None:
        if number == 1:
            raise KeyError("a bug")
        if number == 2:
            raise Fault("silent", "another answer")
        if number == 3:
            os._exit(11)
        while number == 4:
            time.sleep(0.001)

    found = dict(attempts(attempt, range(6), limit_s=0.2))
    assert [None if fault is None else fault.kind for fault in found.values()] == [
        None,
        "internal",
        "silent",
        "traceback",
        "hung",
        None,
    ]


def test_what_a_command_does_is_seen(tmp_path: Path) -> None:
    def bug() -> None:
        raise KeyError("a bug")

    refused = Running(lungsound("rescore", tmp_path / "nothing.csv"), cache=tmp_path).end()
    assert (refused.code, refused.fault()) == (2, None)
    assert "nothing.csv" in refused.text
    assert str(Running(bug, cache=tmp_path).end().fault()).startswith("Traceback")
    killed = Running(lambda: time.sleep(60), cache=tmp_path).end(kill_after_s=0.1)
    assert (killed.code, killed.is_hung) == (None, False)


def test_each_way_to_corrupt_a_file_is_another_one(tmp_path: Path) -> None:
    other, found = tmp_path / "other", set[object]()
    other.write_bytes(b"another")
    for way in range(corrupt.NUM_WAYS):
        path = tmp_path / str(way)
        path.write_bytes(b'{"a": "good file of some length, in which a bit may be another one"}')
        corrupt.corrupt(path, way, Random(way), other)
        found.add("link" if path.is_symlink() else "folder" if path.is_dir() else path.read_bytes())
    assert len(found) == corrupt.NUM_WAYS - 1  # two are links


def test_a_killed_store_goes_on(ground: Ground, tmp_path: Path) -> None:
    job = kills.jobs(ground)["store of filter banks"]
    row = kills.attack_job("store of filter banks", job, tmp_path, seed=0, share=0.01)
    assert row.num_tries >= 1
    assert row.faults == []


@pytest.mark.slow
def test_a_killed_review_keeps_what_it_acknowledged(ground: Ground, tmp_path: Path) -> None:
    assert kills.attack_review(ground, tmp_path, seed=0, num_kills=2).faults == []


def test_a_full_disk_leaves_nothing_half_written(ground: Ground, tmp_path: Path) -> None:
    words = disk.commands(ground, tmp_path / "place")["synthesize"]
    full = Running(lungsound(*words), cache=tmp_path, max_file_bytes=1000).end()
    assert (full.code, full.fault()) == (2, None)
    assert not (tmp_path / "place" / "out").exists()


def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    words = ("data", "synthesize", tmp_path / "out", "--patients", 4)
    ended = Running(lungsound(*words), cache=tmp_path, is_without_privilege=True).end()
    assert (ended.code, ended.fault()) == (2, None)
    assert str(tmp_path / "out") in ended.text
    assert ".partial" not in ended.text


@pytest.mark.slow
def test_a_share_of_the_service(tmp_path: Path) -> None:
    assert [row.faults for row in service.attack(tmp_path, seed=0, share=0.05)] == [[], [], []]


@pytest.mark.slow
def test_a_share_of_what_is_damaged_and_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (corrupt, disk):
        (tmp_path / part.__name__).mkdir()
        monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / part.__name__ / "cache"))  # as `attacks.__main__` does
        assert [row.faults for row in part.attack(tmp_path / part.__name__, seed=0, share=0.1) if row.faults] == []


def test_the_page_has_a_row_for_each_attack() -> None:
    row = Row("text", "recipe")
    row.add(Fault("hung", "x"), where="input 3")
    row.judge(None, where="input 4")
    assert (row.num_tries, row.counts["hung"], len(row.faults)) == (1, 1, 1)
    written = page({"text": [[row.what, row.num_tries, *row.counts.values(), 0, "abc", "2026-12-01", "a processor"]]})
    assert "| text | recipe | 1 | 0 | 0 | 1 | 0 | 0 | 0 | abc | 2026-12-01 | a processor |" in written
    assert issubclass(PARSERS["recipe"].errors[0], LungsoundError)
