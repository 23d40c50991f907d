import gzip
from pathlib import Path

import numpy as np
import pytest

from lungsound.errors import DataError, SettingsError
from lungsound.evaluation.bootstrap import patient_confusions
from lungsound.evaluation.metrics import confusion_matrix
from lungsound.evaluation.predictions import Predictions, write_predictions
from lungsound.evaluation.rescore_files import PATIENT, RECORDING, Answers, Reading, Tally, read_answer_file

CLASSES = ("normal", "crackle", "wheeze", "both")


def answers_of(folder: Path, text: str, **how: object) -> Answers:
    path = folder / "f.csv"
    path.write_text(text, encoding="utf-8")
    found = read_answer_file(path, Reading(**how))
    assert isinstance(found, Answers)
    return found


def drawn_predictions(num_cycles: int = 40) -> Predictions:
    generator = np.random.default_rng(0)
    return Predictions(
        keys=tuple(f"10{i % 7}_1b1_Al_sc_Meditron#{i}.000-{i + 1}.000" for i in range(num_cycles)),
        patients=tuple(f"10{i % 7}" for i in range(num_cycles)),
        devices=("Meditron",) * num_cycles,
        parts=tuple("inter" if i % 3 else "intra" for i in range(num_cycles)),
        labels=generator.integers(0, 4, num_cycles),
        probabilities=generator.dirichlet(np.ones(4), num_cycles),
        classes=CLASSES,
    )


def test_our_own_predictions_file(tmp_path: Path) -> None:
    predictions = drawn_predictions()
    write_predictions(tmp_path / "p.csv", predictions)
    found = read_answer_file(tmp_path / "p.csv")
    assert isinstance(found, Answers)
    assert found.classes == CLASSES
    assert found.labels.tolist() == predictions.labels.tolist()
    assert found.answers.tolist() == predictions.predicted.tolist()
    np.testing.assert_array_equal(found.probabilities, predictions.probabilities)
    assert (found.unit, found.units, found.parts) == (PATIENT, predictions.patients, predictions.parts)
    assert found.part_names() == ("intra", "inter")
    assert found.notes == ()
    tally = found.tally(["inter"])
    expected = patient_confusions(predictions.of_part("inter"))
    np.testing.assert_array_equal(tally.confusions, expected)
    assert tally.part == "inter"
    assert found.tally(["inter", "intra"]).confusion.sum() == 40


def test_a_strangers_columns(tmp_path: Path) -> None:
    found = answers_of(tmp_path, "\ufeffFile Name;Y_True;Y-Pred\na.wav;0;1\na.wav;3;3\nb.wav;1;0.0\n")
    assert found.classes == CLASSES
    assert (found.labels.tolist(), found.answers.tolist()) == ([0, 3, 1], [1, 3, 0])
    assert (found.unit, found.units) == (RECORDING, ("a", "a", "b"))
    assert found.parts == ("", "", "")
    assert "Indices 0 to 3 are read as normal, crackle, wheeze, both" in found.notes[0]


def test_named_columns_and_classes(tmp_path: Path) -> None:
    text = "a\tb\twho\n2\t0\tx\n1\t1\ty\n"
    found = answers_of(
        tmp_path,
        text,
        columns={"label": "a", "answer": "b", "patient": "who"},
        classes=("wheeze", "healthy", "crackle"),
    )
    assert found.classes == ("healthy", "wheeze", "crackle")
    assert (found.labels.tolist(), found.answers.tolist()) == ([2, 0], [1, 0])
    assert (found.unit, found.units) == (PATIENT, ("x", "y"))


def test_probabilities_stand_in_for_answers_in_any_order(tmp_path: Path) -> None:
    text = "true,prob_wheeze,prob_normal,prob_crackle\nnormal,0.1,0.2,0.7\nwheeze,0.5,0.3,0.2\n"
    found = answers_of(tmp_path, text)
    assert found.classes == ("normal", "wheeze", "crackle")
    np.testing.assert_array_equal(found.probabilities, [[0.2, 0.1, 0.7], [0.3, 0.5, 0.2]])
    assert found.answers.tolist() == [2, 1]
    assert "the likeliest class is taken" in found.notes[-1]


def test_probabilities_by_index(tmp_path: Path) -> None:
    found = answers_of(tmp_path, "y,pred,p_0,p_1\n0,0,0.9,0.1\n1,0,0.2,0.8\n")
    assert found.classes == ("normal", "abnormal")
    np.testing.assert_array_equal(found.probabilities, [[0.9, 0.1], [0.2, 0.8]])
    assert found.answers.tolist() == [0, 0]
    assert any("1 of 2 answers are not the likeliest class" in note for note in found.notes)


@pytest.mark.parametrize(
    ("columns", "cells", "why"),
    [
        ("p_normal,p_crackle", "2.5,-1", "do not sum to 1"),
        ("p_normal,p_crackle", "high,low", "not all of their cells are numbers"),
        ("p_id,p_value", "0.5,0.5", "not those of the classes"),
    ],
)
def test_columns_that_are_no_probabilities_are_named(tmp_path: Path, columns: str, cells: str, why: str) -> None:
    found = answers_of(tmp_path, f"label,answer,{columns}\nnormal,crackle,{cells}\n")
    assert found.probabilities is None
    assert found.classes == ("normal", "crackle")
    assert why in found.notes[-1]


