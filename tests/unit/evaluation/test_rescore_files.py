import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from lungsound.errors import DataError, LungsoundError, SettingsError
from lungsound.evaluation.bootstrap import patient_confusions
from lungsound.evaluation.predictions import Predictions, write_predictions
from lungsound.evaluation.rescore import PatientCounts
from lungsound.evaluation.rescore_files import ReadOptions, parse_probabilities, read_parts

CLASSES = ("normal", "crackle", "wheeze", "both")
COUNTS = [[6, 1, 1, 0], [1, 3, 1, 0], [0, 2, 2, 0], [1, 0, 1, 1]]
COLUMNS = {"label": "true", "predicted": "guess"}


def read(folder: Path, text: str, name: str = "f.csv", **options: object) -> list[PatientCounts]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_parts(path, ReadOptions(**options))


def table_of(folder: Path, text: str, **options: object) -> PatientCounts:
    (counts,) = read(folder, text, **{"label": "true", "classes": ("normal", "crackle"), **options})
    return counts


def matrix_of(folder: Path, text: str, name: str = "m.csv", **options: object) -> PatientCounts:
    (counts,) = read(folder, text, name, **options)
    return counts


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


def test_our_own_predictions(tmp_path: Path) -> None:
    predictions = drawn_predictions()
    for name in ("p.csv", "p.csv.gz"):
        write_predictions(tmp_path / name, predictions)
        both = read_parts(tmp_path / name, ReadOptions())
        assert [(counts.classes, counts.parts) for counts in both] == [(CLASSES, ("intra",)), (CLASSES, ("inter",))]
        np.testing.assert_array_equal(both[1].confusions, patient_confusions(predictions.of_part("inter")))
        assert all(counts.has_patients and len(counts.rankings) == 4 for counts in both)
        (together,) = read_parts(tmp_path / name, ReadOptions(), ["inter", "intra"])
        assert (together.parts, together.confusion.sum()) == (("inter", "intra"), 40)
        with pytest.raises(DataError, match="has no part 'test'; it has intra, inter"):
            read_parts(tmp_path / name, ReadOptions(), ["test"])


def test_a_table_with_named_columns(tmp_path: Path) -> None:
    text = "\ufefftrue,guess,who,fold,x\nwheeze,ok,a,dev,1\nok,ok,b,test,2\ncrackle,wheeze,a,test,3\n"
    options = {"label": "true", "predicted": "guess", "patient": "who", "classes": ("ok", "crackle", "wheeze")}
    dev, test = read(tmp_path, text, part="fold", **options)
    assert (dev.parts, dev.confusions.tolist()) == (("dev",), [[[0, 0, 0], [0, 0, 0], [1, 0, 0]]])
    assert (test.parts, test.confusion.tolist()) == (("test",), [[1, 0, 0], [0, 0, 1], [0, 0, 0]])
    assert (test.confusions.shape, test.has_patients, test.rankings, test.notes) == ((2, 3, 3), True, {}, ())
    (without,) = read(tmp_path, text, **{**options, "patient": None})
    assert (without.has_patients, without.parts, without.confusions.shape) == (False, (), (1, 3, 3))


def test_probabilities_in_the_order_of_the_classes(tmp_path: Path) -> None:
    text = "true,w,n\nnormal,0.1,0.9\nwheeze,0.7,0.3\nnormal,0.6,0.4\n"
    shares = {"normal": "n", "wheeze": "w"}
    counts = table_of(tmp_path, text, probabilities=shares, classes=())
    assert (counts.classes, counts.confusion.tolist()) == (("normal", "wheeze"), [[1, 1], [0, 1]])
    assert float(counts.rankings["abnormal_auroc"](np.ones(1))) == 1.0
    assert len(counts.notes) == 2
    counts = table_of(tmp_path, text, probabilities=shares, predicted="true", classes=("normal", "wheeze"))
    assert counts.confusion.tolist() == [[2, 0], [0, 1]]
    assert "1 of 3 predicted classes are not the most probable" in counts.notes[0]
    assert parse_probabilities(["normal=n", "wheeze=w=1"]) == {"normal": "n", "wheeze": "w=1"}
    with pytest.raises(SettingsError, match="CLASS=COLUMN; got 'normal'"):
        parse_probabilities(["normal"])


