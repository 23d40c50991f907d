from dataclasses import replace

from lungsound.inference.formats.annotations import raven_text
from tests.unit.inference.formats.examples import ANSWER, PROVENANCE, SILENT, awkward_answer

# The columns of Raven Pro's own tables (user's manual, "Selection tables"), in its order.
NEEDED = ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"]


def read(text: str) -> list[dict[str, str]]:
    assert text.endswith("\n")
    head, *lines = [line.split("\t") for line in text.removesuffix("\n").split("\n")]
    assert head[:7] == NEEDED
    assert len(set(head)) == len(head)
    found = [dict(zip(head, line, strict=True)) for line in lines]
    for number, row in enumerate(found, start=1):
        assert (row["Selection"], row["View"], row["Channel"]) == (str(number), "Spectrogram 1", "1")
        assert 0.0 <= float(row["Begin Time (s)"]) < float(row["End Time (s)"])
        assert 0.0 <= float(row["Low Freq (Hz)"]) < float(row["High Freq (Hz)"])
    return found


def test_a_selection_for_each_cycle() -> None:
    found = read(raven_text(ANSWER, PROVENANCE))
    times = [(float(row["Begin Time (s)"]), float(row["End Time (s)"])) for row in found]
    assert times == [(0.25, 1.5), (1.5, 2.75), (3.0, 4.5)]
    assert [(row["Answer"], row["Best Guess"], row["Possible"]) for row in found] == [
        ("normal", "normal", ""),
        ("both", "both", "both;crackle"),
        ("uncertain", "wheeze", "normal;wheeze"),
    ]
    assert float(found[2]["p_wheeze"]) == 0.5


def test_frequencies_are_those_that_the_model_hears_and_the_recording_has() -> None:
    slow = replace(ANSWER, sample_rate_hz=4000)
    for answer, high in ((ANSWER, "8000.0"), (slow, "2000.0")):
        row = read(raven_text(answer, PROVENANCE))[0]
        assert (row["Low Freq (Hz)"], row["High Freq (Hz)"]) == ("20.0", high)


def test_no_cycles_and_awkward_names() -> None:
    assert read(raven_text(SILENT, PROVENANCE)) == []
    answer, provenance = awkward_answer()
    found = read(raven_text(answer, provenance))
    assert [row["Best Guess"] for row in found] == [cycle.best_guess for cycle in answer.cycles]
    assert {f"p_{name}" for name in provenance.label_set.classes} <= found[0].keys()
