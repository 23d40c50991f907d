"""The help of every command on a terminal of 80 columns."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lungsound.cli.main import app


def command_names(command: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield names
    for name, inner in getattr(command, "commands", {}).items():
        yield from command_names(inner, (*names, name))


NAMES = tuple(command_names(typer.main.get_command(app)))
GROUPS = [names for names in NAMES if any(other[:-1] == names for other in NAMES if other)]


def help_of(names: tuple[str, ...]) -> str:
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.output


def test_every_command_is_seen() -> None:
    assert {("predict",), ("data", "check"), ("study", "show")} <= set(NAMES)
    assert set(GROUPS) == {(), ("data",), ("study",)}


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_help_fits_80_columns(names: tuple[str, ...]) -> None:
    assert max(map(len, help_of(names).splitlines())) <= 80


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_flags_are_plain_and_values_have_a_name(names: tuple[str, ...]) -> None:
    options = help_of(names).partition("Options:")[2]
    assert "--no-" not in options
    assert not re.search(r"--[a-z-]+ <", options), "an option shows a type of Python: give it a metavar"


@pytest.mark.parametrize("names", GROUPS, ids=" ".join)
def test_first_sentences_are_whole_in_the_list_of_commands(names: tuple[str, ...]) -> None:
    lines = help_of(names).partition("Commands:")[2].split("\n")
    sentences = [line.split(maxsplit=1)[1] for line in lines if line.strip()]
    assert len(sentences) == sum(other[:-1] == names for other in NAMES if other)
    assert all(sentence.endswith(".") and not sentence.endswith("...") for sentence in sentences)
    assert all(len(sentence) <= 60 for sentence in sentences)