def test_a_table_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    who = {**COLUMNS, "patient": "who"}
    shares = {"label": "true", "probabilities": {"normal": "a", "crackle": "b"}}
    for text, options, message in (
        ("true,guess\n", COLUMNS, "has no row"),
        ("true,guess,true\nnormal,normal,normal\n", COLUMNS, "line 1: needs one column 'true'"),
        ("true,guess\nnormal,normal\n", who, "line 1: needs one column 'who'"),
        ("true,guess\nnormal,crackle\nnormal\n", COLUMNS, "line 3: 1 columns where the header has 2"),
        ("true,guess\nnormal,Crackle\n", COLUMNS, "line 2: guess is 'Crackle', none of the classes normal, crackle"),
        *(
            (f"true,guess,who\nnormal,normal,a\nnormal,normal,{missing}\n", who, "line 3: who is missing")
            for missing in ("", " ", "nan", "NaN", "NA", "None")
        ),
        ("true,guess\nnormal,normal\ncrackle,nan\n", COLUMNS, "line 3: guess is 'nan', none of the classes"),
        ("true,guess\nnormal,300000000\n", COLUMNS, "line 2: guess is '300000000', none of the classes"),
        ("true,guess\nnormal,normal\n", {**COLUMNS, "classes": tuple(map(str, range(5_000)))}, "5000 classes"),
        (f"{','.join(map(str, range(5_000)))}\n", COLUMNS, "5000 columns"),
        ('true,guess\nnormal,"x\n', COLUMNS, "line 2: no valid CSV"),
        ("true,guess\nnormal,normal\n", {"label": "true"}, "name the columns with --label, and with --predicted"),
        ("true,guess\nnormal,normal\n", {"predicted": "guess"}, "name the columns with --label"),
        ("true,guess\nnormal,normal\n", {**COLUMNS, "classes": ()}, "name its classes, the normal one first"),
        ("true,guess\nnormal,normal\n", {**COLUMNS, "classes": ("normal", "normal")}, "two or more different names"),
        ("true,p\nnormal,1\n", {"label": "true", "probabilities": {"normal": "p"}}, "each class of normal, crackle"),
        ("true,guess\nnormal,normal\n", {**COLUMNS, "is_transposed": True}, "are for a confusion matrix"),
        ("true,guess\nnormal,normal\n", {**COLUMNS, "are_counts": True}, "are for a confusion matrix"),
        *(
            (f"true,a,b\nnormal,{cells}\n", shares, "are no probabilities; they must sum to 1")
            for cells in ("2.5,-1.5", "0.5,0.4", "high,low", "nan,1", "0.0_1,0.99", "1e999,0", f"{'0' * 5_000},1")
        ),
    ):
        with pytest.raises(LungsoundError, match=message) as caught:
            read(tmp_path, text, **{"classes": ("normal", "crackle"), **options})
        assert "\n" not in str(caught.value)


NAMED = [f"{name},{','.join(map(str, row))}" for name, row in zip(CLASSES, COUNTS, strict=True)]
BARE = [",".join(map(str, row)) for row in COUNTS]


def test_every_form_of_a_matrix(tmp_path: Path) -> None:
    for name, text, options in (
        ("m.csv", "\n".join(["y_true,normal,crackle,wheeze,both", *NAMED]), {}),  # the form of pandas' crosstab
        ("m.csv", "\n".join([",normal, crackle,wheeze,both", *NAMED, ""]), {"classes": CLASSES}),
        ("m.csv", "\n".join(BARE), {"classes": CLASSES}),
        ("m.json", json.dumps({"confusion": COUNTS, "classes": CLASSES, "other": 1}), {}),
        ("m.json", json.dumps(COUNTS), {"classes": CLASSES}),
    ):
        counts = matrix_of(tmp_path, text, name, **options)
        assert (counts.classes, counts.confusion.tolist()) == (CLASSES, COUNTS)
        assert (counts.has_patients, counts.rankings) == (False, {})
        assert ("the first of the file, is the normal one" in "".join(counts.notes)) == (not options)


def test_a_compressed_matrix(tmp_path: Path) -> None:
    path = tmp_path / "m.json.gz"
    path.write_bytes(gzip.compress(b"[[5, 1], [2, 3]]"))
    (counts,) = read_parts(path, ReadOptions(classes=("a", "b")))
    assert counts.confusion.tolist() == [[5, 1], [2, 3]]


def test_rows_of_predictions_and_another_order_are_turned(tmp_path: Path) -> None:
    text = json.dumps(np.array(COUNTS).T.tolist())
    assert matrix_of(tmp_path, text, "m.json", classes=CLASSES, is_transposed=True).confusion.tolist() == COUNTS
    order = [2, 0, 3, 1]
    turned = {"confusion": np.array(COUNTS)[order][:, order].tolist(), "classes": [CLASSES[i] for i in order]}
    counts = matrix_of(tmp_path, json.dumps(turned), "m.json", classes=CLASSES)
    assert (counts.classes, counts.confusion.tolist()) == (CLASSES, COUNTS)


PERCENTAGES = "80,10,6,4\n30,60,5,5\n20,10,61,10\n0,0,0,0\n"


