"""`lungsound recipes` and `lungsound settings`: what a run can be told, true to config.py."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lungsound.cli.main import app
from lungsound.config import RunConfig, describe_settings, load_config, recipe_names

ROOT = Path(__file__).resolve().parents[3]


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", recipe_names())
def test_a_printed_recipe_is_the_recipe(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.toml").write_text(printed("recipes", name), encoding="utf-8")
    assert load_config(tmp_path / f"{name}.toml") == load_config(name)


def test_every_setting_is_listed_with_its_default_and_a_sentence() -> None:
    config = RunConfig(name="").model_dump(mode="json")
    listed = describe_settings()
    assert {section: [name for name, *_ in rows] for section, rows in listed.items()} == {
        section: [*values] for section, values in config.items() if isinstance(values, dict)
    }
    for section, rows in listed.items():
        for name, shown, allowed, meaning in rows:
            default = config[section][name]
            assert shown == "not set" if default is None else tomllib.loads(f"x = {shown}")["x"] == default
            assert meaning.endswith("."), f"{section}.{name}"
            assert allowed, f"{section}.{name}"


def test_limits_and_choices_are_named() -> None:
    listed = describe_settings()
    rows = {f"{section}.{name}": allowed for section in listed for name, _, allowed, _ in listed[section]}
    assert rows["model.stride"] == "whole number, at least 1, at most 16"
    assert rows["train.validation_share"] == "number, over 0, below 1"
    assert rows["train.schedule"] == "cosine, step, constant, cosine_by_step"
    assert rows["objective.projection_dim"] == "whole number, at least 1"
    assert rows["data.devices"] == "list of strings"


def test_one_section_in_80_columns() -> None:
    text = printed("settings", "train")
    assert max(map(len, text.splitlines())) <= 80
    assert "train.epochs = 50\n" in text
    assert "audio." not in text


def test_a_section_that_does_not_exist_is_refused_with_those_that_do() -> None:
    error = CliRunner().invoke(app, ["settings", "training"]).exception
    assert "'training'" in str(error)
    assert "train" in str(error)


def test_the_page_of_settings_is_what_the_command_prints() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert page == printed("settings", "--format", "markdown")
