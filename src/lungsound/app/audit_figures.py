"""The pictures of an audit: classes by part, and where the spectra of the recordings end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lungsound.data.audit import RecordingFinding
from lungsound.evaluation.figures import LINE_COLOURS, picture


def draw_classes(counts_of: Mapping[str, Mapping[str, int]], words: Sequence[str], path: Path) -> None:
    """Draw what share of each part's cycles each class has, a group of bars for each class."""
    width = 0.8 / len(counts_of)
    with picture(path, width_inch=8.0, height_inch=3.2) as figure:
        axes = figure.add_subplot()
        for number, (part, counts) in enumerate(counts_of.items()):
            total = sum(counts.values())
            axes.bar(
                np.arange(len(words)) + (number - (len(counts_of) - 1) / 2) * width,
                [100 * counts[word] / max(total, 1) for word in words],
                width=0.95 * width,
                color=LINE_COLOURS[number % len(LINE_COLOURS)],
                label=f"{part} ({total:,} cycles)",
            )
        axes.set_xticks(range(len(words)), words)
        axes.set_ylabel("percent of the part's cycles")
        axes.set_title("Share of each class in each part")
        axes.legend(loc="upper right")


def draw_bands(findings: Sequence[RecordingFinding], path: Path) -> None:
    """Draw how many recordings' spectra end where, in percent of half their rate, by device and rate."""
    groups: dict[str, list[float]] = {}
    for finding in findings:
        if finding.quality is not None and finding.quality.band is not None:
            rate_hz = finding.quality.sample_rate_hz
            groups.setdefault(f"{finding.device}, {rate_hz} Hz", []).append(
                200 * finding.quality.band.limit_hz / rate_hz
            )
    with picture(path, width_inch=8.0, height_inch=3.2) as figure:
        axes = figure.add_subplot()
        base = np.zeros(50)
        edges = np.linspace(0.0, 100.0, 51)
        for number, name in enumerate(sorted(groups)):
            heights, _ = np.histogram(groups[name], edges)
            colour = LINE_COLOURS[number % len(LINE_COLOURS)]
            axes.bar(edges[:-1], heights, width=2.0, bottom=base, align="edge", color=colour, label=name)
            base += heights
        axes.set_xlim(0, 100)
        axes.set_xlabel("end of the spectrum, percent of what the rate could hold")
        axes.set_ylabel("recordings")
        axes.set_title("Where the spectra of the recordings end")
        if groups:
            axes.legend(loc="upper right")
