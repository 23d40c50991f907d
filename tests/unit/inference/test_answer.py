from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsound.inference.prediction import CyclePrediction
from lungsound.labels import LabelSet
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, cycle

NAN = float("nan")


@pytest.mark.parametrize(
    ("start_s", "end_s", "says"),
    [
        (NAN, 1.0, "start_s is nan"),
        (0.0, float("inf"), "end_s is inf"),
        (-0.5, 1.0, "start_s is -0.5"),
        (1.0, 1.0, "a microsecond"),
        (2.0, 1.0, "a microsecond"),
        (1.0, 1.0000001, "a microsecond"),
    ],
)
def test_times_that_cannot_be_are_refused(start_s: float, end_s: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cycle(start_s, end_s)


@pytest.mark.parametrize("share", [NAN, -0.01, 1.01, float("inf")])
def test_probabilities_that_cannot_be_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        CyclePrediction(0.0, 1.0, "normal", {"normal": 0.5, "abnormal": share})


def test_an_answer_is_one_of_the_classes() -> None:
    with pytest.raises(ValueError, match="'rhonchi' has no probability"):
        CyclePrediction(0.0, 1.0, "rhonchi", {"normal": 1.0})
    with pytest.raises(ValueError, match="'rhonchi' has no probability"):
        CyclePrediction(0.0, 1.0, "normal", {"normal": 1.0}, possible=("normal", "rhonchi"))


@given(st.lists(st.floats(0.0, 4e4), min_size=3, max_size=30, unique=True))
def test_neighbours_do_not_overlap_by_rounding(bounds: list[float]) -> None:
    bounds = sorted(bounds)
    pairs = [(a, b) for a, b in pairwise(bounds) if b - a > 2e-6]
    cycles = replace(ANSWER, cycles=tuple(cycle(*pair) for pair in reversed(pairs))).cycles
    assert all(found.start_s < found.end_s for found in cycles)
    assert all(a.end_s <= b.start_s for a, b in pairwise(cycles))
    for found, pair in zip(cycles, pairs, strict=True):
        assert (found.start_s, found.end_s) == pytest.approx(pair, abs=5.1e-7)


def test_an_uncertain_answer_is_withheld_but_its_guess_kept() -> None:
    sure, unsure = cycle(0, 1, "wheeze"), cycle(0, 1, "wheeze", is_uncertain=True)
    assert (sure.label, sure.caption) == ("wheeze", "wheeze 0.50")
    assert (unsure.label, unsure.caption) == ("uncertain", "uncertain (wheeze 0.50)")


def test_facts_of_a_recording_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="out_of_domain is nan"):
        replace(ANSWER, out_of_domain=NAN)
    with pytest.raises(ValueError, match="duration_s is nan"):
        replace(ANSWER, duration_s=NAN)
    with pytest.raises(ValueError, match="an unknown patient is None"):
        replace(ANSWER, patient="")


def test_a_path_that_is_no_text_is_escaped() -> None:
    assert replace(ANSWER, path=Path("a\udcff\N{SNOWMAN}.wav")).path_text == "a\\udcff\N{SNOWMAN}.wav"


def test_provenance_needs_a_time_zone_and_names_on_one_line() -> None:
    assert PROVENANCE.created_text == "2026-11-23T14:05:06+01:00"
    with pytest.raises(ValueError, match="no time zone"):
        replace(PROVENANCE, created=datetime(2026, 1, 1))
    for name in ("a;b", "a\tb", "a\nb"):
        with pytest.raises(ValueError, match="on one line"):
            replace(PROVENANCE, label_set=LabelSet("odd", ("normal", name)))
