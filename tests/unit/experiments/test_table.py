"""The tables of the package: every row is a run, the paper's numbers are those that are known, names are unique."""

import shlex

import pytest

from lungsound.config import load_config, published_preset
from lungsound.errors import SettingsError
from lungsound.experiments.challenge import TASKS
from lungsound.experiments.table import WHOLE, Row, load_table, table_names

# From the paper, as copied by later works: the only numbers of it that are at hand.
KNOWN_SCORES = {59.55, 59.46, 62.37, 55.09, 56.33, 57.17}


@pytest.mark.parametrize("name", table_names())
def test_every_row_is_a_run_of_its_own(name: str) -> None:
    table = load_table(name)
    assert table.title
    assert len({row.name for row in table.rows}) == len({row.folder for row in table.rows}) == len(table.rows)
    configs = [row.config() for row in table.rows]
    assert len(
        {config.model_dump_json() + str(row.after) for config, row in zip(configs, table.rows, strict=True)}
    ) == len(table.rows)


@pytest.mark.parametrize("name", table_names())
def test_a_row_goes_on_from_a_row_above_it(name: str) -> None:
    rows = load_table(name).rows
    for index, row in enumerate(rows):
        assert row.after is None or row.after in [above.folder for above in rows[:index]]


def test_the_whole_table_holds_every_run_once() -> None:
    whole = load_table(WHOLE)
    of_paper = [table for table in map(load_table, table_names()) if table.kind == "paper"]
    folders = [row.folder for table in of_paper for row in table.rows]
    assert sorted(row.folder for row in whole.rows) == sorted(set(folders))
    assert len(folders) > len(set(folders))
    for index, row in enumerate(whole.rows):
        assert row.after is None or row.after in [above.folder for above in whole.rows[:index]]


def test_no_number_of_the_paper_is_made_up() -> None:
    numbers = [row.paper for row in load_table(WHOLE).rows if row.paper is not None]
    assert {paper.score for paper in numbers} == KNOWN_SCORES
    (best,) = {(n.specificity, n.sensitivity, n.two_class_score) for n in numbers if n.score == 62.37}
    assert best == (81.66, 43.07, 68.71)


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ("objective.name", {"ce", "patchmix_ce", "patchmix_cl"}),
        ("patchmix.axis", {"patch", "time"}),
        ("objective.temperature", {0.03, 0.06, 0.1, 0.2, 0.5, 1.0}),
        ("objective.alpha", {0.0, 0.1, 0.5, 1.0, 2.0}),
        ("patchmix.beta", {0.2, 0.5, 1.0, 2.0, 5.0}),
        ("objective.target", {"grad_block", "grad_flow", "project_block", "project_flow"}),
        ("objective.negatives", {"all", "diff_label"}),
        ("objective.is_class_weighted", {True, False}),
        ("data.split", {"official", "fold0", "fold1", "fold2", "fold3", "fold4"}),
        ("data.label_set", {"sound4", "sound2", "diagnosis3", "diagnosis2"}),
        ("model.size", {"tiny", "small", "base"}),
        ("model.pooling", {"class_token", "average_token"}),
        (
            "model.architecture",
            {
                "ast",
                "cnn6",
                "mn04",
                *(f"resnet{n}" for n in (10, 18, 34, 50, 101)),
                *(f"efficientnet_b{n}" for n in range(3)),
            },
        ),
    ],
)
def test_the_tables_go_along_every_axis(axis: str, values: set[object]) -> None:
    section, key = axis.split(".")
    assert {getattr(getattr(row.config(), section), key) for row in load_table(WHOLE).rows} == values


def test_rows_that_go_on_from_a_model_are_for_one_stethoscope() -> None:
    after = [row for row in load_table(WHOLE).rows if row.after]
    assert {row.config().data.devices for row in after} == {("AKGC417L",), ("Meditron",), ("Litt3200",)}
    assert all("model.is_head_pretrained=true" in row.command() for row in after)


def test_corrections_switch_each_choice_of_the_preset_alone() -> None:
    """Each row in the middle undoes one choice of the preset; together they undo all that touch an AST."""
    rows = load_table("corrections").rows
    undone = {setting.partition("=")[0] for row in rows[1:-1] for setting in row.set}
    preset = {f"{section}.{key}" for section, values in published_preset().items() for key in values}
    assert undone - {"train.learning_rate"} == preset - {"model.first_kernel"}
    assert rows[0].config() == load_config("patchmix_cl", is_as_published=True)
    assert rows[-1].config() == load_config("patchmix_cl")


