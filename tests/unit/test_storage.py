"""Places near and far: which are URIs, and what a place that cannot be reached is called."""

import builtins
from pathlib import Path

import pytest

from lungsound.errors import CorpusError, FetchError, LungsoundError, SettingsError
from lungsound.storage import as_uri, place_named


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        (Path("s3://bucket/a"), "s3://bucket/a"),
        ("file:///a/b", "file:///a/b"),
        (Path("file:///a/b"), "file:///a/b"),
        ("simplecache::s3://bucket/a", "simplecache::s3://bucket/a"),
        ("arrow_hdfs://host/a", "arrow_hdfs://host/a"),
        ("git+ssh://host/a", "git+ssh://host/a"),
        ("a/b", None),
        ("/a/b", None),
        ("C:/a/b", None),
        ("a: b://c", None),
        ("", None),
    ],
)
def test_uris_are_told_from_paths(place: str | Path, uri: str | None) -> None:
    assert as_uri(place) == uri


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (PermissionError(13, "Permission denied"), FetchError, r"s3://b is not reached \(PermissionError: Permission"),
        (builtins.Exception(), CorpusError, "s3://b is not reached .*no reason given"),
        (ValueError("two\nlines"), CorpusError, "two lines"),
        (ImportError("no s3fs"), CorpusError, r"s3://b needs .*no s3fs.*lungsound\[remote\]"),
        (SettingsError("own"), CorpusError, "^own$"),
    ],
)
def test_a_fault_names_the_place(fault: Exception, error: type[LungsoundError], words: str) -> None:
    expected = SettingsError if isinstance(fault, ImportError | SettingsError) else error
    with pytest.raises(expected, match=words), place_named("s3://b", error):
        raise fault
