import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsound.inference.formats.annotations import textgrid_text
from lungsound.inference.prediction import RecordingPrediction
from tests.unit.inference.formats.examples import ANSWER, OVERLAPPING, PROVENANCE, SILENT, awkward_answer, cycle

Tier = list[tuple[float, float, str]]
NUMBER = r"(\d+\.\d{6})"
HEAD = re.compile(
    rf'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = {NUMBER}\nxmax = {NUMBER}\n'
    r"tiers\? <exists>\nsize = (\d+)\nitem \[\]:\n"
)
TIER = re.compile(
    rf' {{4}}item \[(\d+)\]:\n {{8}}class = "IntervalTier"\n {{8}}name = "([^"]+)"\n'
    rf" {{8}}xmin = {NUMBER}\n {{8}}xmax = {NUMBER}\n {{8}}intervals: size = (\d+)\n"
)
INTERVAL = re.compile(
    rf" {{8}}intervals \[(\d+)\]:\n {{12}}xmin = {NUMBER}\n {{12}}xmax = {NUMBER}\n"
    r' {12}text = "((?:[^"\n]|"")*)"\n'
)


def read(text: str) -> dict[str, Tier]:
    """Strictly the long form of https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html."""
    head = HEAD.match(text)
    assert head is not None
    place, tiers = head.end(), {}
    for number in range(1, int(head[3]) + 1):
        found = TIER.match(text, place)
        assert found is not None
        assert (int(found[1]), found[3], found[4]) == (number, head[1], head[2])
        place, reached, tier = found.end(), head[1], []
        for index in range(1, int(found[5]) + 1):
            interval = INTERVAL.match(text, place)
            assert interval is not None
            assert (int(interval[1]), interval[2]) == (index, reached)
            assert float(interval[2]) < float(interval[3])
            tier.append((float(interval[2]), float(interval[3]), interval[4].replace('""', '"')))
            place, reached = interval.end(), interval[3]
        assert reached == head[2]
        tiers[found[2]] = tier
    assert place == len(text)
    return tiers


def test_intervals_cover_the_recording() -> None:
    assert read(textgrid_text(ANSWER, PROVENANCE)) == {
        "lung sound": [
            (0.0, 0.25, ""),
            (0.25, 1.5, "normal 0.50"),
            (1.5, 2.75, "both 0.50"),
            (2.75, 3.0, ""),
            (3.0, 4.5, "uncertain (wheeze 0.50)"),
        ]
    }


def test_no_cycles_are_one_empty_interval() -> None:
    assert read(textgrid_text(SILENT, PROVENANCE)) == {"lung sound": [(0.0, 0.75, "")]}


def test_windows_that_overlap_stand_in_further_tiers() -> None:
    assert read(textgrid_text(OVERLAPPING, PROVENANCE)) == {
        "lung sound": [(0.0, 2.0, "crackle 0.50"), (2.0, 4.0, "wheeze 0.50"), (4.0, 4.5, "")],
        "lung sound 2": [(0.0, 1.0, ""), (1.0, 3.0, "normal 0.50"), (3.0, 4.5, "both 0.50")],
    }


def test_an_annotation_may_end_behind_its_recording() -> None:
    late = replace(ANSWER, cycles=(cycle(4.0, 4.51),))
    assert read(textgrid_text(late, PROVENANCE))["lung sound"][-1] == (4.0, 4.51, "crackle 0.50")


@given(st.lists(st.tuples(st.floats(0.0, 60.0), st.floats(1e-5, 9.0)), max_size=25))
def test_every_cycle_is_in_one_tier_of_as_few_as_possible(spans: list[tuple[float, float]]) -> None:
    cycles = tuple(cycle(start_s, start_s + length_s) for start_s, length_s in spans)
    answer = replace(ANSWER, duration_s=70.0, cycles=cycles)
    tiers = read(textgrid_text(answer, PROVENANCE))
    found = sorted((start_s, end_s) for tier in tiers.values() for start_s, end_s, text in tier if text)
    assert found == sorted((c.start_s, c.end_s) for c in answer.cycles)
    most_at_once = max((sum(a.start_s <= b.start_s < a.end_s for a in answer.cycles) for b in answer.cycles), default=1)
    assert len(tiers) == most_at_once


@pytest.mark.parametrize("answer", [ANSWER, SILENT, OVERLAPPING], ids=lambda answer: answer.name)
def test_praatio_reads_the_same_intervals(answer: RecordingPrediction, tmp_path: Path) -> None:
    praatio = pytest.importorskip("praatio.textgrid", reason="needs praatio")
    text = textgrid_text(answer, PROVENANCE)
    (tmp_path / "x.TextGrid").write_text(text, encoding="utf-8")
    grid = praatio.openTextgrid(str(tmp_path / "x.TextGrid"), includeEmptyIntervals=True, reportingMode="error")
    found = {tier.name: [(i.start, i.end, i.label) for i in tier.entries] for tier in grid.tiers}
    assert found == read(text)
    assert (grid.minTimestamp, grid.maxTimestamp) == (0.0, answer.duration_s)


def test_awkward_names_come_back(tmp_path: Path) -> None:
    answer, provenance = awkward_answer()
    text = textgrid_text(answer, provenance)
    captions = [found.caption for found in answer.cycles]
    assert [caption for _, _, caption in read(text)["lung sound"] if caption] == captions
    praatio = pytest.importorskip("praatio.textgrid", reason="needs praatio")
    (tmp_path / "x.TextGrid").write_text(text, encoding="utf-8")
    grid = praatio.openTextgrid(str(tmp_path / "x.TextGrid"), includeEmptyIntervals=False, reportingMode="error")
    assert [interval.label for interval in grid.tiers[0].entries] == captions
