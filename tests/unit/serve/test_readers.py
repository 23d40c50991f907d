"""Processes that read: their limits, their errors, and their end when nobody waits."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from lungsound.config import MAX_CYCLES
from lungsound.errors import AnnotationError, SettingsError
from lungsound.inference.predictor import Predictor
from lungsound.serve import readers
from lungsound.serve.limits import Limits, Refusal
from tests.unit.serve.served import sound
from tests.unit.serve.test_limits import wait_for

LIMITS = Limits(reader_s=1, reader_mb=256)


def test_a_recording_is_loaded_as_it_is_here(tiny: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound(duration_s=9.0))
    (tmp_path / "a.txt").write_text("0.5 2 0 0\n1.5 4 1 0\n")
    expected, loaded = (
        tiny.load_recording(tmp_path / "a.wav"),
        readers.load_apart(tmp_path / "a.wav", tiny, Limits()),
    )
    assert (loaded.cycles_from, loaded.quality, loaded.duration_s) == ("annotation", expected.quality, 9.0)
    for own, here in zip(loaded.stretches, expected.stretches, strict=True):
        assert (own.start_s, own.end_s, own.is_silent) == (here.start_s, here.end_s, here.is_silent)
        np.testing.assert_allclose(own.sound.waveform, here.sound.waveform, atol=1e-6)


def test_cycles_that_overlap_take_the_memory_of_one_recording(tiny: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound(duration_s=9.0))
    (tmp_path / "a.txt").write_text("0 9 0 0\n0.5 9 0 0\n1.5 4 1 0\n")
    loaded = readers.load_apart(tmp_path / "a.wav", tiny, Limits())
    wholes = {id(each.sound.waveform.base) for each in loaded.stretches}
    assert (len(loaded.stretches), len(wholes)) == (3, 1)


def test_a_folder_that_holds_no_socket_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(readers.forkserver, "ensure_running", too_long)
    with pytest.raises(SettingsError, match=r"path too long.*TMPDIR"):
        readers.start.__wrapped__()


def test_more_cycles_than_anybody_marks_are_refused_alike(tiny: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound())
    lines = (f"{n % 1000 / 1000:.3f} {1 + n // 1000 / 10:.1f} 0 0\n" for n in range(MAX_CYCLES + 1))
    (tmp_path / "a.txt").write_text("".join(lines))
    message = f"line {MAX_CYCLES + 1}: too many cycles: a recording has at most {MAX_CYCLES}"
    with pytest.raises(Refusal, match=f"the annotation {message}") as refused:
        readers.load_apart(tmp_path / "a.wav", tiny, Limits())
    assert refused.value.kind == "unusable"
    with pytest.raises(AnnotationError, match=message):
        tiny.load_recording(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("function", "argument", "kind", "message"),
    [
        (bytearray, 10**9, "too large", "more than 256 MB"),
        (os._exit, 3, "unusable", r"exit code 3"),
        (os.kill, os.abort, "internal", ""),
    ],
)
def test_what_takes_too_much_is_refused(function, argument, kind: str, message: str) -> None:
    if kind == "internal":
        with pytest.raises(RuntimeError, match="internal error"):
            readers.run_apart(function, argument, limits=LIMITS)
    else:
        with pytest.raises(Refusal, match=message) as refused:
            readers.run_apart(function, argument, limits=LIMITS)
        assert refused.value.kind == kind
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_what_takes_too_long_is_refused() -> None:
    with pytest.raises(Refusal, match="more than 1 s"):
        readers.run_apart(sum, range(10**12), limits=LIMITS)
    with pytest.raises(Refusal, match="more than 1 s"):
        readers.run_apart(time.sleep, 600, limits=Limits(reader_s=1, timeout_s=1))


def test_nothing_is_read_for_who_is_gone() -> None:
    gone, errors = threading.Event(), []

    def read() -> None:
        readers.is_abandoned.set(gone.is_set)
        with pytest.raises(readers.AbandonedError) as caught:
            readers.run_apart(time.sleep, 600, limits=Limits())
        errors.append(caught.value)

    thread = threading.Thread(target=read)
    thread.start()
    wait_for(multiprocessing.active_children)
    gone.set()
    thread.join(20)
    assert len(errors) == 1
    assert multiprocessing.active_children() == []
