"""The help of every command on a terminal of 80 columns."""

import re
from collections.abc import Iterator
from typing import Any

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


def test_help_fits_80_columns_and_shows_plain_flags() -> None:
    for names in NAMES:
        text = help_of(names)
        assert max(map(len, text.splitlines())) <= 80, names
        options = text.partition("Options:")[2]
        assert "--no-" not in options, names
        assert not re.search(r"--[a-z-]+ <", options), f"{names}: an option shows a type of Python: give it a metavar"


def test_first_sentences_are_complete_in_the_list_of_commands() -> None:
    for names in GROUPS:
        lines = help_of(names).partition("Commands:")[2].split("\n")
        sentences = [line.split(maxsplit=1)[1] for line in lines if line.strip()]
        assert len(sentences) == sum(other[:-1] == names for other in NAMES if other)
        for sentence in sentences:
            assert sentence.endswith(".")
            assert not sentence.endswith("...")
            assert len(sentence) <= 60
