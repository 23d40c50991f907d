import json
from pathlib import Path

import numpy as np
import pytest

from lungsound.errors import DataError
from lungsound.evaluation.rescore_files import Reading, Tally, read_answer_file

COUNTS = [[6, 1, 1, 0], [1, 3, 1, 0], [0, 2, 2, 0], [1, 0, 1, 1]]
CLASSES = ("normal", "crackle", "wheeze", "both")
PLAIN_ROWS = [" ".join(map(str, row)) for row in COUNTS]
NUMPY_TEXT = str(np.array(COUNTS))


def tally_of(folder: Path, text: str, name: str = "m.csv", **how: object) -> Tally:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    found = read_answer_file(path, Reading(**how))
    assert isinstance(found, Tally)
    return found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.txt", "\n".join(PLAIN_ROWS)),
        ("m.txt", NUMPY_TEXT),
        ("m.csv", "\n".join(row.replace(" ", ",") for row in PLAIN_ROWS) + "\n"),
        ("m.csv", "\n".join(row.replace(" ", ".0;") for row in PLAIN_ROWS)),
        ("m.tsv", "# counts\n" + "\n".join(row.replace(" ", "\t") for row in PLAIN_ROWS)),
        ("m.csv", "normal,crackle,wheeze,both\n" + "\n".join(row.replace(" ", ", ") for row in PLAIN_ROWS)),
        ("m.csv", "0,1,2,3\n" + "\n".join(row.replace(" ", ",") for row in PLAIN_ROWS)),
        (
            "m.csv",
            ",0,1,2,3\n" + "\n".join(f"{i}," + row.replace(" ", ",") for i, row in enumerate(PLAIN_ROWS)),
        ),
        ("m.txt", "\n".join(f"{name} {row}" for name, row in zip(CLASSES, PLAIN_ROWS, strict=True))),
        # What pandas' crosstab writes.
        (
            "m.csv",
            "y_true,normal,crackle,wheeze,both\n"
            + "\n".join(f"{name}," + row.replace(" ", ",") for name, row in zip(CLASSES, PLAIN_ROWS, strict=True)),
        ),
        ("m.json", json.dumps(COUNTS)),
        ("m.json", json.dumps({"confusion": COUNTS, "classes": CLASSES})),
        ("m.json", json.dumps({"confusion_matrix": COUNTS, "other": 1})),
    ],
)
def test_every_form_of_a_matrix(tmp_path: Path, name: str, text: str) -> None:
    tally = tally_of(tmp_path, text, name)
    assert tally.confusion.tolist() == COUNTS
    assert tally.classes == CLASSES
    assert tally.unit == ""
    assert "which cycles are of one patient" in tally.no_unit
    assert tally.rankings is None


PERCENTAGES = "80,10,6,4\n30,60,5,5\n20,10,61,10\n0,0,0,0\n"


@pytest.mark.parametrize("is_transposed", [False, True])
def test_whole_percentages_are_no_counts(tmp_path: Path, is_transposed: bool) -> None:
    rows = np.array([row.split(",") for row in PERCENTAGES.split()])
    text = "\n".join(" ".join(row) for row in (rows.T if is_transposed else rows))
    with pytest.raises(
        DataError, match=r"every (row|column) sums to 100 \(80 \+ 10 \+ 6 \+ 4\).* say --counts"
    ) as caught:
        tally_of(tmp_path, text, is_transposed=is_transposed)
    assert "\n" not in str(caught.value)
    tally = tally_of(tmp_path, text, is_transposed=is_transposed, are_counts=True)
    assert tally.confusion[0].tolist() == [80, 10, 6, 4]


def test_counts_that_are_not_all_100_are_no_percentages(tmp_path: Path) -> None:
    assert tally_of(tmp_path, PERCENTAGES.replace("5,5", "5,8")).confusion.sum() == 304


def test_rows_of_answers_and_another_order_are_turned(tmp_path: Path) -> None:
    transposed = "\n".join(" ".join(map(str, row)) for row in np.array(COUNTS).T.tolist())
    assert tally_of(tmp_path, transposed, is_transposed=True).confusion.tolist() == COUNTS
    order = [2, 0, 3, 1]
    turned = np.array(COUNTS)[order][:, order]
    text = "\n".join(" ".join(map(str, row)) for row in turned.tolist())
    tally = tally_of(tmp_path, text, classes=("wheeze", "normal", "both", "crackle"))
    assert tally.classes == ("normal", "wheeze", "both", "crackle")
    assert tally.confusion[0].tolist() == [6, 1, 0, 1]
    assert tally.confusion[1].tolist() == [0, 2, 0, 2]


def test_names_in_the_file_put_normal_first(tmp_path: Path) -> None:
    tally = tally_of(tmp_path, "abnormal,healthy\n7,2\n3,10\n")
    assert tally.classes == ("healthy", "abnormal")
    assert tally.confusion.tolist() == [[10, 3], [2, 7]]
    tally = tally_of(tmp_path, "A,B\n7,2\n3,10\n", normal="B")
    assert tally.classes == ("B", "A")


@pytest.mark.parametrize(
    ("name", "text", "how", "message"),
    [
        ("m.csv", "0.8,0.2\n0.1,0.9\n", {}, r"m\.csv, line 1: '0\.8' is no count of cycles; .* not of shares"),
        ("m.csv", "1,2\n3,-4\n", {}, r"m\.csv, line 2: '-4' is no count"),
        ("m.csv", "1,2,3\n4,5,6\n", {}, r"m\.csv, line 1: 3 numbers in a matrix of 2 rows"),
        ("m.csv", "0,0\n0,0\n", {}, "a matrix of 2 classes and 0 cycles"),
        ("m.json", "{\n'a': 1}", {}, r"m\.json, line 2: no valid JSON"),
        ("m.json", '{"accuracy": 1}', {}, r"m\.json: no entry confusion, confusion_matrix, matrix or cm"),
        ("m.json", '{"confusion": [1, 2]}', {}, "the matrix is no list of lists"),
        ("m.json", "[[1, true], [2, 3]]", {}, r"row 1 of the matrix: 'true' is no count"),
        ("m.json", '{"cm": [[1, 2], [3, 4]], "classes": ["normal"]}', {}, "1 class names .* for 2 rows"),
        ("m.csv", "1,2\n3,4\n", {"classes": ("normal", "a", "b")}, "2 rows of counts, but --classes names 3"),
        ("m.csv", "normal,a\n1,2\n3,4\n", {"classes": ("a", "normal")}, "its classes are normal, a, but --classes"),
        ("m.csv", "A,B\n1,2\n3,4\n", {}, r"no class is called normal \(A, B\)"),
        ("m.csv", "x,normal,normal\nnormal,1,2\nnormal,3,4\n", {}, "a class comes twice in normal, normal"),
        ("m.csv", "x,normal,a\na,1,2\nnormal,3,4\n", {}, "the columns are normal, a and the rows a, normal"),
    ],
)
def test_what_is_no_matrix(tmp_path: Path, name: str, text: str, how: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        tally_of(tmp_path, text, name, **how)
    assert "\n" not in str(caught.value)
