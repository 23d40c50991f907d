import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jinja2 import DictLoader
from markupsafe import Markup

from lungsound.page import bullets, escape, facts, fill, paragraphs, render_html, render_markdown, table

NASTY = "<script>alert('x')</script> & \"><img src=x onerror=y>"
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would see: the tags with their attributes, the text within each, and whether all tags close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and "style" not in self._open:
            self.texts.append((self._open[-1], data.strip()))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]

    def text_of(self, name: str) -> list[str]:
        return [text for tag, text in self.texts if tag == name]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "curve.png"
    path.write_bytes(b"\x89PNG made up")
    return path


def every_part(text: str, picture: Path) -> str:
    """The text wherever a page may have it."""
    title = escape(text)
    return paragraphs(
        Markup(f"## {title}"),
        Markup(f"### {title}"),
        Markup(f"**{title}** {title}"),
        text,
        Markup(f"> **{title}**"),
        Markup(f"> {title}"),
        bullets([text]),
        table([text, text], [[text, text]]),
        Markup(f"![{title}]({picture.name})"),
        facts({text: text}),
    )


def test_markdown_of_every_part() -> None:
    body = paragraphs(
        "plain\ntext *",
        Markup("*as it is*"),
        bullets(["one", "two"]),
        table(["part", "cycles", "share", "note"], [["a|b", 3, 0.25, "x"], ["c", 4, math.nan, "y\nz"]]),
        facts({"seed": 0, "recipe": "tiny | pipes"}),
    )
    assert render_markdown("A run", body) == (
        "# A run\n\nplain text \\*\n\n*as it is*\n\n- one\n- two\n\n"
        "| part | cycles | share | note |\n| --- | ---: | ---: | --- |\n"
        "| a\\|b | 3 | 0.25 | x |\n| c | 4 | n/a | y z |\n\n"
        "| fact | value |\n| --- | --- |\n| seed | 0 |\n| recipe | tiny \\| pipes |\n\n"
        "*Research software, not a medical device.*\n"
    )


def test_a_template_has_its_values_as_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    template = (
        "{% macro row(x) %}| {{ x }} |{% endmacro %}\n- {{ text }}\n\n\n\n{{ row(number) }}\n{{ facts({text: 1}) }}\n"
    )
    monkeypatch.setattr("lungsound.page._ENVIRONMENT.loader", DictLoader({"t.md": template}))
    filled = fill("t.md", text="*a* <b>\n| c", number=math.nan)
    assert filled == (
        "- \\*a\\* \\<b> \\| c\n\n| n/a |\n| fact | value |\n| --- | --- |\n| \\*a\\* \\<b> \\| c | 1 |\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        NASTY,
        "# no title",
        "> no quote",
        "- no bullet",
        "1. no list",
        "*a* _b_ a_b_c `d` | e \\ f &amp; [g](h) [i]: j ![k](l) **m",
        "<https://example.org> https://example.org",
    ],
)
def test_text_is_no_markup(text: str, picture: Path) -> None:
    """Whatever stands in every block, the page has the same tags as with letters, and shows the text as it is."""
    page = Page(render_html(text, every_part(text, picture), picture.parent))
    letters = "x" * len(text)
    plain = Page(render_html(letters, every_part(letters, picture), picture.parent))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in page.tags] == [set(attributes) for _, attributes in plain.tags]
    for tag in ("title", "h1", "h2", "h3", "li", "td"):
        assert set(page.text_of(tag)) == {text}, tag
    assert page.named("img")[0]["alt"] == text


@pytest.mark.parametrize(("text", "shown"), [("# not a title", "\\# not a title"), ("-5 %", "-5 %"), ("#5", "#5")])
def test_a_paragraph_in_markdown_does_not_begin_as_something_else(text: str, shown: str) -> None:
    assert paragraphs(text) == f"{shown}\n"


def test_html_asks_the_network_for_nothing(picture: Path) -> None:
    html = render_html("A run", every_part("x", picture), picture.parent)
    page = Page(html)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "poster", "action", "data"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    assert not re.search(r"https?:|url\(|@import", html)
    assert not page.named("script")
    assert not page.named("link")
    policy = page.named("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_html_holds_pictures_and_sounds(picture: Path) -> None:
    picture.with_name("a b.wav").write_bytes(b"RIFF made up")
    page = Page(render_html("A run", "![Curves](curve.png)\n\n![cycle 1](a%20b.wav)\n", picture.parent))
    (image,), (audio,) = page.named("img"), page.named("audio")
    assert image["alt"] == "Curves"
    assert base64.b64decode((image["src"] or "").removeprefix("data:image/png;base64,")) == picture.read_bytes()
    assert base64.b64decode((audio["src"] or "").removeprefix("data:audio/wav;base64,")) == b"RIFF made up"
    assert "controls" in audio
    assert page.text_of("span") == ["cycle 1"]
    assert page.named("span")[0] == {"class": "scroll", "tabindex": "0"}


def test_html_is_marked_up_by_meaning(picture: Path) -> None:
    html = render_html("A run", every_part("x", picture), picture.parent)
    page = Page(html)
    assert page.named("html")[0]["lang"] == "en"
    assert "prefers-color-scheme: dark" in html
    assert page.text_of("footer") == ["Research software, not a medical device."]
    assert [len(page.named(tag)) for tag in ("h1", "h2", "h3", "main", "footer")] == [1] * 5
    assert len(page.named("blockquote")) == 2
    assert page.text_of("strong") == ["x", "x"]


def test_html_of_a_table() -> None:
    rows = [["Meditron", 12, "62.3 (55.1 to 69.0)", math.nan], [Markup("*<none>*"), 3, "n/a", 0.5]]
    page = Page(render_html("t", table(["device", "cycles", "Score", "share"], rows), Path()))
    assert page.text_of("th") == ["device", "cycles", "Score", "share", "Meditron"]
    assert page.text_of("em") == ["<none>"]
    assert [cell["scope"] for cell in page.named("th")] == ["col"] * 4 + ["row"] * 2
    assert page.text_of("td") == ["12", "62.3 (55.1 to 69.0)", "n/a", "3", "n/a", "0.5"]
    assert [cell.get("style") for cell in page.named("td")] == ["text-align:right", None, "text-align:right"] * 2


def test_a_long_page_lists_its_sections() -> None:
    short = "## a\n\n### below\n\n## b\n\n## c\n"
    assert not Page(render_html("t", short, Path())).named("nav")
    page = Page(render_html("t", f"{short}\n## d & e\n", Path()))
    targets = [(link["href"] or "").removeprefix("#") for link in page.named("a")]
    assert targets == [heading["id"] for heading in page.named("h2")]
    assert page.text_of("a") == page.text_of("h2") == ["a", "b", "c", "d & e"]


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"curves.pdf: a file that ends in .png"):
        render_html("t", "![Curves](curves.pdf)", tmp_path)
    with pytest.raises(FileNotFoundError):
        render_html("t", "![Curves](curves.png)", tmp_path)
