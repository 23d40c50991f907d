import gzip
from pathlib import Path

import numpy as np
import pytest

from lungsound.errors import DataError
from lungsound.evaluation.predictions import (
    Predictions,
    joined,
    predicted_classes,
    read_predictions,
    rounded,
    write_predictions,
)

CLASSES = ("normal", "crackle", "wheeze")
ROWS = {
    "keys": ("101_a#0.000-1.500", "101_a#1.500-3.000", "102_b#0.250-2.250"),
    "patients": ("101", "101", "102"),
    "devices": ("Meditron", "Meditron", ""),
    "parts": ("test", "inter", ""),
    "labels": np.array([0, 2, 1]),
    "probabilities": np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.5, 0.5, 0.0]]),
    "classes": CLASSES,
}
FILE = (
    "key,patient,device,part,label,answer,p_normal,p_crackle,p_wheeze\n"
    "101_a#0.000-1.500,101,Meditron,test,normal,normal,0.5,0.25,0.25\n"
    "101_a#1.500-3.000,101,Meditron,inter,wheeze,wheeze,0.125,0.125,0.75\n"
    "102_b#0.250-2.250,102,,,crackle,normal,0.5,0.5,0.0\n"
)


def make(**changed: object) -> Predictions:
    return Predictions(**{**ROWS, **changed})


def test_predicted_is_the_first_of_the_most_probable() -> None:
    assert make().predicted.tolist() == [0, 2, 0]
    assert make().predicted.dtype == np.int64