def test_every_choice_of_the_preset_is_none_of_our_defaults() -> None:
    ours, published = load_config("patchmix_cl"), load_config("patchmix_cl", is_as_published=True)
    for section, values in published_preset().items():
        for key, value in values.items():
            assert getattr(getattr(published, section), key) == value
            assert getattr(getattr(ours, section), key) != value


def test_settings_come_after_the_preset_and_the_row() -> None:
    row = Row(name="x", recipe="patchmix_cl", set=("train.blend=0.25",), is_as_published=True)
    assert row.config().train.blend == 0.25
    assert row.config(("train.blend=0.125",)).train.blend == 0.125


def test_a_table_as_published_has_the_preset_in_every_row() -> None:
    table = load_table("temperature").as_published()
    assert {row.config().model.position_grid for row in table.rows} == {"published"}
    assert {row.command().split()[1] for row in table.rows} == {"--as-published"}


@pytest.mark.parametrize("name", [*table_names(), WHOLE])
def test_a_table_as_published_has_each_run_once(name: str) -> None:
    table = load_table(name).as_published()
    folders = [row.folder for row in table.rows]
    assert len(set(folders)) == len(folders)
    assert set(folders) == {
        row.model_copy(update={"is_as_published": True}).folder for row in load_table(name).rows if row.after is None
    } | {row.folder for row in table.rows if row.after}
    for index, row in enumerate(table.rows):
        assert row.after is None or row.after in folders[:index]
        assert "corrected" not in row.name


def test_tables_of_ours_have_their_own_results() -> None:
    """Rows that are compared are there; SPRSound's tasks have their label sets; what is published is named by task."""
    ours = [table for table in map(load_table, table_names()) if table.kind != "paper"]
    assert {table.kind for table in ours} == {"methods", "challenge"}
    for table in ours:
        names = {row.name for row in table.rows}
        assert all(set(pair) <= names for pair in table.comparisons)
        assert bool(table.comparisons) == (table.kind == "methods")
        assert all(set(each.tasks) <= {task.name for task in TASKS} for each in table.published)
        for row in table.rows:
            config = row.config()
            assert config.objective.is_class_weighted == (table.kind == "methods")
            assert not config.train.is_test_watched
            assert config.data.protocol == "strict"
    sets = {row.config().data.label_set for row in load_table("sprsound").rows}
    assert sets == {task.label_set for task in TASKS}
    (padded,) = [row for row in load_table("laptop_methods").rows if row.num_seeds is not None]
    assert (padded.num_seeds, padded.config().audio.duration_s, padded.config().audio.is_padding_encoded) == (
        3,
        8,
        True,
    )


def test_a_folder_is_one_run_in_all_tables() -> None:
    """Rows share a folder when, and only when, they are the same run."""
    runs = [
        (row.folder, row.config().model_dump_json() + str(row.after))
        for t in table_names()
        for row in load_table(t).rows
    ]
    assert len(set(runs)) == len({folder for folder, _ in runs}) == len({run for _, run in runs})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["objective.temperature=0.5"], "objective.temperature is what row 'tau 0.03' differs in"),
        (["train.seed=3"], "train.seed is set by the table"),
        (["train.epochs=none"], "train.epochs"),
    ],
)
def test_settings_that_would_undo_a_row_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_table("temperature").check(settings)


def test_changes_are_the_settings_that_make_other_runs() -> None:
    table = load_table("methods")
    same = ["train.epochs=50", "train.device=cpu", "data.root=/x", "train.checkpoint_every_steps=7", "model.size=base"]
    assert table.changes(same) == []
    assert table.changes(["train.selection=last", "train.epochs=3"]) == ["train.selection=last", "train.epochs=3"]


def test_a_command_ends_with_the_model_that_it_goes_on_from() -> None:
    row = Row(name="x", recipe="ce", set=('data.devices=["a b"]',), after="ce")
    assert shlex.split(row.command(["model.pretrained=none"])) == [
        *("ce", "--set", 'data.devices=["a b"]', "--set", "model.pretrained=none"),
        *("--set", "model.pretrained=<model of ce>", "--set", "model.is_head_pretrained=true"),
    ]


def test_an_unknown_table_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(
        SettingsError, match=r"no table 'tabel': there are alpha, .*methods.* and 'table' for all"
    ) as error:
        load_table("tabel")
    assert "\n" not in str(error.value)
