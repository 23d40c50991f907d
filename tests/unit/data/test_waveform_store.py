"""Waveforms in one file, read once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lungsound.audio.front_end import FrontEnd
from lungsound.data.corpus import Cycle
from lungsound.data.icbhi import read_icbhi
from lungsound.data.store import open_filter_banks, open_waveforms
from lungsound.errors import AudioError
from tests.unit.data.trees import write_icbhi

FRONT_END = FrontEnd(duration_s=0.3, num_mels=16)
NAMES = ["101_1b1_Al_sc_Meditron", "102_1b1_Ar_mc_Litt3200"]
CYCLES = "0\t0.5\t0\t0\n0.5\t1.1\t1\t0\n1.2\t2.0\t0\t1\n"


@pytest.fixture
def cycles(tmp_path: Path) -> tuple[Cycle, ...]:
    folder = write_icbhi(tmp_path / "corpus", {NAMES[0]: CYCLES, NAMES[1]: "0.2\t1.9\t1\t1\n"})
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    soundfile.write(folder / f"{NAMES[0]}.wav", noise, 4000, subtype="PCM_16")
    return read_icbhi(folder).cycles


def test_each_row_is_the_waveform_of_its_cycle(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    waveforms = open_waveforms(
        cycles,
        FRONT_END,
        cache_dir=tmp_path / "cache",
        fingerprint="x",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert len(waveforms) == 4
    assert [len(waveforms[row]) for row in range(4)] == [8000, 9600, 12800, 27200]
    for row, cycle in enumerate(cycles):
        whole = FRONT_END.read(cycle.recording.path)
        assert torch.equal(waveforms[row], whole[int(cycle.start_s * 16000) : int(cycle.end_s * 16000)])
    assert seen == [(3, 4), (4, 4)]


@pytest.mark.parametrize("num_cycles", [1, 2, 3])
def test_any_number_and_length_of_waveforms(cycles: tuple[Cycle, ...], num_cycles: int, tmp_path: Path) -> None:
    """An odd number of samples before the places of the cycles, which are numbers of twice the size."""
    odd = tuple(
        replace(cycle, start_s=0.5, end_s=0.5 + (n + 1.5) / 16000) for n, cycle in enumerate(cycles[:num_cycles])
    )
    waveforms = open_waveforms(odd, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    assert [len(waveforms[row]) for row in range(num_cycles)] == [*range(1, num_cycles + 1)]


def test_waveforms_are_read_once_and_a_change_of_one_stays_where_it_is(
    cycles: tuple[Cycle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    reads: list[Path] = []
    monkeypatch.setattr(FrontEnd, "read", lambda _, path: reads.append(path))
    second = open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    assert not reads
    before = first[1]
    second[1].zero_()
    assert torch.equal(second[1], before)
    assert before.abs().max() > 0


def test_waveforms_lie_beside_filter_banks_and_an_error_leaves_none(cycles: tuple[Cycle, ...], tmp_path: Path) -> None:
    open_filter_banks(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="x")
    open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="y")
    assert len(list((tmp_path / "cache").iterdir())) == 3
    cycles[-1].recording.path.unlink()
    with pytest.raises(AudioError, match=NAMES[1]):
        open_waveforms(cycles, FRONT_END, cache_dir=tmp_path / "cache", fingerprint="z")
    assert len(list((tmp_path / "cache").iterdir())) == 3
