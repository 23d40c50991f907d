"""Any corpus on disk, from its folder to filter banks: the synthetic one, and with --data or ../shared real ones."""

from pathlib import Path

import numpy as np
import pytest

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings
from lungsound.data.check import corpus_table
from lungsound.data.corpus import Corpus, Cycle
from lungsound.data.reader import read_corpus

NUM_CYCLES = 6


@pytest.fixture(
    scope="module",
    params=["synthetic_corpus_dir", "icbhi_dir", pytest.param("sprsound_dir", marks=pytest.mark.slow)],
)
def folder(request: pytest.FixtureRequest) -> Path:
    path = request.getfixturevalue(request.param)
    assert isinstance(path, Path)
    return path


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return read_corpus(folder).require_sound()


def spread(cycles: tuple[Cycle, ...]) -> tuple[Cycle, ...]:
    """A few cycles from all over a part."""
    return cycles[:: max(1, len(cycles) // NUM_CYCLES)][:NUM_CYCLES]


def test_the_table_counts_every_cycle_once(corpus: Corpus) -> None:
    table = corpus_table(corpus)
    assert set(table.parts) == set(corpus.parts) >= {"train"}
    assert sum(sum(counts.cycles) for counts in table.parts.values()) == len(corpus.cycles) > 0


def test_cycles_of_every_part_become_filter_banks(corpus: Corpus) -> None:
    front_end = FrontEnd(AudioSettings())
    for part in corpus.parts:
        cycles = spread(corpus.part(part))
        waveforms = [
            front_end.fit(
                front_end.cut(front_end.read(cycle.recording.path), start_s=cycle.start_s, end_s=cycle.end_s).waveform
            )
            for cycle in cycles
        ]
        filter_banks = front_end.filter_banks(np.stack(waveforms))
        assert filter_banks.shape == (len(cycles), 798, 128)
        assert np.isfinite(filter_banks).all()
        # Sound is in each of them: the level moves over time.
        assert (filter_banks.mean(axis=2).std(axis=1) > 0.05).all()