@pytest.mark.parametrize(
    ("names", "unit", "units"),
    [
        (["/x/101_1b1_Al_sc_Meditron_3.wav", "226_1b1_Pl_sc_LittC2SE#0.5-1"], PATIENT, ("101", "226")),
        (["40512331_8.1_1_p1_3548#0.017-1.623", "65101170_0.4_0_p4_12.json"], PATIENT, ("40512331", "65101170")),
        (["101_1b1_Al_sc_Meditron", "other"], "", ()),
        (["a#0.0-1.0", "a#1.0-2.0"], RECORDING, ("a", "a")),
    ],
)
def test_patients_in_the_names_of_recordings(
    tmp_path: Path, names: list[str], unit: str, units: tuple[str, ...]
) -> None:
    rows = "\n".join(f"{name},0,1" for name in names)
    found = answers_of(tmp_path, f"recording,label,pred\n{rows}\n")
    assert (found.unit, found.units) == (unit, units)


def test_why_no_unit_is_known(tmp_path: Path) -> None:
    assert "no column names the patient or the recording" in answers_of(tmp_path, "y,pred\n0,1\n1,1\n").no_unit
    found = answers_of(tmp_path, "id,y,pred\n1,0,1\n2,1,1\n")
    assert found.no_unit == "each row has another 'id' and no column names the patient"
    tally = found.tally([""])
    assert tally.confusions.shape == (1, 2, 2)
    assert tally.confusion.tolist() == confusion_matrix([0, 1], [1, 1], 2).tolist()


@pytest.mark.parametrize(
    ("text", "how", "message"),
    [
        ("", {}, "is empty: a table with a row per cycle or a confusion matrix"),
        ("label,answer\n", {}, "has a header but no row"),
        (
            "label,y_true,pred\na,b,c\n",
            {},
            "line 1: the label could be 'label' or 'y_true'; say which with --label-col",
        ),
        ("label,score\n0,1\n1,1\n0,0\n", {}, "line 1: no column for the answer among label, score; .* --answer-column"),
        ("x,pred\n0,1\n1,1\n0,0\n", {}, "line 1: no column for the true class among x, pred; .* --label-column"),
        ("foo,bar\n0,1\n1,1\n0,0\n", {}, "line 1: neither a table with columns .* its columns are foo, bar"),
        ("label,answer\n0,1\n", {"columns": {"patient": "who"}}, "no column 'who' for the patient; .* label, answer"),
        ("label,answer\n0,1,2\n", {}, "line 2: 3 columns where the header has 2"),
        ("label,answer\n0,1\n1,0\n0,x\n", {}, "line 4: 'x' is no class index, as the other rows have it"),
        ("label,answer\n0,-1\n", {}, "class index -1; indices start at 0"),
        ("label,answer\nnormal,\n", {}, "line 2: a class is blank"),
        ("label,answer\nA,B\n", {}, r"no class is called normal \(A, B\): name it with --normal"),
        ("label,answer\nnormal,B\n", {"classes": ("normal", "A")}, "line 2: answer 'B' is no class; .* normal, A"),
        ("label,answer,patient\n0,1,a\n0,1,\n", {}, "line 3: the patient is blank"),
        ('label,answer\n0,"1\n', {}, "line 2: no valid table"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, text: str, how: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        answers_of(tmp_path, text, **how)
    assert "\n" not in str(caught.value)


def test_a_table_cannot_be_transposed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--transposed is for a confusion matrix"):
        answers_of(tmp_path, "label,answer\n0,1\n", is_transposed=True)
    with pytest.raises(SettingsError, match="--counts is for a confusion matrix"):
        answers_of(tmp_path, "label,answer\n0,1\n", are_counts=True)


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_answer_file(tmp_path / "none.csv")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match="is no text in UTF-8"):
        read_answer_file(tmp_path / "x.png")
    (tmp_path / "x.csv.gz").write_bytes(b"label,answer\n0,1\n")
    with pytest.raises(DataError, match=r"x\.csv\.gz cannot be read: Not a gzipped file"):
        read_answer_file(tmp_path / "x.csv.gz")
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"label,answer\n0,1\n")[:-9])
    with pytest.raises(DataError, match=r"x\.csv\.gz cannot be read: Compressed file ended"):
        read_answer_file(tmp_path / "x.csv.gz")


def test_compressed_files(tmp_path: Path) -> None:
    predictions = drawn_predictions()
    write_predictions(tmp_path / "p.csv.gz", predictions)
    found = read_answer_file(tmp_path / "p.csv.gz")
    assert isinstance(found, Answers)
    assert found.answers.tolist() == predictions.predicted.tolist()
    (tmp_path / "m.json.gz").write_bytes(gzip.compress(b"[[5, 1], [2, 3]]"))
    matrix = read_answer_file(tmp_path / "m.json.gz")
    assert isinstance(matrix, Tally)
    assert matrix.confusion.tolist() == [[5, 1], [2, 3]]
