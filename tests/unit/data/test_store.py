"""Filter banks and waveforms on disk: made once on any number of cores, taken up again, checked, shared."""

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from lungsound.audio.filter_bank import fbank_statistics, fbank_sums
from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings
from lungsound.data import store
from lungsound.data.corpus import Cycle
from lungsound.data.icbhi import read_icbhi
from lungsound.data.store import FilterBanks, Waveforms, key_of, open_filter_banks, open_waveforms
from lungsound.errors import AudioError, DataError
from tests.unit.data.trees import write_icbhi

FRONT_END = FrontEnd(AudioSettings(duration_s=0.3, num_mels=16))
NAMES = [f"{patient}_1b1_Al_sc_Meditron" for patient in range(101, 106)]
CYCLES = "0\t0.5\t0\t0\n0.5\t1.1\t1\t0\n1.2\t2.0\t0\t1\n"


@pytest.fixture
def cycles(tmp_path: Path) -> tuple[Cycle, ...]:
    """Three cycles of each of five recordings of noise at 4 kHz."""
    folder = write_icbhi(tmp_path / "corpus", dict.fromkeys(NAMES, CYCLES))
    for seed, name in enumerate(NAMES):
        noise = np.random.default_rng(seed).normal(0, 0.1, 8000)
        soundfile.write(folder / f"{name}.wav", noise, 4000, subtype="PCM_16")
    return read_icbhi(folder).cycles


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the recordings that are decoded from now on."""
    names: list[str] = []
    read = FrontEnd.read

    def counted(front_end: FrontEnd, path: Path) -> torch.Tensor:
        names.append(path.stem)
        return read(front_end, path)

    monkeypatch.setattr(FrontEnd, "read", counted)
    return names


def banks(cycles: tuple[Cycle, ...], tmp_path: Path, **more: object) -> FilterBanks:
    return open_filter_banks(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x", **more)  # type: ignore[arg-type]


def waveforms(cycles: tuple[Cycle, ...], tmp_path: Path, **more: object) -> Waveforms:
    return open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x", **more)  # type: ignore[arg-type]


def everything(opened: FilterBanks | Waveforms) -> NDArray[np.float32]:
    if isinstance(opened, FilterBanks):
        return opened[np.arange(len(opened))]
    return np.concatenate([opened[row].numpy() for row in range(len(opened))])


def stored(tmp_path: Path, name: str = "values") -> Path:
    (path,) = (tmp_path / "cache").rglob(name)
    return path


Open = Callable[..., FilterBanks | Waveforms]
both_stores = pytest.mark.parametrize("opened", [banks, waveforms])


# ---- what is in it ----


def test_each_row_is_the_filter_bank_of_its_cycle(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = banks(cycles, tmp_path, num_workers=1, on_progress=lambda done, total: seen.append((done, total)))
    assert found.shape == (15, FRONT_END.num_frames, 16)
    for row, cycle in zip(everything(found), cycles, strict=True):
        waveform = FRONT_END.read(cycle.recording.path)
        clip = FRONT_END.fit(FRONT_END.cut(waveform, start_s=cycle.start_s, end_s=cycle.end_s))
        np.testing.assert_allclose(row, FRONT_END.filter_banks(clip.unsqueeze(0))[0], atol=1e-5)
    assert found.num_samples.tolist() == [8000, 9600, 12800] * 5
    assert seen[-1] == (15, 15)
    assert seen == sorted(seen)


def test_each_row_is_the_waveform_of_its_cycle(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    late = replace(cycles[-1], end_s=2.005)  # later than the recording, as rounded times are: cut shorter
    found = waveforms((*cycles[:-1], late), tmp_path)
    assert len(found) == 15
    for row, cycle in enumerate(cycles):
        recording = FRONT_END.read(cycle.recording.path)
        assert torch.equal(found[row], recording[int(cycle.start_s * 16000) : int(cycle.end_s * 16000)])


@both_stores
def test_any_number_of_workers_gives_the_same_bytes(cycles: tuple[Cycle, ...], tmp_path: Path, opened: Open) -> None:
    before = torch.get_num_threads()
    files = []
    for num_workers in (1, 2, 5):
        opened(cycles, tmp_path / str(num_workers), num_workers=num_workers)
        files.append([stored(tmp_path / str(num_workers), name).read_bytes() for name in ("values", "facts")])
    assert files[0] == files[1] == files[2]
    assert torch.get_num_threads() == before


def test_rows_are_copies_in_the_order_asked_for(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    found, cut = banks(cycles, tmp_path), waveforms(cycles, tmp_path)
    before, first = everything(found), cut[1]
    some = found[np.array([7, 2, 7])]
    np.testing.assert_array_equal(some, before[[7, 2, 7]])
    some[:] = 0
    np.testing.assert_array_equal(everything(found), before)
    cut[1].zero_()
    assert torch.equal(cut[1], first)
    assert first.abs().max() > 0


def test_statistics_are_those_of_the_values(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    found = banks(cycles, tmp_path)
    values = everything(found)[[1, 4, 5]].astype(np.float64)
    mean, std = found.statistics([1, 4, 5])
    assert (mean, std) == pytest.approx((values.mean(), values.std()), rel=1e-12)
    assert (mean, std) == fbank_statistics(fbank_sums(torch.from_numpy(one)) for one in values)


def test_another_corpus_front_end_or_order_is_another_store(
    cycles: tuple[Cycle, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [
        (cycles, FRONT_END, "x"),
        (cycles, FRONT_END, "y"),
        (cycles, FrontEnd(AudioSettings(duration_s=0.3, num_mels=17)), "x"),
        (cycles, FrontEnd(AudioSettings(duration_s=0.3, num_mels=16, fade_s=0.0)), "x"),
        (cycles[::-1], FRONT_END, "x"),
        (cycles[:2], FRONT_END, "x"),
        ((replace(cycles[0], end_s=0.4), *cycles[1:]), FRONT_END, "x"),
    ]
    keys = {key_of(*one) for one in others}
    assert len(keys) == len(others)
    assert key_of(cycles, FrontEnd(AudioSettings(duration_s=0.3, num_mels=16)), "x") in keys
    # Another program for the same settings: any module in place of one that defines the input.
    monkeypatch.setattr(store, "DEFINITION", (*store.DEFINITION[1:], sys.modules[__name__]))
    assert key_of(cycles, FRONT_END, "x") not in keys


# ---- made once, taken up again ----


@both_stores
def test_a_second_opening_decodes_nothing(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], opened: Open
) -> None:
    first = opened(cycles, tmp_path)
    assert sorted(reads) == NAMES
    reads.clear()
    second = opened(cycles, tmp_path)
    assert not reads
    np.testing.assert_array_equal(everything(first), everything(second))


@both_stores
@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_was_broken_off_goes_on_where_it_stopped(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], num_workers: int, opened: Open
) -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(cycles, tmp_path, num_workers=num_workers, on_progress=stop)
    first = len(reads)
    assert first >= 2
    seen: list[int] = []
    found = opened(cycles, tmp_path, num_workers=num_workers, on_progress=lambda done, _total: seen.append(done))
    assert sorted(reads) == NAMES
    assert len(seen) == 5 - first
    assert everything(found).tobytes() == everything(opened(cycles, tmp_path / "other")).tobytes()


@both_stores
@pytest.mark.parametrize("place", [0, 1000, -20])
def test_a_flipped_byte_is_found_when_its_row_is_read_and_that_row_is_made_again(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], opened: Open, place: int
) -> None:
    expected = everything(opened(cycles, tmp_path))
    content = bytearray(stored(tmp_path).read_bytes())
    content[place] ^= 1
    stored(tmp_path).write_bytes(content)
    reads.clear()
    with pytest.raises(DataError, match="is damaged in row"):
        everything(opened(cycles, tmp_path))
    assert not reads
    np.testing.assert_array_equal(everything(opened(cycles, tmp_path)), expected)
    assert len(reads) == 1


@pytest.mark.parametrize("place", [0, 9, 17, 25, 31])
def test_flipped_facts_are_made_again(cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], place: int) -> None:
    expected = banks(cycles, tmp_path)
    content = bytearray(stored(tmp_path, "facts").read_bytes())
    content[place] ^= 1
    stored(tmp_path, "facts").write_bytes(content)
    reads.clear()
    found = banks(cycles, tmp_path)
    assert reads == NAMES[:1]
    assert found.num_samples.tolist() == expected.num_samples.tolist()
    assert found.statistics([0]) == expected.statistics([0])


@both_stores
@pytest.mark.parametrize("name", ["values", "facts"])
def test_a_file_that_is_too_short_is_made_again(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], name: str, opened: Open
) -> None:
    expected = everything(opened(cycles, tmp_path))
    path = stored(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-100])
    reads.clear()
    np.testing.assert_array_equal(everything(opened(cycles, tmp_path)), expected)
    assert sorted(reads) == NAMES


@both_stores
@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_in_the_corpus_leaves_nothing_behind(
    cycles: tuple[Cycle, ...], tmp_path: Path, num_workers: int, opened: Open
) -> None:
    cycles[-1].recording.path.unlink()
    with pytest.raises(AudioError, match=NAMES[-1]):
        opened(cycles, tmp_path, num_workers=num_workers)
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} <= {"lock"}


def test_a_full_disk_is_an_error_that_says_so(
    cycles: tuple[Cycle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.os, "pwrite", lambda _file, content, _offset: content.nbytes - 1)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="the disk is full"):
        banks(cycles, tmp_path)


# ---- two at once ----


def test_of_two_at_once_one_works_and_the_other_tells_how_far_it_is(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "WAIT_S", 0.01)
    is_waited, seen = threading.Event(), []

    def tell(done: int, total: int) -> None:
        seen.append((done, total))
        is_waited.set()

    other = threading.Thread(target=lambda: banks(cycles, tmp_path, on_progress=tell))

    def hold(_done: int, _total: int) -> None:
        if not other.ident:  # at the first report; the worker may be some recordings ahead of it
            other.start()
            assert is_waited.wait(20)

    banks(cycles, tmp_path, num_workers=1, on_progress=hold)
    other.join(20)
    assert sorted(reads) == NAMES
    assert seen[0][1] == 15
    assert 3 <= seen[0][0] <= 15


MAKER = """
import os, sys
from pathlib import Path
from lungsound.audio.front_end import FrontEnd
from lungsound.data.icbhi import read_icbhi
from lungsound.config import AudioSettings
from lungsound.data.store import open_filter_banks
folder, num_rows = Path(sys.argv[1]), int(sys.argv[2])
front_end = FrontEnd(AudioSettings(duration_s=0.3, num_mels=16))
open_filter_banks(read_icbhi(folder / "corpus").cycles, front_end, fingerprint="x",
    cache_dir=folder / "cache", num_workers=1, on_progress=lambda done, _: os._exit(9) if done >= num_rows else None)
"""


@pytest.mark.slow
def test_a_killed_process_frees_the_lock_and_leaves_its_rows(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str]
) -> None:
    assert subprocess.run([sys.executable, "-c", MAKER, tmp_path, "9"], check=False).returncode == 9
    banks(cycles, tmp_path, num_workers=1)
    assert 0 < len(reads) <= 2


@pytest.mark.slow
def test_two_processes_at_once_make_one_store(cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str]) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", MAKER, tmp_path, "99"]) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    found = everything(banks(cycles, tmp_path))
    assert not reads
    np.testing.assert_array_equal(found, everything(banks(cycles, tmp_path / "alone")))
