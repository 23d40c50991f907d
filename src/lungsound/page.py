"""A page of blocks, rendered as Markdown or as one HTML file that needs no network and no script.

Every text is plain: what looks like markup in it (a patient named `<script>`, a pipe in a table cell) is shown as
it stands and cannot become markup.
"""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from lungsound.files import write_text

DISCLAIMER = "Research software, not a medical device."
MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
# A page with fewer sections is scrolled through; with more it has a list of them at its top.
FEW_SECTIONS = 3

Cell = str | int | float


@dataclass(frozen=True)
class Heading:
    """The title of a section; `level` is 2 to 6, since level 1 is the page's title."""

    text: str
    level: int = 2

    def __post_init__(self) -> None:
        if not 2 <= self.level <= 6:
            raise ValueError(f"a heading's level is 2 to 6; got {self.level}")


@dataclass(frozen=True)
class Paragraph:
    """Running text; `lead` stands in bold before it (give `text` its own leading space or comma)."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Remark:
    """A sentence that stands out: a warning, or a note when `is_warning` is false."""

    text: str
    is_warning: bool = True


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; whole numbers and fractions stand to the right, NaN is "n/a".

    `greyed` holds the indices of rows that should be read with care, groups of few patients say. Say beside the
    table why they are grey: HTML shows them in grey and italics, Markdown has their first cell in italics.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    greyed: AbstractSet[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture file (.png, .svg, .jpg). Markdown links to its name, so it must lie beside the page; HTML holds it."""

    path: Path
    alt: str


@dataclass(frozen=True)
class Sound:
    """A WAV file to listen to; Markdown has only its caption."""

    wav_bytes: bytes
    caption: str


@dataclass(frozen=True)
class Code:
    """Text whose lines and blanks count: a command, a table file."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    mapping: Mapping[str, Cell]


Block = Heading | Paragraph | Remark | Bullets | Table | Picture | Sound | Code | Facts


def render_markdown(title: str, blocks: Sequence[Block]) -> str:
    """The page as Markdown, one blank line between blocks. Sounds are left out but for their captions."""
    return f"# {_markdown(title)}\n\n{render_blocks(blocks)}\n*{DISCLAIMER}*\n"


def render_blocks(blocks: Sequence[Block]) -> str:
    """The blocks alone as Markdown, to stand in a page of someone else's."""
    return "\n\n".join(_markdown_block(block) for block in blocks) + "\n"


def write_page(stem: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write `<stem>.md` and `<stem>.html`; pictures lie beside them already."""
    write_text(stem.with_name(f"{stem.name}.md"), render_markdown(title, blocks))
    write_text(stem.with_name(f"{stem.name}.html"), render_html(title, blocks))


def render_html(title: str, blocks: Sequence[Block]) -> str:
    """The page as one HTML document that holds its style, pictures and sounds.

    Raises ValueError for a picture whose suffix is not one of `MEDIA_TYPES`, OSError for one that cannot be read.
    """
    template = resources.files("lungsound").joinpath("templates", "page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(cell=_cell, picture_uri=_picture_uri, sound_uri=_sound_uri)
    environment.tests["quantity"] = lambda value: isinstance(value, int | float)
    sections = [block for block in blocks if isinstance(block, Heading) and block.level == 2]
    return environment.from_string(template).render(
        title=title,
        blocks=[(type(block).__name__, block) for block in blocks],
        sections=[section.text for section in sections] if len(sections) > FEW_SECTIONS else [],
        disclaimer=DISCLAIMER,
    )


def _markdown_block(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_markdown(block.text)}"
        case Paragraph():
            lead = f"**{_markdown(block.lead)}**" if block.lead else ""
            blank = " " if lead and block.text[:1].isspace() else ""
            return lead + blank + _markdown(block.text)
        case Remark():
            return f"> **{_markdown(block.text)}**"
        case Bullets():
            return "\n".join(f"- {_markdown(item)}" for item in block.items)
        case Table():
            return _markdown_table(block)
        case Picture():
            return f"![{_markdown(block.alt)}]({block.path.name})"
        case Sound():
            return f"Sound (in the HTML page): {_markdown(block.caption)}"
        case Code():
            longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{fence}\n{block.text.rstrip()}\n{fence}"
        case Facts():
            facts = [(name, _cell(value)) for name, value in block.mapping.items()]
            return _markdown_table(Table(("fact", "value"), facts))


def _markdown_table(table: Table) -> str:
    first = table.rows[0] if table.rows else table.head
    ruler = ["---:" if column and isinstance(cell, int | float) else "---" for column, cell in enumerate(first)]
    lines = [[_markdown(name, in_table=True) for name in table.head], ruler]
    for index, row in enumerate(table.rows):
        cells = [_markdown(_cell(cell), in_table=True) for cell in row]
        if index in table.greyed and cells[0]:
            cells[0] = f"*{cells[0]}*"
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _markdown(text: str, *, in_table: bool = False) -> str:
    """Plain text on one line as Markdown."""
    text = re.sub(r"([\\`*<])", r"\\\1", " ".join(text.split()))
    return text.replace("|", "\\|") if in_table else re.sub(r"^([#>+-])(?=[# ])", r"\\\1", text)


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:g}"
    return str(value)


def _picture_uri(path: Path) -> str:
    media_type = MEDIA_TYPES.get(path.suffix.lower())
    if media_type is None:
        raise ValueError(f"picture {path}: a file that ends in {', '.join(MEDIA_TYPES)} is needed")
    return _data_uri(path.read_bytes(), media_type)


def _sound_uri(wav_bytes: bytes) -> str:
    return _data_uri(wav_bytes, "audio/wav")


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
