"""Reports as Markdown, and as one HTML file that needs no network and no script.

A report is Markdown, from a template (`fill`) or from blocks; the HTML is made from it. Every text is plain: what looks
like markup in it (a patient named `<script>`, a pipe in a table cell) is shown as it stands and cannot become markup.
"""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lungsound.files import write_text

if TYPE_CHECKING:
    from markdown_it.token import Token

DISCLAIMER = "Research software, not a medical device."
MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".wav": "audio/wav"}
FEW_SECTIONS = 3  # a page with more has a list of them at its top
LONG_CELL = 40  # letters of a table's cell that goes on in the next line

Cell = str | int | float


@dataclass(frozen=True)
class Heading:
    """The title of a section; `level` is 2 to 6, since level 1 is the page's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Running text; `lead` stands in bold before it (give `text` its own leading space or comma)."""

    text: str
    lead: str = ""


@dataclass(frozen=True)
class Remark:
    """A sentence that stands out: a warning, in bold, or a note."""

    text: str
    is_warning: bool = True


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table; whole numbers and fractions stand to the right, NaN is "n/a".

    `greyed` holds the indices of rows that should be read with care, groups of few patients say: their first cell is in
    italics, in HTML all of the row is grey. Say beside the table why.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    greyed: AbstractSet[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture file (.png, .svg, .jpg) beside the page. Markdown links to its name; HTML holds it."""

    path: Path
    alt: str


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    mapping: Mapping[str, Cell]


Block = Heading | Paragraph | Remark | Bullets | Table | Picture | Facts | Markup  # what is Markdown already


def fill(template: str, **values: object) -> Markup:
    """The Markdown of a template of the package, its values as plain text.

    A template may call `blocks(...)`, `facts(...)` and `table(head, rows)`; what is `Markup` already stays as it is.
    """
    environment = Environment(
        loader=PackageLoader("lungsound"),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(_markdown(_cell(value))),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        blocks=lambda blocks: Markup(render_blocks(blocks)),
        facts=lambda facts: Markup(_block(Facts(facts))),
        table=lambda head, rows: Markup(_block(Table(head, rows))),
    )
    return Markup(re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(values)).strip() + "\n")


def render_blocks(blocks: Sequence[Block]) -> str:
    """The blocks as Markdown, one blank line between them."""
    return "\n\n".join(map(_block, blocks)) + "\n"


def render_markdown(title: str, body: str | Sequence[Block]) -> str:
    """The page as Markdown, from Markdown or blocks."""
    body = body if isinstance(body, str) else render_blocks(body)
    return f"# {_markdown(title)}\n\n{body}\n*{DISCLAIMER}*\n"


def write_page(stem: Path, title: str, body: str | Sequence[Block]) -> None:
    """Write `<stem>.md` and `<stem>.html`; pictures lie beside them already."""
    body = body if isinstance(body, str) else render_blocks(body)
    write_text(stem.with_name(f"{stem.name}.md"), render_markdown(title, body))
    write_text(stem.with_name(f"{stem.name}.html"), render_html(title, body, stem.parent))


def render_html(title: str, body: str, folder: Path) -> str:
    """The page from Markdown as one HTML document that holds its style, and the pictures and sounds of `folder`.

    Raises ValueError for a file whose suffix is not one of `MEDIA_TYPES`, OSError for one that cannot be read.
    """
    from markdown_it import MarkdownIt
    from markdown_it.common.utils import escapeHtml

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll" role="region" tabindex="0"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")

    def embed(_: object, tokens: Sequence["Token"], index: int, *__: object) -> str:
        token = tokens[index]
        text = escapeHtml("".join(child.content for child in token.children or ()))
        path = folder / unquote(str(token.attrs["src"]))
        media_type = MEDIA_TYPES.get(path.suffix.lower())
        if media_type is None:
            raise ValueError(f"{path}: a file that ends in {', '.join(MEDIA_TYPES)} is needed")
        uri = f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
        if media_type == "audio/wav":
            return f'<span class="caption">{text}</span><audio controls aria-label="{text}" src="{uri}"></audio>'
        return f'<span class="scroll" tabindex="0"><img src="{uri}" alt="{text}"></span>'

    parser.add_render_rule("image", embed)
    tokens, sections = parser.parse(body), []
    for index, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            sections.append("".join(child.content for child in tokens[index + 1].children or ()))
            token.attrSet("id", f"section-{len(sections)}")
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif token.type == "td_open" and tokens[index - 1].type == "tr_open":
            token.tag = tokens[index + 2].tag = "th"
            token.attrSet("scope", "row")
        elif token.type == "td_open" and len(tokens[index + 1].content) > LONG_CELL:
            token.attrSet("class", "text")
    page = Environment(loader=PackageLoader("lungsound"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    before, heading, after = parser.renderer.render(tokens, parser.options, {}).partition("<h2 ")
    return page.get_template("page.html").render(
        title=title,
        before=Markup(before),
        sections=sections if len(sections) > FEW_SECTIONS else [],
        after=Markup(heading + after),
        disclaimer=DISCLAIMER,
    )


def _block(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_markdown(block.text)}"
        case Paragraph():
            lead = f"**{_markdown(block.lead)}**" if block.lead else ""
            blank = " " if lead and block.text[:1].isspace() else ""
            return lead + blank + _markdown(block.text)
        case Remark():
            return f"> **{_markdown(block.text)}**" if block.is_warning else f"> {_markdown(block.text)}"
        case Bullets():
            return "\n".join(f"- {_markdown(item)}" for item in block.items)
        case Picture():
            return f"![{_markdown(block.alt)}]({block.path.name})"
        case Markup():
            return block
        case Facts():
            return _block(Table(("fact", "value"), [(name, _cell(value)) for name, value in block.mapping.items()]))
        case Table(head, rows, greyed):
            first = rows[0] if rows else head
            ruler = ["---:" if column and isinstance(cell, int | float) else "---" for column, cell in enumerate(first)]
            lines = [list(map(_markdown, head)), ruler, *([_markdown(_cell(cell)) for cell in row] for row in rows)]
            for index in greyed:
                lines[index + 2][0] = lines[index + 2][0] and f"*{lines[index + 2][0]}*"
            return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _markdown(text: str) -> str:
    """Plain text on one line as Markdown that shows it as it stands."""
    text = re.sub(r"([\\`*<|]|(?<!\w)_|_(?!\w)|(?<=\])[(\[:]|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))
    return re.sub(r"^([#>+-]|\d+[.)](?= ))(?=[# ])", lambda start: f"{start[0][:-1]}\\{start[0][-1]}", text)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:g}"
    return str(value)
