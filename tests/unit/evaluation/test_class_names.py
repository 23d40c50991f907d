import pytest

from lungsound.errors import DataError, SettingsError
from lungsound.evaluation.rescore_files import classes_of_indices, classes_of_names, given_classes, plain, whole_number


def test_spellings_that_mean_the_same() -> None:
    assert plain(" Wheeze+Crackle ") == plain("wheeze_crackle") == "wheeze crackle"


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), (" 3.0 ", 3), ("-1", -1), ("3.5", None), ("x", None), ("", None)]
)
def test_whole_number(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_normal_is_put_first_and_found_by_name_or_index_of_the_file() -> None:
    classes = given_classes(["wheeze", "Normal", "crackle"], None)
    assert classes.normal_first == ("Normal", "wheeze", "crackle")
    assert classes.order == (1, 0, 2)
    assert [classes.index(text) for text in ("normal", "wheeze", "2", "1.0", "0")] == [0, 1, 2, 0, 1]
    assert [classes.index(text) for text in ("both", "3", "-1")] == [None] * 3
    assert classes.notes == ()


def test_first_given_class_is_normal_when_none_is_called_so() -> None:
    classes = given_classes(["A", "B"], None)
    assert classes.normal_first == ("A", "B")
    assert "'A', the first of --classes, is taken as normal" in classes.notes[0]
    assert given_classes(["A", "B"], "b").normal_first == ("B", "A")
    assert given_classes(["A", "B"], "1").normal_first == ("B", "A")


@pytest.mark.parametrize("names", [["normal"], ["a", "A"], ["a", ""]])
def test_what_cannot_be_classes(names: list[str]) -> None:
    with pytest.raises(SettingsError, match="--classes needs two or more different names"):
        given_classes(names, None)


def test_unknown_normal_class() -> None:
    with pytest.raises(SettingsError, match=r"--normal C: no such class; the classes are A, B"):
        given_classes(["A", "B"], "C")


@pytest.mark.parametrize(
    ("num_classes", "names"),
    [
        (2, ("normal", "abnormal")),
        (3, ("class 0", "class 1", "class 2")),
        (4, ("normal", "crackle", "wheeze", "both")),
    ],
)
def test_indices_without_names(num_classes: int, names: tuple[str, ...]) -> None:
    classes = classes_of_indices(num_classes, None)
    assert classes.normal_first == names
    assert "--classes says otherwise" in classes.notes[0]


def test_names_come_in_icbhi_order_or_as_they_are_written() -> None:
    four = ["Both", "Wheeze", "normal", "both", "Crackle"]
    assert classes_of_names(four, None, source="f").normal_first == ("normal", "Crackle", "Wheeze", "Both")
    seven = ["Stridor", "Healthy", "Rhonchi"]
    assert classes_of_names(seven, None, source="f").normal_first == ("Healthy", "Stridor", "Rhonchi")


def test_names_without_a_normal_one() -> None:
    with pytest.raises(DataError, match=r"f: no class is called normal \(A, B\): name it with --normal NAME"):
        classes_of_names(["A", "B"], None, source="f")
    with pytest.raises(DataError, match="all rows are of class 'normal'"):
        classes_of_names(["normal", "Normal"], None, source="f")
