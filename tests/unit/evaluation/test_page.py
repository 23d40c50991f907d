import json

import numpy as np

from lungsound.evaluation.rescore import Rescored, metric_table_blocks, rescore, rescore_blocks, rescore_json, summary
from lungsound.evaluation.rescore_files import Tally
from lungsound.page import Heading, Paragraph, Remark, Table, render_html, render_markdown

CLASSES = ("normal", "crackle", "wheeze", "both")
OFFICIAL = np.array([[1289, 150, 120, 20], [300, 280, 49, 20], [150, 35, 180, 20], [40, 40, 30, 33]])


def official(**how: object) -> Rescored:
    return rescore(Tally((), CLASSES, OFFICIAL[np.newaxis], unit="", no_unit="why", notes=("a note",)), **how)


def by_patients(part: str = "inter") -> Rescored:
    generator = np.random.default_rng(0)
    confusions = generator.integers(0, 6, (12, 4, 4))
    return rescore(Tally((part,), CLASSES, confusions, unit="patient"), num_draws=50)


def tables(result: Rescored) -> list[Table]:
    return [block for block in rescore_blocks([result]) if isinstance(block, Table)]


def test_summary() -> None:
    assert summary(official()) == (
        "2756 cycles, ICBHI 2017, official test set, 4 classes; classes normal, crackle, wheeze, both. Values in "
        "percent."
    )
    text = summary(by_patients())
    assert "cycles of 12 patients; classes" in text
    assert text.endswith("In brackets: 95 % intervals over patients.")


def test_each_metric_with_definition_value_and_column() -> None:
    result = official()
    metrics, by_class, confusion, _ = tables(result)
    assert metrics.head == ("metric", "value", "may stand beside", "what it is")
    assert (
        "ICBHI Score, exact class",
        "61.8",
        "Score of ICBHI, 4 classes",
        "mean of Sp and Se; SPRSound's average score (AS)",
    ) in metrics.rows
    assert len(metrics.rows) == len(result.lines)
    assert by_class.rows[0][:3] == ("normal", 1579, 1779)
    assert confusion.rows[1] == ("crackle", 300, 280, 49, 20)


def test_published_numbers_and_the_difference() -> None:
    published = tables(official())[3]
    rows = {row[0]: row for row in published.rows}
    ours = 100 * (1289 / 1579 + (280 + 180 + 33) / 1177) / 2
    assert rows["AST, Patch-Mix contrastive"][3:] == (
        "81.66",
        "43.07",
        "62.37 \N{PLUS-MINUS SIGN} 0.61",
        "on test (optimistic)",
        f"{ours - 62.37:+.1f}",
    )
    assert rows["BTS"][1:] == ("INTERSPEECH 2024", "4 classes", "", "", "63.54", "not known", f"{ours - 63.54:+.1f}")
    two_class = 100 * (1289 / 1579 + (1177 - 490) / 1177) / 2
    assert rows["AST, Patch-Mix contrastive, read as 2 classes"][-1] == f"{two_class - 68.71:+.1f}"
    assert not {"SAM-AST", "MVST", "RespireNet, five folds"} & rows.keys()
    page = render_markdown("t", rescore_blocks([official()]))
    assert "SAM-AST (68.10): its sensitivity is counted in 2 classes" in page


def test_warnings_and_notes_are_on_the_page() -> None:
    result = official()
    blocks = rescore_blocks([result])
    assert [block.text for block in blocks if isinstance(block, Remark)] == list(result.warnings)
    page = render_html("Every metric", blocks)
    assert "a note" in page
    assert "Patients 156 and 218" in page


def test_resamples_without_a_class_are_told_below_the_table() -> None:
    confusions = np.zeros((12, 4, 4), dtype=np.int64)
    confusions[:, 0, 0] = confusions[:, 1, 1] = confusions[:, 2, 2] = confusions[0, 3, 3] = 1
    result = rescore(Tally((), CLASSES, confusions, unit="patient"), num_draws=50)
    table, note = metric_table_blocks(result)
    assert isinstance(table, Table)
    assert isinstance(note, Paragraph)
    assert [note.text] == result.resample_notes
    assert note in rescore_blocks([result])


def test_parts_have_sections_of_their_own() -> None:
    blocks = rescore_blocks([by_patients("inter"), by_patients("intra")])
    assert [b.text for b in blocks if isinstance(b, Heading) and b.level == 2] == ["Part inter", "Part intra"]
    assert "Published numbers" not in render_markdown("t", blocks)


def test_json_reads_back() -> None:
    results = [official(epoch="last"), by_patients()]
    plain = json.loads(json.dumps(rescore_json(results, source="f.csv"), allow_nan=False))
    assert (plain["format"], plain["unit"], plain["file"]) == ("lungsound rescore 1", "fraction", "f.csv")
    first, second = plain["parts"]
    assert first["confusion"] == OFFICIAL.tolist()
    assert (first["intervals_over"], first["num_units"], first["epoch"]) == (None, None, "last")
    score = next(metric for metric in first["metrics"] if metric["key"] == "score")
    assert (score["low"], score["high"], score["is_beside_published"]) == (None, None, True)
    score = next(metric for metric in second["metrics"] if metric["key"] == "score")
    assert score["low"] < score["value"] < score["high"]
    assert score["num_undefined"] == 0
    assert (second["intervals_over"], second["num_units"]) == ("patient", 12)
    assert second["by_class"][0]["recall"]["value"] == by_patients().per_class[0].recall.value
