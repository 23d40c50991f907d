"""Methods against each other: the tables say what `compare` says, the picture draws it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from lungsound.evaluation.bootstrap import Bootstrap
from lungsound.evaluation.compare import verdict
from lungsound.evaluation.runs import MethodRuns
from lungsound.experiments.methods import compared, draw_forest, methods_page, provenance
from lungsound.page import paragraphs
from tests.unit.experiments.small import FACTS, answered

CLASSES = ("normal", "crackle", "wheeze", "both")
PAIRS = [("mixed", "plain"), ("mixed", "padded"), ("mixed", "of no run")]


def method(skill: float, seeds: tuple[int, ...]) -> MethodRuns:
    return MethodRuns(tuple(answered(skill, CLASSES, seed=seed) for seed in seeds), frozenset(["last"]), seeds=seeds)


@pytest.fixture(scope="module")
def methods() -> dict[str, MethodRuns]:
    return {"plain": method(0.4, (0, 1, 2)), "mixed": method(0.8, (0, 1, 2, 3)), "padded": method(0.8, (0, 1))}


def test_differences_are_those_of_compare_on_each_part_and_in_the_mean(
    methods: dict[str, MethodRuns], tmp_path: Path, figures: list[Figure]
) -> None:
    comparisons = compared(methods, PAIRS, Bootstrap(num_draws=300))
    parts = ["inter", "intra", "mean of inter and intra"]
    assert [(each.names, each.part) for each in comparisons] == [(names, part) for names in PAIRS[:2] for part in parts]
    assert [each.is_paired for each in comparisons] == [True] * 3 + [False] * 3
    text = paragraphs(*methods_page(methods, comparisons, picture="x.png", heading="##"))
    for each in comparisons:
        line = f"| {each.names[0]} | {each.names[1]} | {each.part} | {each.score.difference.in_points()} |"
        assert line in text
        assert f"- A: {each.names[0]}; B: {each.names[1]}; on {each.part}: {verdict(each)}" in text
    assert "- A's runs of seed 3 are left out: the other side has none of that seed." in text
    assert "![Differences](x.png)" in text
    draw_forest(comparisons, tmp_path / "x.png")
    (axes,) = figures[0].axes
    points = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "o"]
    assert points == pytest.approx([100 * each.score.difference.value for each in comparisons])
    sizes = [line.get_markersize() for line in axes.lines if line.get_marker() == "o"]
    assert [size == max(sizes) for size in sizes] == [False, False, True] * 2  # the means stand out
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_scores_of_the_mean_weigh_each_part_the_same(methods: dict[str, MethodRuns]) -> None:
    text = paragraphs(*methods_page(methods, [], picture="x.png", heading="##"))
    sections = text.split("## Tested on ")[1:]
    assert [section.splitlines()[0] for section in sections] == ["inter", "intra", "mean of inter and intra"]
    values = []
    for section in sections:
        (line,) = [line for line in section.splitlines() if line.startswith("| plain | 3 |")]
        values.append([float(cell.split("(")[0]) for cell in line.strip("|").split(" | ")[2:]])
    inter, intra, mean = np.array(values)
    assert len(mean) == 4
    np.testing.assert_allclose(mean, (inter + intra) / 2, atol=0.101)
    assert "72 cycles of 12 patients." in sections[0]
    assert "162 cycles of 27 patients." in sections[2]
    assert "Differences" not in text


def test_what_the_runs_were_made_of_is_named() -> None:
    older = {key: value for key, value in FACTS.items() if key != "processor"} | {"revision": None}
    text = provenance({"a": [FACTS, FACTS], "b": [FACTS, older]})
    assert "| a | 6 | 4990 | 0123456789abcdef | c0ffee0c0 | x86_64 A Processor |" in text
    assert "| b | 6 | 4990 | 0123456789abcdef | c0ffee0c0, not known | x86_64 A Processor, not known |" in text
