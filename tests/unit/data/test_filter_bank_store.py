"""Filter banks in one file: made once, the same for any number of workers, taken up again, checked, shared."""

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lungsound.audio.filter_bank import fbank_statistics, fbank_sums
from lungsound.audio.front_end import FrontEnd
from lungsound.data import store as filter_bank_store
from lungsound.data.corpus import Cycle
from lungsound.data.icbhi import read_icbhi
from lungsound.data.store import FilterBanks, key_of, open_filter_banks
from lungsound.errors import AudioError
from tests.unit.data.trees import write_icbhi

FRONT_END = FrontEnd(duration_s=0.3, num_mels=16)
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
    found: list[str] = []
    read = FrontEnd.read

    def counted(front_end: FrontEnd, path: Path) -> torch.Tensor:
        found.append(path.stem)
        return read(front_end, path)

    monkeypatch.setattr(FrontEnd, "read", counted)
    return found


def banks(cycles: tuple[Cycle, ...], tmp_path: Path, **more: object) -> FilterBanks:
    return open_filter_banks(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x", **more)  # type: ignore[arg-type]


def everything(found: FilterBanks) -> np.ndarray:
    return found[np.arange(len(found))]


def stored(tmp_path: Path, name: str = "filter-banks.npy") -> Path:
    (path,) = (tmp_path / "cache").rglob(name)
    return path


# ---- what is in it ----


def test_each_row_is_the_filter_bank_of_its_cycle(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = banks(cycles, tmp_path, num_workers=1, on_progress=lambda done, total: seen.append((done, total)))
    assert found.shape == (15, FRONT_END.num_frames, 16)
    for row, cycle in zip(everything(found), cycles, strict=True):
        waveform = FRONT_END.read(cycle.recording.path)
        clip = FRONT_END.cycle(waveform, start_s=cycle.start_s, end_s=cycle.end_s)
        np.testing.assert_allclose(row, FRONT_END.filter_banks(clip.unsqueeze(0))[0], atol=1e-5)
    assert found.num_samples.tolist() == [8000, 9600, 12800] * 5
    assert seen[-1] == (15, 15)
    assert seen == sorted(seen)
    np.testing.assert_array_equal(np.load(stored(tmp_path)), everything(found))


def test_any_number_of_workers_gives_the_same_bytes(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    before = torch.get_num_threads()
    files = []
    for num_workers in (1, 2, 5):
        banks(cycles, tmp_path / str(num_workers), num_workers=num_workers)
        files.append([stored(tmp_path / str(num_workers), name).read_bytes() for name in ("*.npy", "*.facts")])
    assert files[0] == files[1] == files[2]
    assert torch.get_num_threads() == before


def test_rows_are_copies_in_the_order_asked_for(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    found = banks(cycles, tmp_path)
    whole = everything(found)
    some = found[np.array([7, 2, 7])]
    np.testing.assert_array_equal(some, whole[[7, 2, 7]])
    some[:] = 0
    np.testing.assert_array_equal(everything(found), whole)


def test_statistics_are_those_of_the_values_and_no_row_is_read(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    found = banks(cycles, tmp_path)
    values = everything(found)[[1, 4, 5]].astype(np.float64)
    stored(tmp_path).unlink()
    mean, std = found.statistics([1, 4, 5])
    assert (mean, std) == pytest.approx((values.mean(), values.std()), rel=1e-12)
    assert (mean, std) == fbank_statistics(fbank_sums(torch.from_numpy(one)) for one in values)


def test_another_corpus_front_end_or_order_is_another_file(cycles: tuple[Cycle, ...]) -> None:
    others = [
        (cycles, FRONT_END, "x"),
        (cycles, FRONT_END, "y"),
        (cycles, FrontEnd(duration_s=0.3, num_mels=17), "x"),
        (cycles, FrontEnd(duration_s=0.3, num_mels=16, fade_s=0.0), "x"),
        (cycles[::-1], FRONT_END, "x"),
        (cycles[:2], FRONT_END, "x"),
        ((replace(cycles[0], end_s=0.4), *cycles[1:]), FRONT_END, "x"),
    ]
    assert len({key_of(*one) for one in others}) == len(others)


# ---- made once, taken up again ----


def test_a_second_opening_decodes_nothing(cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str]) -> None:
    first = banks(cycles, tmp_path)
    assert sorted(reads) == NAMES
    reads.clear()
    second = banks(cycles, tmp_path)
    assert not reads
    np.testing.assert_array_equal(everything(first), everything(second))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_was_broken_off_goes_on_where_it_stopped(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], num_workers: int
) -> None:
    def stop(done: int, _total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        banks(cycles, tmp_path, num_workers=num_workers, on_progress=stop)
    assert not list((tmp_path / "cache").rglob("filter-banks.npy"))
    first = len(reads)
    assert first >= 2
    seen: list[int] = []
    found = banks(cycles, tmp_path, num_workers=num_workers, on_progress=lambda done, _total: seen.append(done))
    assert sorted(reads) == NAMES
    assert len(seen) == 5 - first
    assert everything(found).tobytes() == everything(banks(cycles, tmp_path / "other")).tobytes()


@pytest.mark.parametrize("name", ["filter-banks.npy", "filter-banks.npy.partial"])
def test_a_damaged_row_is_made_again_and_no_other(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], name: str
) -> None:
    expected = everything(banks(cycles, tmp_path))
    path = stored(tmp_path)
    content = bytearray(path.read_bytes())
    content[-20:] = bytes(20)  # in the last row, which is among those that are looked at
    path.write_bytes(content)
    path.rename(path.with_name(name))
    reads.clear()
    np.testing.assert_array_equal(everything(banks(cycles, tmp_path)), expected)
    assert reads == [NAMES[-1]]


@pytest.mark.parametrize("what", ["filter-banks.npy", "rows.facts"])
def test_a_file_that_is_too_short_is_made_again(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], what: str
) -> None:
    expected = everything(banks(cycles, tmp_path))
    path = stored(tmp_path, what)
    path.write_bytes(path.read_bytes()[:-100])
    reads.clear()
    np.testing.assert_array_equal(everything(banks(cycles, tmp_path)), expected)
    assert sorted(reads) == NAMES


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_in_the_corpus_leaves_nothing_behind(
    cycles: tuple[Cycle, ...], tmp_path: Path, num_workers: int
) -> None:
    cycles[-1].recording.path.unlink()
    with pytest.raises(AudioError, match=NAMES[-1]):
        banks(cycles, tmp_path, num_workers=num_workers)
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()} <= {"lock"}


# ---- two at once ----


def test_of_two_at_once_one_works_and_the_other_tells_how_far_it_is(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filter_bank_store, "WAIT_S", 0.01)
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


def test_a_killed_process_frees_the_lock_and_leaves_its_rows(
    cycles: tuple[Cycle, ...], tmp_path: Path, reads: list[str]
) -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from lungsound.audio.front_end import FrontEnd\n"
        "from lungsound.data.store import open_filter_banks\n"
        "from lungsound.data.icbhi import read_icbhi\n"
        f"corpus, cache_dir = Path({str(tmp_path / 'corpus')!r}), Path({str(tmp_path / 'cache')!r})\n"
        "front_end = FrontEnd(duration_s=0.3, num_mels=16)\n"
        "open_filter_banks(read_icbhi(corpus).cycles, front_end, cache_dir=cache_dir, fingerprint='x', num_workers=1,\n"
        "    on_progress=lambda done, total: os._exit(9) if done >= 9 else None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 9
    banks(cycles, tmp_path, num_workers=1)
    assert 0 < len(reads) <= 2
