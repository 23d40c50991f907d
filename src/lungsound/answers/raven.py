"""Answers as a Raven selection table: tab-separated, with the columns that Raven needs and ours behind them."""

from lungsound.answers.answer import SEPARATOR, TIME_DECIMALS, Provenance, RecordingAnswer
from lungsound.answers.rows import PROBABILITY_PREFIX

COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Answer",
    "Best Guess",
    "Possible",
)


def raven_text(answer: RecordingAnswer, provenance: Provenance) -> str:
    """A selection for each cycle, over the frequencies that the model hears and the recording has."""
    classes = provenance.label_set.classes
    low_hz, high_hz = provenance.band_hz
    high_hz = min(high_hz, answer.sample_rate_hz / 2)
    lines = [[*COLUMNS, *(PROBABILITY_PREFIX + name for name in classes)]]
    lines += [
        [
            str(number),
            "Spectrogram 1",
            "1",
            f"{cycle.start_s:.{TIME_DECIMALS}f}",
            f"{cycle.end_s:.{TIME_DECIMALS}f}",
            f"{low_hz:.1f}",
            f"{high_hz:.1f}",
            cycle.said,
            cycle.answer,
            SEPARATOR.join(cycle.possible),
            *(f"{cycle.probabilities[name]:.6f}" for name in classes),
        ]
        for number, cycle in enumerate(answer.cycles, start=1)
    ]
    return "".join("\t".join(line) + "\n" for line in lines)
