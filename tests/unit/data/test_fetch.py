"""Archives of corpora: checked, unpacked as a whole, and never out of their folder."""

import hashlib
import io
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lungsound.cli.main import app
from lungsound.data import fetch
from lungsound.data.fetch import CORPORA, CorpusSource, fetch_corpus, unpack
from lungsound.errors import FetchError, SettingsError
from tests.unit.test_download import send, serving

QUIET = Console(quiet=True)
FILES = {"corpus/a.wav": b"sound" * 100, "corpus/a.txt": b"0\t1\t0\t0\n", "corpus/sub/b.txt": b"b"}


def packed(files: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)
    return buffer.getvalue()


def source_of(url: str = "https://example.org/a.zip", content: bytes = b"", **more: object) -> CorpusSource:
    made = CorpusSource("Corpus", url, "a.zip", 1_000_000, "Ours.", f"sha256:{hashlib.sha256(content).hexdigest()}")
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LUNGSOUND_OFFLINE", raising=False)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", CORPORA)
def test_every_source_is_https_and_says_its_licence(name: str) -> None:
    source = CORPORA[name]
    assert source.url.startswith("https://")
    assert source.licence.strip()
    assert (source.hash is None) == (source.hash_from == "")


def test_a_corpus_is_downloaded_once_checked_and_unpacked_whole(tmp_path: Path) -> None:
    content, asked = packed(FILES), []

    def respond(handler: object) -> None:
        asked.append(1)
        send(handler, content)  # type: ignore[arg-type]

    with serving(respond) as url:
        source = source_of(url, content)
        digits = fetch_corpus(source, tmp_path / "one", console=QUIET)
        fetch_corpus(replace(source, hash=None), tmp_path / "two", console=QUIET)
    assert digits == hashlib.sha256(content).hexdigest()
    assert len(asked) == 1
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert names(folder) == ["a.txt", "a.wav", "sub/b.txt"]
        assert (folder / "a.wav").read_bytes() == FILES["corpus/a.wav"]
    with pytest.raises(SettingsError, match="is not empty"):
        fetch_corpus(source, tmp_path / "one", console=QUIET)
    (archive,) = (tmp_path / "cache" / "corpora").glob("*.zip")
    archive.write_bytes(packed({"b/c": b"other"}))
    for again in (source, replace(source, hash=None)):
        with pytest.raises(FetchError, match="it is another file, or damaged"):
            fetch_corpus(again, tmp_path / "three", console=QUIET)
    assert not (tmp_path / "three").exists()


def test_what_cannot_be_downloaded_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed(FILES)

    def refused(source: CorpusSource, match: str) -> None:
        with pytest.raises(FetchError, match=match):
            fetch_corpus(source, tmp_path / "out", console=QUIET)

    with serving(lambda handler: send(handler, b"<html>", Content_Type="text/html")) as url:
        refused(source_of(url, hash=None), r"a page in place of the file.*--archive FILE")
    with serving(lambda handler: send(handler, content, Content_Length=str(2 * len(content)))) as url:
        refused(source_of(url, content), "broke off after")
    monkeypatch.setenv("LUNGSOUND_OFFLINE", "1")
    refused(source_of(), "LUNGSOUND_OFFLINE is 1")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def link(target: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"corpus/{target}")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def encrypted() -> bytes:
    content = bytearray(packed({"corpus/a": b"a"}))
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + place] |= 1
    return bytes(content)


def damaged(content: bytes) -> bytes:
    place = content.index(b"corpus/a.wav") + len("corpus/a.wav") + 3
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "out of the folder": (lambda: packed({"corpus/a": b"a", "corpus/../../evil": b"x"}), "may lead out"),
    "absolute": (lambda: packed({"/tmp/evil": b"x"}), "may lead out"),
    "a link": (lambda: packed([("corpus/a", b"a"), (link("away"), b"/etc/passwd")]), "a link"),
    "a bomb": (lambda: packed({"corpus/a": bytes(2_000_000)}), "unpacks to 1 files of 2000000 bytes"),
    "encrypted": (encrypted, "encrypted"),
    "damaged": (lambda: damaged(packed(FILES)), "no whole zip archive"),
    "cut short": (lambda: packed(FILES)[:-40], "no whole zip archive"),
    "a page": (lambda: b"<html>log in</html>", "no whole zip archive"),
    "empty": (lambda: packed({}), "holds no file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_archive_that_is_not_safe_or_not_whole_is_refused(kind: str, tmp_path: Path) -> None:
    make, match = BAD[kind]
    archive = tmp_path / "a.zip"
    archive.write_bytes(make())
    with pytest.raises(FetchError, match=match):
        fetch_corpus(source_of(hash=None), tmp_path / "in" / "out", archive=archive, console=QUIET)
    assert names(tmp_path) == ["a.zip"]
    assert not (tmp_path / "in" / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(packed([("corpus/a", b"1"), ("corpus/a", b"2")]))
    with pytest.raises(FetchError, match="twice"):
        unpack(tmp_path / "a.zip", tmp_path / "out", parts=(), max_bytes=100)


def test_more_files_than_expected_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_MEMBERS", 2)
    (tmp_path / "a.zip").write_bytes(packed(FILES))
    with pytest.raises(FetchError, match="unpacks to 3 files"):
        unpack(tmp_path / "a.zip", tmp_path / "out", parts=(), max_bytes=10_000)


def test_of_an_archive_the_wanted_parts_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(packed([(link("other"), b"x"), *FILES.items(), ("corpus/LICENSE", b"l")]))
    unpack(tmp_path / "a.zip", tmp_path / "out", parts=("sub/", "LICENSE"), max_bytes=10_000)
    assert names(tmp_path / "out") == ["LICENSE", "sub/b.txt"]
    with pytest.raises(FetchError, match="holds none of none/"):
        unpack(tmp_path / "a.zip", tmp_path / "out2", parts=("none/",), max_bytes=10_000)


def test_the_command_shows_the_licence_and_asks(tmp_path: Path) -> None:
    archive, out = tmp_path / "a.zip", tmp_path / "out"
    archive.write_bytes(packed({f"SPRSound/{name}": b"x" for name in ("BioCAS2022/a.json", "LICENSE", "scripts/b.py")}))
    command = ["data", "fetch", "sprsound", str(out), "--archive", str(archive)]
    asked = CliRunner().invoke(app, command)
    assert isinstance(asked.exception, SettingsError)
    assert "GNU General Public License" in asked.output
    assert not out.exists()
    digits = hashlib.sha256(archive.read_bytes()).hexdigest()
    for more, error in (("0" * 64, FetchError), ("0" * 63, SettingsError)):
        assert isinstance(CliRunner().invoke(app, [*command, "--yes", "--sha256", more]).exception, error)
    done = CliRunner().invoke(app, [*command, "--yes", "--sha256", digits.upper()])
    assert done.exit_code == 0, done.output
    assert digits in done.output
    assert names(out) == ["BioCAS2022/a.json", "LICENSE"]