def test_arrays_are_copies_that_cannot_be_changed() -> None:
    labels = np.array([0, 2, 1])
    predictions = make(labels=labels)
    labels[0] = 1
    assert predictions.labels[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        predictions.probabilities[0, 0] = 1.0


def test_cycles_of_one_part_of_the_split() -> None:
    members = make().of_part("inter")
    assert (members.keys, members.devices, members.parts) == (ROWS["keys"][1:2], ("Meditron",), ("inter",))
    assert members.labels.tolist() == [2]
    assert members.probabilities.tolist() == ROWS["probabilities"][1:2].tolist()
    assert make().of_part("").patients == ("102",)


def test_rows_may_miss_one_by_rounding() -> None:
    rows = ROWS["probabilities"].copy()
    rows[0, 0] += 0.0009
    make(probabilities=rows)
    rows[0, 0] += 0.0002
    with pytest.raises(DataError, match=r"prediction 1 \(101_a#0.000-1.500\): \[0.5011, 0.25, 0.25\] must be numbers"):
        make(probabilities=rows)


def test_what_breaks_a_rule_is_refused() -> None:
    for changed, message in (
        ({"keys": ("a#0-1", "a#0-1", "b#0-1")}, r"prediction 2 \(a#0-1\): the key comes a second time"),
        ({"keys": ("a#0-1", "a", "b#0-1")}, r"prediction 2 \(a\): no key: <recording>#<start>-<end> is needed"),
        ({"patients": ("1", "", "2")}, "the patient is blank"),
        ({"patients": ("1", "2")}, r"3 keys and 3 classes need .* got \(2, 3, 3, \(3,\), \(3, 3\)\)"),
        ({"parts": ("test",)}, r"got \(3, 3, 1, \(3,\), \(3, 3\)\)"),
        ({"labels": np.array([0, 3, 1])}, "label 3 is outside 0 to 2"),
        ({"labels": np.array([0, -1, 1])}, "label -1 is outside 0 to 2"),
        ({"labels": np.array([0.0, 1.5, 1.0])}, "whole numbers; got float64"),
        ({"probabilities": np.full((3, 2), 0.5)}, r"got \(3, 3, 3, \(3,\), \(3, 2\)\)"),
        ({"probabilities": np.array([[1, 0, 0], [np.nan, 1, 0], [1, 0, 0]])}, "must be numbers from 0 to 1"),
        ({"probabilities": np.array([[1, 0, 0], [1.5, -0.5, 0], [1, 0, 0]])}, "must be numbers from 0 to 1"),
        ({"classes": ("normal", "crackle", "crackle")}, "with different names"),
        ({"keys": ()}, "predictions of no cycle"),
    ):
        with pytest.raises(DataError, match=message):
            make(**changed)


def test_file_is_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "run" / "predictions.csv"
    write_predictions(path, make())
    assert path.read_bytes() == FILE.encode()
    assert list(path.parent.iterdir()) == [path]


def test_file_gives_back_the_same_bits(tmp_path: Path) -> None:
    for dtype, name in ((np.float32, "a.csv"), (np.float64, "b.csv"), (np.float64, "c.csv.gz")):
        rows = np.random.default_rng(0).dirichlet([0.1] * 3, size=100).astype(dtype)
        predictions = Predictions(
            keys=tuple(f'odd, "name"\u00e9#{i}.000-{i + 1}.000' for i in range(100)),
            patients=("p",) * 100,
            devices=("",) * 100,
            parts=("intra",) * 100,
            labels=np.arange(100) % 3,
            probabilities=rows,
            classes=CLASSES,
        )
        write_predictions(tmp_path / name, predictions)
        back = read_predictions(tmp_path / name)
        assert back.probabilities.tobytes() == predictions.probabilities.tobytes()
        assert back.probabilities.astype(dtype).tobytes() == rows.tobytes()
        assert back.labels.tobytes() == predictions.labels.tobytes()
        for column in ("keys", "patients", "devices", "parts", "classes"):
            assert getattr(back, column) == getattr(predictions, column)


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n102", "\n\n102").replace("\n", "\r\n").encode())
    assert read_predictions(path).keys == ROWS["keys"]


def test_malformed_file_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for old, new, message in (
        (FILE, "", "has no row: a header"),
        (FILE, FILE.splitlines()[0] + "\n", "has no row: a header"),
        ("patient,device,", "patient,", "line 2: 9 columns where the header has 8"),
        ("patient,device", "device,patient", "line 1: the header is key,device,patient"),
        ("p_crackle,p_wheeze", "p_crackle,wheeze", "line 1: the header is key,patient,.*,wheeze; it must be"),
        ("p_crackle,p_wheeze", "p_crackle,p_crackle", "none of the classes normal, crackle, crackle"),
        ("inter,wheeze,wheeze", "inter,stridor,wheeze", "line 3: label is 'stridor', none of the classes"),
        ("inter,wheeze,wheeze", "inter,wheeze,stridor", "line 3: answer is 'stridor', none of the classes"),
        ("inter,wheeze,wheeze", "inter,wheeze,crackle", "line 3: the answer is 'crackle' but .* 'wheeze'"),
        ("0.125,0.125,0.75", "0.125,x,0.75", "line 3: 0.125, x, 0.75 are no probabilities"),
        ("0.125,0.125,0.75", "nan,0.125,0.75", "line 3: nan, 0.125, 0.75 are no probabilities"),
        ("0.125,0.125,0.75", "0.125,0.125,0.7", "line 3: 0.125, 0.125, 0.7 are no probabilities"),
        ("0.125,0.125,0.75", "0.125,0.75", "line 3: 8 columns where the header has 9"),
        ("101_a#1.500-3.000", "101_a#0.000-1.500", r"prediction 2 \(101_a#0.000-1.500\): the key comes a second"),
        ("101_a#1.500-3.000,101", "101_a#1.500-3.000,", r"prediction 2 \(.*\): the patient is blank"),
        ("101_a#1.500-3.000", "101_a", r"prediction 2 \(101_a\): no key"),
        ("inter,wheeze", '"inter,wheeze', "line 4: no valid CSV"),
    ):
        assert FILE.count(old) == 1
        path.write_text(FILE.replace(old, new), encoding="utf-8")
        with pytest.raises(DataError, match=message) as caught:
            read_predictions(path)
        assert str(path) in str(caught.value), message
        assert "\n" not in str(caught.value), message


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        read_predictions(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_predictions(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00RIFF")
    with pytest.raises(DataError, match="is text in UTF-16"):
        read_predictions(tmp_path / "b.csv")


def test_a_failing_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_predictions(path, make())
    unwritable = make(patients=("101", "\udc80", "102"))
    with pytest.raises(UnicodeEncodeError):
        write_predictions(path, unwritable)
    assert path.read_text(encoding="utf-8") == FILE


def test_a_compressed_file_is_the_same_bytes_each_time_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"
    write_predictions(first, make())
    write_predictions(second, make())
    data = first.read_bytes()
    assert second.read_bytes() == data
    assert data[:2] == b"\x1f\x8b"
    assert gzip.decompress(data) == FILE.encode()
    for damaged in (data[:-9], b"key,patient", data[:20]):
        first.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.csv\.gz: cannot be read"):
            read_predictions(first)


def test_rounding_keeps_every_predicted_class() -> None:
    probabilities = np.array([[0.40001, 0.40004, 0.19995], [0.123456, 0.623456, 0.253088]])
    predictions = Predictions(
        keys=("a#0.000-1.000", "a#1.000-2.000"),
        patients=("1", "1"),
        devices=("", ""),
        parts=("test", "test"),
        labels=np.array([0, 1]),
        probabilities=probabilities,
        classes=("normal", "crackle", "wheeze"),
    )
    shorter = rounded(predictions, 4)
    assert shorter.predicted.tolist() == predictions.predicted.tolist() == [1, 1]
    assert shorter.probabilities[0].tolist() == probabilities[0].tolist()  # rounded, the first class would be as likely
    assert shorter.probabilities[1].tolist() == [0.1235, 0.6235, 0.2531]


def test_classes_by_a_threshold_are_written_read_and_go_with_their_rows(tmp_path: Path) -> None:
    """Of a threshold of 0.1 for normal row 2 is normal, and of one of 0.6 the others are the first of theirs."""
    predictions = make(by_threshold=np.array([1, 0, 1]))
    assert predictions.predicted.tolist() == [1, 0, 1]
    path = tmp_path / "predictions.csv"
    write_predictions(path, predictions)
    again = read_predictions(path)
    assert again.predicted.tolist() == [1, 0, 1]
    assert again.of_rows([2, 1]).predicted.tolist() == [1, 0]
    assert again.of_part("inter").predicted.tolist() == [0]
    assert read_predictions_of(FILE, tmp_path).by_threshold is None
    other = make(keys=("9#0-1", "9#1-2", "9#2-3"))
    assert joined([again, other]).predicted.tolist() == [1, 0, 1, 0, 2, 0]
    assert joined([other]).by_threshold is None
    close = np.array([[0.5, 0.249, 0.251], [0.131, 0.119, 0.75], [0.5, 0.5, 0.0]])
    kept = rounded(make(probabilities=close, by_threshold=np.array([2, 2, 1])), 2)
    assert kept.probabilities.tolist() == [close[0].tolist(), [0.13, 0.12, 0.75], [0.5, 0.5, 0.0]]
    assert kept.predicted.tolist() == [2, 2, 1]
    with pytest.raises(DataError, match="3 cycles"):
        make(by_threshold=np.array([1, 0]))


def read_predictions_of(text: str, folder: Path) -> Predictions:
    (folder / "text.csv").write_text(text, encoding="utf-8")
    return read_predictions(folder / "text.csv")


def test_a_threshold_decides_between_normal_and_the_most_probable_other() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.1, 0.45, 0.45]])
    for threshold, expected in ((None, [0, 2, 1]), (0.2, [0, 0, 1]), (0.6, [1, 2, 1]), (0.0, [0, 0, 0])):
        assert predicted_classes(probabilities, threshold).tolist() == expected
    assert int(predicted_classes(probabilities[0], 0.5)) == 0
