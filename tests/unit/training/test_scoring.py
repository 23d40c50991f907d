from pathlib import Path

import pytest

from lungsound.config import DataSettings, ModelSettings, load_config
from lungsound.training.evaluate import _model_name, _named, _selection, data_to_test
from tests.unit.data.trees import write_sound


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ModelSettings(), "AST base"),
        (ModelSettings(size="micro", pooling="average_token"), "AST micro, average token"),
        (ModelSettings(architecture="resnet18", pooling="average_token"), "resnet18"),
    ],
)
def test_a_report_names_the_architecture(settings: ModelSettings, name: str) -> None:
    assert _model_name(settings) == name


@pytest.mark.parametrize(
    ("num_patients", "end"), [(1, "0"), (10, "8, 9"), (11, "8, 9 and 1 more"), (160, "and 150 more")]
)
def test_a_report_names_no_more_than_ten_patients(num_patients: int, end: str) -> None:
    named = _named([str(number) for number in range(num_patients)])
    assert named.startswith("0")
    assert named.endswith(end)


@pytest.mark.parametrize(
    ("chosen_by", "is_chosen", "is_other_corpus", "told"),
    [
        ("best_on_test", True, False, "best_on_test"),
        ("best_on_test", True, True, "best_on_other_test"),
        ("best_on_test", False, True, "last"),
        ("validation", True, True, "validation"),
    ],
)
def test_what_chose_the_epoch_on_another_corpus(
    chosen_by: str, is_chosen: bool, is_other_corpus: bool, told: str
) -> None:
    config = load_config("demo", [f"train.selection={chosen_by}"])
    assert _selection(config, is_chosen=is_chosen, is_other_corpus=is_other_corpus) == told


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A table in words of its own, and one in those of a label set."""
    for name, words in (("own", ("clear", "whistle")), ("known", ("normal", "wheeze"))):
        write_sound(tmp_path / name / "a.wav")
        write_sound(tmp_path / name / "b.wav")
        lines = [f"{sound}.wav,{word},{sound}" for sound, word in zip("ab", words, strict=True)]
        (tmp_path / name / "t.csv").write_text("\n".join(["path,label,patient", *lines]))
    return tmp_path


TRAINED = DataSettings(label_map="own.toml", devices=("Meditron",), modes=("sc",), test_parts=("inter",))


def test_the_corpus_that_a_run_was_trained_on_is_read_as_then(tables: Path) -> None:
    trained = TRAINED.model_copy(update={"root": str(tables / "own")})
    for root in (None, tables / "own", tables / "known" / ".." / "own"):
        assert data_to_test(trained, root, None) == trained
        other = data_to_test(trained, root, Path("new.toml"))
        assert other == trained.model_copy(update={"label_map": "new.toml"})


def test_another_corpus_is_read_whole_and_by_the_map_of_the_run_only_when_its_words_need_one(tables: Path) -> None:
    trained = TRAINED.model_copy(update={"root": "elsewhere", "label_set": "sound2"})
    own, known = (data_to_test(trained, tables / name, None) for name in ("own", "known"))
    whole = DataSettings(root=str(tables / "own"), label_set="sound2")
    assert own == whole.model_copy(update={"label_map": "own.toml"})
    assert known == whole.model_copy(update={"root": str(tables / "known")})
    assert data_to_test(trained, tables / "own", Path("new.toml")).label_map == "new.toml"
