"""Filter banks and waveforms on disk: made once on any number of cores, taken up again, checked, shared."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from rich.console import Console

from lungsound.audio.filter_bank import fbank_statistics, fbank_sums
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import AudioSettings
from lungsound.data import store
from lungsound.data.corpus import Corpus
from lungsound.data.icbhi import read_icbhi
from lungsound.data.store import FilterBanks, Waveforms, key_of, open_filter_banks, open_waveforms
from lungsound.errors import AudioError, DataError
from tests.unit.data.trees import write_icbhi

FRONT_END = FrontEnd(AudioSettings(duration_s=0.3, num_mels=16))
NAMES = [f"{patient}_1b1_Al_sc_Meditron" for patient in range(101, 106)]
CYCLES = "0\t0.5\t0\t0\n0.5\t1.1\t1\t0\n1.2\t2.0\t0\t1\n"
QUIET = Console(quiet=True)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Three cycles of each of five recordings of noise at 4 kHz; the cache is empty."""
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    folder = write_icbhi(tmp_path / "corpus", dict.fromkeys(NAMES, CYCLES))
    for seed, name in enumerate(NAMES):
        noise = np.random.default_rng(seed).normal(0, 0.1, 8000)
        soundfile.write(folder / f"{name}.wav", noise, 4000, subtype="PCM_16")
    return read_icbhi(folder)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that are decoded from now on."""
    names: list[str] = []
    read = FrontEnd.read

    def counted(front_end: FrontEnd, path: Path) -> Sound:
        names.append(path.stem)
        return read(front_end, path)

    monkeypatch.setattr(FrontEnd, "read", counted)
    return names


def report_to(monkeypatch: pytest.MonkeyPatch, on_progress: Callable[[int, int], None]) -> None:
    """Call `on_progress` in place of a progress bar."""
    monkeypatch.setattr(store, "track", lambda *_: nullcontext(on_progress))


def banks(corpus: Corpus) -> FilterBanks:
    return open_filter_banks(corpus, FRONT_END, console=QUIET)


def waveforms(corpus: Corpus) -> Waveforms:
    return open_waveforms(corpus, FRONT_END, console=QUIET)


def everything(opened: FilterBanks | Waveforms) -> NDArray[np.float32]:
    if isinstance(opened, FilterBanks):
        return opened[np.arange(len(opened))]
    return np.concatenate([opened[row].waveform for row in range(len(opened))])


def stored(tmp_path: Path, name: str = "values") -> Path:
    (path,) = (tmp_path / "cache" / "filter-banks").rglob(name)
    return path


Open = Callable[[Corpus], FilterBanks | Waveforms]
both_stores = pytest.mark.parametrize("opened", [banks, waveforms])


@pytest.fixture
def set_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda number: monkeypatch.setenv("OMP_NUM_THREADS", str(number))


# ---- what is in it ----


def test_each_row_is_the_filter_bank_of_its_cycle(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    report_to(monkeypatch, lambda done, total: calls.append((done, total)))
    opened = banks(corpus)
    assert opened.shape == (15, FRONT_END.num_frames, 16)
    for row, cycle in zip(everything(opened), corpus.cycles, strict=True):
        recording = FRONT_END.read(cycle.recording.path)
        clip = FRONT_END.fit(FRONT_END.cut(recording, start_s=cycle.start_s, end_s=cycle.end_s).waveform)
        np.testing.assert_allclose(row, FRONT_END.filter_banks(clip[np.newaxis])[0], atol=1e-5)
    assert opened.num_samples.tolist() == [8000, 9600, 12800] * 5
    assert calls[-1] == (15, 15)
    assert calls == sorted(calls)


def test_each_row_is_the_waveform_of_its_cycle(corpus: Corpus) -> None:
    # Later than the recording, as rounded times are: cut shorter.
    late = replace(corpus.cycles[-1], end_s=2.005)
    opened = waveforms(replace(corpus, cycles=(*corpus.cycles[:-1], late)))
    assert len(opened) == 15
    for row, cycle in enumerate(corpus.cycles):
        recording = FRONT_END.read(cycle.recording.path).waveform
        assert np.array_equal(opened[row].waveform, recording[int(cycle.start_s * 16000) : int(cycle.end_s * 16000)])


@both_stores
def test_any_number_of_threads_gives_the_same_bytes(
    corpus: Corpus, tmp_path: Path, opened: Open, set_threads: Callable[[int], None]
) -> None:
    contents = []
    for num_threads in (1, 2, 5):
        set_threads(num_threads)
        opened(corpus)
        contents.append([stored(tmp_path, name).read_bytes() for name in ("values", "facts")])
        shutil.rmtree(tmp_path / "cache")
    assert contents[0] == contents[1] == contents[2]


def test_rows_are_copies_in_the_order_asked_for(corpus: Corpus) -> None:
    opened, cut = banks(corpus), waveforms(corpus)
    before, first = everything(opened), cut[1].waveform
    some = opened[np.array([7, 2, 7])]
    np.testing.assert_array_equal(some, before[[7, 2, 7]])
    some[:] = 0
    np.testing.assert_array_equal(everything(opened), before)
    cut[1].waveform[:] = 0
    assert np.array_equal(cut[1].waveform, first)
    assert np.abs(first).max() > 0


def test_statistics_are_those_of_the_values(corpus: Corpus) -> None:
    opened = banks(corpus)
    values = everything(opened)[[1, 4, 5]].astype(np.float64)
    mean, std = opened.statistics([1, 4, 5])
    assert (mean, std) == pytest.approx((values.mean(), values.std()), rel=1e-12)
    assert (mean, std) == fbank_statistics(fbank_sums(one) for one in values)


def test_another_corpus_front_end_or_order_is_another_store(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    cycles = corpus.cycles
    others = [
        (corpus, FRONT_END),
        (replace(corpus, split={}), FRONT_END),
        (corpus, FrontEnd(AudioSettings(duration_s=0.3, num_mels=17))),
        (corpus, FrontEnd(AudioSettings(duration_s=0.3, num_mels=16, fade_s=0.0))),
        (replace(corpus, cycles=cycles[::-1]), FRONT_END),
        (replace(corpus, cycles=cycles[:2]), FRONT_END),
        (replace(corpus, cycles=(replace(cycles[0], end_s=0.4), *cycles[1:])), FRONT_END),
    ]
    keys = {key_of(*one) for one in others}
    assert len(keys) == len(others)
    assert key_of(replace(corpus), FrontEnd(AudioSettings(duration_s=0.3, num_mels=16))) in keys
    # Another program for the same settings: any module in place of one that defines the input.
    monkeypatch.setattr(store, "DEFINITION", (*store.DEFINITION[1:], sys.modules[__name__]))
    assert key_of(corpus, FRONT_END) not in keys


# ---- made once, taken up again ----


@both_stores
def test_a_second_opening_decodes_nothing(corpus: Corpus, reads: list[str], opened: Open) -> None:
    first = opened(corpus)
    assert sorted(reads) == NAMES
    reads.clear()
    second = opened(corpus)
    assert not reads
    np.testing.assert_array_equal(everything(first), everything(second))


@both_stores
@pytest.mark.parametrize("num_threads", [1, 2])
def test_what_was_broken_off_goes_on_where_it_stopped(
    corpus: Corpus,
    tmp_path: Path,
    reads: list[str],
    num_threads: int,
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    set_threads: Callable[[int], None],
) -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    set_threads(num_threads)
    report_to(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        opened(corpus)
    first = len(reads)
    assert first >= 2
    calls: list[int] = []
    report_to(monkeypatch, lambda done, _total: calls.append(done))
    values = everything(opened(corpus)).tobytes()
    assert sorted(reads) == NAMES
    assert len(calls) == 5 - first
    shutil.rmtree(tmp_path / "cache")
    assert values == everything(opened(corpus)).tobytes()


@both_stores
@pytest.mark.parametrize("place", [0, 1000, -20])
def test_a_flipped_byte_is_found_when_its_row_is_read_and_that_row_is_made_again(
    corpus: Corpus, tmp_path: Path, reads: list[str], opened: Open, place: int
) -> None:
    expected, whole = everything(opened(corpus)), stored(tmp_path).read_bytes()
    content = bytearray(whole)
    content[place] ^= 1
    stored(tmp_path).write_bytes(content)
    reads.clear()
    np.testing.assert_array_equal(everything(opened(corpus)), expected)
    assert len(reads) == 1
    assert stored(tmp_path).read_bytes() == whole


@both_stores
def test_a_damaged_row_that_would_come_out_otherwise_is_refused_and_made_at_the_next_start(
    corpus: Corpus, tmp_path: Path, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(opened(corpus))
    content = bytearray(stored(tmp_path).read_bytes())
    content[0] ^= 1
    stored(tmp_path).write_bytes(content)
    again = opened(corpus)
    with monkeypatch.context() as patch:
        read = FrontEnd.read
        patch.setattr(
            FrontEnd, "read", lambda front_end, path: replace(read(front_end, path), waveform=np.ones(9000, np.float32))
        )
        with pytest.raises(DataError, match="is damaged in row 0"):
            everything(again)
    np.testing.assert_array_equal(everything(opened(corpus)), expected)


@pytest.mark.parametrize("name", ["values", "facts", None])
def test_a_link_in_the_place_of_a_store_is_refused(corpus: Corpus, tmp_path: Path, name: str | None) -> None:
    banks(corpus)
    planted = stored(tmp_path, name or "values")
    planted = planted if name else planted.parent
    shutil.move(planted, tmp_path / "moved")
    mine = tmp_path / "mine"
    if name:
        mine.write_bytes(b"mine")
    else:
        mine.mkdir()
    planted.symlink_to(mine)
    with pytest.raises(DataError, match=r"cannot be written .*link"):
        banks(corpus)
    assert mine.is_dir() or mine.read_bytes() == b"mine"
    assert not mine.is_dir() or not list(mine.iterdir())


def test_flipped_facts_are_made_again(corpus: Corpus, tmp_path: Path, reads: list[str]) -> None:
    expected = banks(corpus)
    path = stored(tmp_path, "facts")
    content = path.read_bytes()
    for place in (0, 9, 17, 25, 31):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        reads.clear()
        opened = banks(corpus)
        assert reads == NAMES[:1], place
        assert opened.num_samples.tolist() == expected.num_samples.tolist()
        assert opened.statistics([0]) == expected.statistics([0])


@both_stores
@pytest.mark.parametrize("name", ["values", "facts"])
def test_a_file_that_is_too_short_is_made_again(
    corpus: Corpus, tmp_path: Path, reads: list[str], name: str, opened: Open
) -> None:
    expected = everything(opened(corpus))
    path = stored(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-100])
    reads.clear()
    np.testing.assert_array_equal(everything(opened(corpus)), expected)
    assert sorted(reads) == NAMES


@both_stores
@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_error_in_the_corpus_leaves_nothing_behind(
    corpus: Corpus, tmp_path: Path, num_threads: int, opened: Open, set_threads: Callable[[int], None]
) -> None:
    set_threads(num_threads)
    assert corpus.fingerprint
    corpus.cycles[-1].recording.path.unlink()
    with pytest.raises(AudioError, match=NAMES[-1]):
        opened(corpus)
    assert {path.name for path in (tmp_path / "cache" / "filter-banks").rglob("*") if path.is_file()} <= {"lock"}


def test_a_full_disk_is_an_error_that_says_so(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.os, "pwrite", lambda _file, content, _offset: content.nbytes - 1)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="the disk is full"):
        banks(corpus)


# ---- two at once ----


def test_of_two_at_once_one_works_and_the_other_tells_how_far_it_is(
    corpus: Corpus, reads: list[str], monkeypatch: pytest.MonkeyPatch, set_threads: Callable[[int], None]
) -> None:
    set_threads(1)
    monkeypatch.setattr(store, "WAIT_S", 0.01)
    has_waited, calls = threading.Event(), []
    other = threading.Thread(target=lambda: banks(corpus))

    def report(done: int, total: int) -> None:
        if threading.current_thread() is other:
            calls.append((done, total))
            has_waited.set()
        elif not other.ident:  # at the first report; the worker may be some recordings ahead of it
            other.start()
            assert has_waited.wait(20)

    report_to(monkeypatch, report)
    banks(corpus)
    other.join(20)
    assert sorted(reads) == NAMES
    assert calls[0][1] == 15
    assert 3 <= calls[0][0] <= 15


MAKER = """
import os, sys
from contextlib import nullcontext
from pathlib import Path
from rich.console import Console
from lungsound.audio.front_end import FrontEnd, Sound
from lungsound.config import AudioSettings
from lungsound.data import store
from lungsound.data.icbhi import read_icbhi
folder, num_rows = Path(sys.argv[1]), int(sys.argv[2])
store.track = lambda *_: nullcontext(lambda done, _: os._exit(9) if done >= num_rows else None)
front_end = FrontEnd(AudioSettings(duration_s=0.3, num_mels=16))
store.open_filter_banks(read_icbhi(folder / "corpus"), front_end, console=Console(quiet=True))
"""


@pytest.mark.slow
def test_a_killed_process_frees_the_lock_and_leaves_its_rows(
    corpus: Corpus, tmp_path: Path, reads: list[str], set_threads: Callable[[int], None]
) -> None:
    set_threads(1)
    assert subprocess.run([sys.executable, "-c", MAKER, tmp_path, "9"], check=False).returncode == 9
    banks(corpus)
    assert 0 < len(reads) <= 2


@pytest.mark.slow
def test_two_processes_at_once_make_one_store(corpus: Corpus, tmp_path: Path, reads: list[str]) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", MAKER, tmp_path, "99"]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    values = everything(banks(corpus))
    assert not reads
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(values, everything(banks(corpus)))
