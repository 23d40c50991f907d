"""Tables of runs: the paper's with its numbers, our methods against each other, SPRSound's challenge."""

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field

from lungsound.config import Count, Names, RunConfig, Settings, load_config
from lungsound.errors import SettingsError

WHOLE = "table"  # the name under which all tables stand as one
# A run's scores are the same whatever these are, but for rounding.
NEUTRAL_SETTINGS = frozenset({"data.root", "train.device", "train.checkpoint_every_steps"})
Percent = Annotated[float, Field(ge=0, le=100, strict=False)]
Pair = Annotated[tuple[str, str], Field(strict=False)]
Comparisons = Annotated[tuple[Pair, ...], Field(strict=False)]


class PaperNumbers(Settings):
    """The paper's numbers for a row, in percent: mean and standard deviation of five seeds."""

    score: Percent
    score_sd: Percent | None = None
    specificity: Percent | None = None
    sensitivity: Percent | None = None
    two_class_score: Percent | None = None


class Row(Settings):
    """One run of a table."""

    name: str
    recipe: str
    set: Names = ()
    """Settings in which the run differs from its recipe, as for `lungsound train --set`."""
    is_as_published: bool = False
    """With the preset of the authors' program."""
    after: str | None = None
    """`folder` of a row above whose trained model this run goes on from, with its head."""
    num_seeds: Count | None = None
    """Seeds at most, of a row that takes long."""
    paper: PaperNumbers | None = None

    @property
    def folder(self) -> str:
        """Folder of the row's runs: rows of several tables that are the same run share it."""
        differences = [setting.partition(".")[2] for setting in self.set]
        parts = [self.recipe, *(["as-published"] if self.is_as_published else []), *differences]
        return re.sub(r"[^\w.=+-]+", "_", "+".join([*parts, *([f"after_{self.after}"] if self.after else [])]))

    def command(self, settings: Sequence[str] = (), *, model: str | None = None) -> str:
        """Arguments of `lungsound train` for this run, with `settings` too; `model` is that of `after`."""
        preset = ["--as-published"] if self.is_as_published else []
        goes_on_from = [f"model.pretrained={model or f'<model of {self.after}>'}", "model.is_head_pretrained=true"]
        every = (*self.set, *settings, *(goes_on_from if self.after else []))
        return " ".join([self.recipe, *preset, *(f"--set {shlex.quote(setting)}" for setting in every)])

    def config(self, settings: tuple[str, ...] = ()) -> RunConfig:
        """The row's run; `settings` come last."""
        return load_config(self.recipe, (*self.set, *settings), is_as_published=self.is_as_published)


class PublishedTasks(Settings):
    """What others publish on SPRSound's challenge: by task, in percent, the mean of inter and intra."""

    name: str
    epoch: str
    """How the epoch was chosen, as far as is known."""
    tasks: Mapping[str, Percent]


class Table(Settings):
    title: str
    rows: Annotated[tuple[Row, ...], Field(strict=False)]
    kind: Literal["paper", "methods", "challenge"] = "paper"
    """paper: beside its numbers; methods: against each other; challenge: SPRSound's tasks, beside what is published."""
    comparisons: Comparisons = ()
    """Names of two rows each, A and B."""
    published: Annotated[tuple[PublishedTasks, ...], Field(strict=False)] = ()

    def as_published(self) -> "Table":
        """The same rows with the preset of the authors' program; rows that are then the same run stand once."""
        renamed: dict[str, str] = {}
        rows: dict[str, Row] = {}
        for row in self.rows:
            after = None if row.after is None else renamed[row.after]
            published = row.model_copy(update={"is_as_published": True, "after": after})
            renamed[row.folder] = published.folder
            rows.setdefault(published.folder, published)
        return self.model_copy(update={"title": f"{self.title}; all as published", "rows": tuple(rows.values())})

    def check(self, settings: Sequence[str]) -> None:
        """SettingsError when `settings` do not fit a row, or would make a row another run than its name says."""
        keys = {setting.partition("=")[0].strip() for setting in settings}
        if "train.seed" in keys:
            raise SettingsError("train.seed is set by the table, 0 for the first run of a row: give --seeds instead")
        for row in self.rows:
            own = {setting.partition("=")[0] for setting in row.set}
            if clash := sorted(own & keys):
                raise SettingsError(
                    f"{clash[0]} is what row {row.name!r} differs in: leave it out, or take a table without such a row"
                )
            row.config(tuple(settings))

    def changes(self, settings: Sequence[str]) -> list[str]:
        """Those of `settings` that make a run another than the table's."""
        return [
            setting
            for setting in settings
            if setting.partition("=")[0].strip() not in NEUTRAL_SETTINGS
            and any(row.config((setting,)) != row.config() for row in self.rows)
        ]


def table_names() -> list[str]:
    folder = resources.files("lungsound") / "tables"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_table(name: str) -> Table:
    """A table of the package by name; "table" is every row of all that have the paper's numbers, each run once."""
    if name == WHOLE:
        rows: dict[str, Row] = {}
        for of_paper in table_names():
            table = load_table(of_paper)
            for row in table.rows if table.kind == "paper" else ():
                rows.setdefault(row.folder, row.model_copy(update={"name": f"{of_paper}: {row.name}"}))
        return Table(title="Every row of every table of the paper", rows=tuple(rows.values()))
    if name not in table_names():
        raise SettingsError(f"no table {name!r}: there are {', '.join(table_names())}, and {WHOLE!r} for all of them")
    text = (resources.files("lungsound") / "tables" / f"{name}.toml").read_text(encoding="utf-8")
    return Table.model_validate(tomllib.loads(text))
