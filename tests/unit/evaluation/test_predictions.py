from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lungsound.errors import DataError
from lungsound.evaluation.predictions import Predictions, read_predictions, rounded, write_predictions

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


def test_cycles_of_one_device() -> None:
    members = make().of_device("Meditron")
    assert members.keys == ROWS["keys"][:2]
    assert members.parts == ("test", "inter")
    assert members.probabilities.tolist() == ROWS["probabilities"][:2].tolist()
    assert make().of_device("").patients == ("102",)


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
    with pytest.raises(DataError, match=r"prediction 1 \(101_a#0.000-1.500\): probabilities sum to 1.0011"):
        make(probabilities=rows)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keys": ("a#0-1", "a#0-1", "b#0-1")}, r"prediction 2 \(a#0-1\): key 'a#0-1' comes a second time"),
        ({"keys": ("a#0-1", "a", "b#0-1")}, "'a' is no key: <recording>#<start>-<end> is needed"),
        ({"patients": ("1", "", "2")}, "the patient is blank"),
        ({"patients": ("1", "2")}, r"3 keys and 3 classes need .* got \(2, 3, 3, \(3,\), \(3, 3\)\)"),
        ({"parts": ("test",)}, r"need patients, devices, parts, labels and .* got \(3, 3, 1, \(3,\), \(3, 3\)\)"),
        ({"labels": np.array([0, 3, 1])}, "label 3 is outside 0 to 2"),
        ({"labels": np.array([0, -1, 1])}, "label -1 is outside 0 to 2"),
        ({"labels": np.array([0.0, 1.5, 1.0])}, "whole numbers; got float64"),
        ({"probabilities": np.full((3, 2), 0.5)}, r"got \(3, 3, 3, \(3,\), \(3, 2\)\)"),
        ({"probabilities": np.array([[1, 0, 0], [np.nan, 1, 0], [1, 0, 0]])}, "must be numbers from 0 to 1"),
        ({"probabilities": np.array([[1, 0, 0], [1.5, -0.5, 0], [1, 0, 0]])}, "must be numbers from 0 to 1"),
        ({"classes": ("normal", "crackle", "crackle")}, "with different names"),
        ({"keys": ()}, "predictions of no cycle"),
    ],
)
def test_what_breaks_a_rule_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**changed)


def test_file_is_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "run" / "predictions.csv"
    write_predictions(path, make())
    assert path.read_bytes() == FILE.encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_file_gives_back_the_same_bits(tmp_path: Path, dtype: type) -> None:
    rows = np.random.default_rng(0).dirichlet([0.1] * 3, size=500).astype(dtype)
    predictions = Predictions(
        keys=tuple(f'odd, "name"\u00e9#{i}.000-{i + 1}.000' for i in range(500)),
        patients=("p",) * 500,
        devices=("",) * 500,
        parts=("intra",) * 500,
        labels=np.arange(500) % 3,
        probabilities=rows,
        classes=CLASSES,
    )
    write_predictions(tmp_path / "p.csv", predictions)
    back = read_predictions(tmp_path / "p.csv")
    assert back.probabilities.tobytes() == predictions.probabilities.tobytes()
    assert back.probabilities.astype(dtype).tobytes() == rows.tobytes()
    assert back.labels.tobytes() == predictions.labels.tobytes()
    for name in ("keys", "patients", "devices", "parts", "classes"):
        assert getattr(back, name) == getattr(predictions, name)


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode())
    assert read_predictions(path).keys == ROWS["keys"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (FILE, "", r"p\.csv is empty: a header line"),
        (FILE, FILE.splitlines()[0] + "\n", "has a header but no cycle"),
        ("patient,device,", "patient,", r"p\.csv, line 1: no column 'device'; the header must be key,patient,device,"),
        (
            "device,part,",
            "device,",
            r"p\.csv, line 1: no column 'part'; the header must be key,patient,device,part,label,",
        ),
        ("patient,device", "device,patient", "line 1: the header is key,device,patient"),
        ("p_crackle,p_wheeze", "p_crackle,wheeze", "line 1: the header is key,patient,.*,wheeze; it must be"),
        ("p_crackle,p_wheeze", "p_crackle,p_crackle", "line 1: two or more probability columns with different"),
        ("inter,wheeze,wheeze", "inter,stridor,wheeze", r"p\.csv, line 3: unknown label 'stridor'; the classes"),
        ("inter,wheeze,wheeze", "inter,wheeze,stridor", r"p\.csv, line 3: unknown answer 'stridor'"),
        ("inter,wheeze,wheeze", "inter,wheeze,crackle", "line 3: the answer is 'crackle' but .* 'wheeze'"),
        ("0.125,0.125,0.75", "0.125,x,0.75", r"p\.csv, line 3: p_crackle is 'x', not a number"),
        ("0.125,0.125,0.75", "0.125,,0.75", "line 3: p_crackle is '', not a number"),
        ("0.125,0.125,0.75", "nan,0.125,0.75", "line 3: probabilities must be numbers from 0 to 1"),
        ("0.125,0.125,0.75", "0.125,0.125,0.7", r"line 3: probabilities sum to 0\.95"),
        ("0.125,0.125,0.75", "0.125,0.75", "line 3: 8 columns where the header has 9"),
        ("101_a#1.500-3.000", "101_a#0.000-1.500", "line 3: key '101_a#0.000-1.500' comes a second time"),
        ("101_a#1.500-3.000,101", "101_a#1.500-3.000,", "line 3: the patient is blank"),
        ("101_a#1.500-3.000", "101_a", "line 3: '101_a' is no key"),
        ("\n102_b", "\n\n102_b", "line 4: 0 columns where the header has 9"),
        ("inter,wheeze", '"inter,wheeze', r"p\.csv is not a CSV file in UTF-8"),
    ],
)
def test_malformed_file_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert FILE.count(old) == 1
    path = tmp_path / "p.csv"
    path.write_text(FILE.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
        read_predictions(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_predictions(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00RIFF")
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        read_predictions(tmp_path / "b.csv")


def test_a_failing_write_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_predictions(path, make())
    unwritable = make(patients=("101", "\udc80", "102"))
    with pytest.raises(UnicodeEncodeError):
        write_predictions(path, unwritable)
    assert path.read_text(encoding="utf-8") == FILE


# ---- compressed and rounded ----


def test_a_compressed_file_reads_back_the_same_bits_and_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    predictions = make()
    first, second = tmp_path / "a.csv.gz", tmp_path / "b.csv.gz"
    write_predictions(first, predictions)
    write_predictions(second, predictions)
    found = read_predictions(first)
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[:2] == b"\x1f\x8b"
    assert found.keys == predictions.keys
    assert np.array_equal(found.probabilities, predictions.probabilities)


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda _: b"key,patient", lambda data: data[:20]])
def test_a_damaged_compressed_file_is_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    write_predictions(path, make())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"predictions file .*a\.csv\.gz cannot be read"):
        read_predictions(path)


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
    found = rounded(predictions, 4)
    assert found.predicted.tolist() == predictions.predicted.tolist() == [1, 1]
    assert found.probabilities[0].tolist() == probabilities[0].tolist()  # rounded, the first class would be as likely
    assert found.probabilities[1].tolist() == [0.1235, 0.6235, 0.2531]
