"""Writing a file so that it is never half there."""

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write the text (UTF-8) beside its place, in a folder that is made when it is not there, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
