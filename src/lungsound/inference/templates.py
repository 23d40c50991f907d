"""The package's jinja templates: HTML pages, where every value is escaped, and text files."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

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
    """The template of that name with these values; jinja2's UndefinedError when one is missing."""
    return _ENVIRONMENT.get_template(name).render(values)
