"""Reports as Markdown, and as one HTML file that needs no network and no script.

A report is Markdown, from a template (`fill`) or put together (`paragraphs`); the HTML is made from it. Every text is
plain: what looks like markup in it (a patient named `<script>`, a pipe in a table cell) is shown as it stands and
cannot become markup.
"""

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from rich.table import Table as TerminalTable
from rich.text import Text

from lungsound.files import write_text

if TYPE_CHECKING:
    from markdown_it.token import Token

DISCLAIMER = "Research software, not a medical device."
MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg", ".wav": "audio/wav"}
FEW_SECTIONS = 3  # a page with more has a list of them at its top
LONG_CELL = 40  # letters of a table's cell that goes on in the next line

Cell = str | int | float

_ENVIRONMENT = Environment(
    loader=PackageLoader("lungsound"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters.update(percent=lambda share: f"{100 * share:.0f} %", seconds=lambda time_s: f"{time_s:.2f}")
_ENVIRONMENT.policies["json.dumps_kwargs"] = {}  # keys in our order


def render(name: str, /, **values: Any) -> str:
    """The template of that name with these values, escaped in HTML; jinja2's UndefinedError when one is missing."""
    return _ENVIRONMENT.get_template(name).render(values)


def escape(text: str) -> Markup:
    """Plain text on one line as Markdown that shows it as it stands; what is `Markup` already stays as it is."""
    if isinstance(text, Markup):
        return text
    text = re.sub(r"([\\`*<|]|(?<!\w)_|_(?!\w)|(?<=\])[(\[:]|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))
    return Markup(re.sub(r"^([#>+-]|\d+[.)](?= ))(?=[# ])", lambda start: f"{start[0][:-1]}\\{start[0][-1]}", text))


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Markup:
    """A table; whole numbers and fractions stand to the right, NaN is "n/a"."""
    first = rows[0] if rows else head
    ruler = ["---:" if column and isinstance(cell, int | float) else "---" for column, cell in enumerate(first)]
    lines: list[Sequence[str]] = [list(map(escape, head)), ruler]
    lines += [[escape(_cell(cell)) for cell in row] for row in rows]
    return Markup("\n".join("| " + " | ".join(cells) + " |" for cells in lines))


def terminal_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, num_texts: int = 1) -> TerminalTable:
    """A table for a terminal; whole numbers are grouped, and columns after the first `num_texts` stand to the right."""
    grid = TerminalTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(head):
        grid.add_column(Text(name), justify="left" if place < num_texts else "right", overflow="fold", min_width=5)
    for row in rows:
        grid.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return grid


def facts(mapping: Mapping[str, Cell]) -> Markup:
    return table(("fact", "value"), [(name, _cell(value)) for name, value in mapping.items()])


def counted(number: int, unit: str) -> str:
    """A number with its unit: "1 patient", "3 patients"."""
    return f"{number} {unit}{'' if number == 1 else 's'}"


def bullets(items: Sequence[str]) -> Markup:
    return Markup("\n".join(f"- {escape(item)}" for item in items))


def paragraphs(*parts: str) -> Markup:
    """The parts, one blank line between them: plain texts, and what is Markdown (`Markup`) already."""
    return Markup("\n\n".join(map(escape, parts)) + "\n")


def fill(template: str, **values: object) -> Markup:
    """The Markdown of a template of the package, its values as plain text; it may call `facts` and `table`."""
    environment = _ENVIRONMENT.overlay(
        autoescape=True, finalize=lambda value: value if isinstance(value, Markup) else escape(_cell(value))
    )
    values |= {"facts": facts, "table": table}
    return Markup(re.sub(r"\n{3,}", "\n\n", environment.get_template(template).render(values)).strip() + "\n")


def render_markdown(title: str, body: str) -> str:
    return f"# {escape(title)}\n\n{body}\n*{DISCLAIMER}*\n"


def write_page(stem: Path, title: str, body: str) -> None:
    """Write `<stem>.md` and `<stem>.html`; pictures lie beside them already."""
    write_text(stem.with_name(f"{stem.name}.md"), render_markdown(title, body))
    write_text(stem.with_name(f"{stem.name}.html"), render_html(title, body, stem.parent))


def render_html(title: str, body: str, folder: Path) -> str:
    """The page from Markdown as one HTML document that holds its style, and the pictures and sounds of `folder`.

    Raises ValueError for a file whose suffix is not one of `MEDIA_TYPES`, OSError for one that cannot be read.
    """
    from markdown_it import MarkdownIt
    from markdown_it.common.utils import escapeHtml

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    region = '<div class="scroll" role="region" aria-label="Table" tabindex="0">'
    parser.add_render_rule("table_open", lambda *_: f"{region}<table>\n")
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
    before, heading, after = parser.renderer.render(tokens, parser.options, {}).partition("<h2 ")
    return render(
        "page.html",
        title=title,
        before=Markup(before),
        sections=sections if len(sections) > FEW_SECTIONS else [],
        after=Markup(heading + after),
        disclaimer=DISCLAIMER,
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:g}"
    return value if isinstance(value, str) else str(value)