def test_percentages_are_no_counts(tmp_path: Path) -> None:
    rows = np.array([row.split(",") for row in PERCENTAGES.split()])
    for is_transposed in (False, True):
        text = "\n".join(",".join(row) for row in (rows.T if is_transposed else rows))
        with pytest.raises(DataError, match=r"every (row|column) sums to 100.* say --counts"):
            matrix_of(tmp_path, text, classes=CLASSES, is_transposed=is_transposed)
        counts = matrix_of(tmp_path, text, classes=CLASSES, is_transposed=is_transposed, are_counts=True)
        assert counts.confusion[0].tolist() == [80, 10, 6, 4]
    assert matrix_of(tmp_path, PERCENTAGES.replace("5,5", "5,8"), classes=CLASSES).confusion.sum() == 304


def test_what_is_no_matrix(tmp_path: Path) -> None:
    two = {"classes": ("a", "b")}
    for name, text, options, message in (
        ("m.csv", "", {}, "a matrix of 0 classes"),
        ("m.csv", ",", {}, "neither our predictions nor a matrix"),
        ("m.csv", ",", two, "neither our predictions nor a matrix"),
        ("m.csv", ",\n,", {}, "neither our predictions nor a matrix"),
        ("m.csv", f"{'9' * 5_000},1\n1,2\n", two, "a matrix of 1 classes"),
        ("m.csv", "1,2\n3,99999999999999999999\n", two, "row 2: '99999999999999999999' is no count"),
        ("m.csv", "1,2\n3,\u0664\n", two, "row 2: .* is no count"),
        ("m.csv", "1\n" * 5_000, two, "5000 classes"),
        ("m.json", "[" * 100_000, two, "nested deeper"),
        ("m.json", f"[[{'9' * 5_000}, 1], [1, 1]]", two, "a number of 5000 digits"),
        ("m.json", "[[NaN, 1], [1, 1]]", two, "NaN"),
        ("m.json", '{"confusion": [[1, 2], [3, 4]], "classes": 5}', two, "no matrix"),
        ("m.json", '{"confusion": [[1, 2], [3, 4]], "classes": null}', two, "no matrix"),
        ("m.json", '{"confusion": [[1, 2], [3, 4]], "classes": ["a", "b", "b"]}', {}, "2 rows of a, b, b"),
        ("m.csv", "true,guess\nnormal,crackle\n", {}, "neither our predictions nor a matrix"),
        ("m.csv", "x,normal,a\na,1,2\nnormal,3,4\n", {}, "the same classes along its first line and column"),
        ("m.csv", "x,a,b\na,0.8,0.2\nb,0.1,0.9\n", {}, r"row 1: '0\.8' is no count"),
        ("m.csv", "1,2\n3,-4\n", two, "row 2: '-4' is no count"),
        ("m.csv", "1,2,3\n4,5,6\n", two, "3 counts in row 1 of a matrix of 2 rows"),
        ("m.csv", ",n,c,Total\nn,10,2,12\nc,3,9,12\nTotal,13,11,24\n", {}, "are the sums of the others"),
        ("m.csv", "0,0\n0,0\n", two, "a matrix of 2 classes and 0 cycles"),
        ("m.csv", "1,2\n3,4\n", {}, "name its classes, the normal one first"),
        ("m.csv", "1,2\n3,4\n", {"classes": ("normal", "a", "b")}, "2 rows of no names, but the classes normal, a, b"),
        ("m.csv", "x,a,a\na,1,2\na,3,4\n", {}, "2 rows of a, a"),
        ("m.json", "{\n'a': 1}", {}, "line 2: no valid JSON"),
        ("m.json", '{"accuracy": 1}', {}, "no matrix"),
        ("m.json", '{"confusion": [1, 2]}', {}, "no matrix"),
        ("m.json", "[[1, true], [2, 3]]", two, "row 1: 'True' is no count"),
        ("m.json", '{"confusion": [[1, 2], [3, 4]], "classes": ["normal"]}', {}, "2 rows of normal"),
    ):
        with pytest.raises(LungsoundError, match=message) as caught:
            matrix_of(tmp_path, text, name, **options)
        assert "\n" not in str(caught.value)
    (tmp_path / "m.csv").write_text("1,2\n3,4\n", encoding="utf-8")
    with pytest.raises(DataError, match="without parts: leave out --part"):
        read_parts(tmp_path / "m.csv", ReadOptions(**two), ["test"])


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_parts(tmp_path / "none.csv", ReadOptions())
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff")
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_parts(tmp_path / "x.png", ReadOptions())
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"label,answer\n0,1\n")[:-9])
    with pytest.raises(DataError, match=r"x\.csv\.gz: cannot be read: Compressed file ended"):
        read_parts(tmp_path / "x.csv.gz", ReadOptions())
