"""Downloads from a server of our own on this machine: resumed, checked, refused, and never asked for when offline."""

import hashlib
import http.server
import io
import re
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPMessage
from pathlib import Path

import pytest

from lungsound import download
from lungsound.errors import FetchError, SettingsError
from lungsound.models.hub import KNOWN_WEIGHTS, KnownFile, resolve_weights

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CONFIG = b'{"model_type": "audio-spectrogram-transformer"}'
CONFIG_BLOB = hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and the Range header of each request that it saw."""

    has_ranges: bool = True
    states_length: bool = True
    breaks_off_after: int | None = None
    hub_tag: str | None = f'"{SHA256}"'
    config_tag: str | None = f'W/"{CONFIG_BLOB}"'
    ranges: list[str | None] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        """/hub/* redirects with a stated hash, as the Hugging Face hub does; the rest is the file itself."""
        behaviour = self.behaviour
        if self.path == "/hub/model.safetensors":
            self.send_response(302)
            if behaviour.hub_tag is not None:
                self.send_header("X-Linked-ETag", behaviour.hub_tag)
            self.send_header("Location", "/store/model.safetensors")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/hub/config.json":
            self.send_file(CONFIG, behaviour.config_tag)
        elif self.path == "/gone.pth":
            self.send_error(404)
        else:
            self.send_file(CONTENT, '"5d41402abc4b2a76b9719d911017c592"')

    def send_file(self, content: bytes, tag: str | None) -> None:
        behaviour = self.behaviour
        wanted = self.headers["Range"]
        behaviour.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and behaviour.has_ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if tag is not None:
            self.send_header("ETag", tag)
        if behaviour.states_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : behaviour.breaks_off_after])

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def behaviour(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    """A server on 127.0.0.1, whose files are known as "small" (hash known) and "hub" (hash stated by the server)."""
    made = Behaviour()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"behaviour": made}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LUNGSOUND_OFFLINE", raising=False)
    monkeypatch.setattr(download, "CHUNK_BYTES", 10_000)
    known = {
        "small": KnownFile(f"{url}/small-{SHA256[:8]}.pth", hash=f"sha256:{SHA256[:8]}"),
        "wrong": KnownFile(f"{url}/small.pth", hash="sha256:0123abcd"),
        "gone": KnownFile(f"{url}/gone.pth", hash=f"sha256:{SHA256[:8]}"),
        "hub": KnownFile(f"{url}/hub/model.safetensors", companions=(f"{url}/hub/config.json",)),
        "zenodo": KnownFile(f"{url}/Cnn_mAP%3D0.3.pth?download=1", hash=f"md5:{hashlib.md5(CONTENT).hexdigest()}"),
        "zenodo-wrong": KnownFile(f"{url}/Cnn_mAP%3D0.3.pth?download=1", hash="md5:0123abcd"),
        "by-hand": KnownFile(f"{url}/Patch-400.pth?dl=1", is_downloadable=False),
    }
    for name, file in known.items():
        monkeypatch.setitem(KNOWN_WEIGHTS, name, file)
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def assert_fails(name: str, cache_dir: Path, match: str) -> None:
    """One line that names the URL and the place for the file by hand."""
    with pytest.raises(FetchError, match=match) as caught:
        resolve_weights(name, cache_dir=cache_dir)
    message = str(caught.value)
    assert "\n" not in message
    assert KNOWN_WEIGHTS[name].url in message
    assert f"put the file by hand at {cache_dir / 'weights'}" in message
    assert message.endswith("or give another by --set model.pretrained=FILE (none: random weights)")


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def test_a_download_is_checked_recorded_and_made_once(behaviour: Behaviour, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = resolve_weights("small", cache_dir=tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "weights" / f"small-{SHA256[:8]}.pth"
    assert path.read_bytes() == CONTENT
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert len(seen) > 10
    record = path.with_name(path.name + ".sha256")
    assert record.read_text() == f"{SHA256}  {path.name}\n"
    assert resolve_weights("small", cache_dir=tmp_path) == path
    assert behaviour.ranges == [None]
    assert visible(path.parent) == [path, record]


def test_an_interrupted_download_goes_on_where_it_stopped(behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.breaks_off_after = 100_000
    assert_fails("small", tmp_path, "broke off after 100000 of 256000 bytes; the next attempt goes on from there")
    behaviour.breaks_off_after = None
    seen: list[tuple[int, int | None]] = []
    path = resolve_weights("small", cache_dir=tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert behaviour.ranges == [None, "bytes=100000-"]
    assert 100_000 < seen[0][0] <= 110_000
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_two_programs_download_a_file_once(behaviour: Behaviour, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: resolve_weights("small", cache_dir=tmp_path), range(2)))
    assert paths[0] == paths[1]
    assert behaviour.ranges == [None]


def test_the_name_of_what_is_not_complete_cannot_be_guessed(behaviour: Behaviour, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    planted = tmp_path / "weights" / f"small-{SHA256[:8]}.pth.0123456789abcdef.partial"
    planted.parent.mkdir()
    planted.symlink_to(mine)
    behaviour.breaks_off_after = 100
    assert_fails("small", tmp_path, "broke off")
    (partial,) = (path for path in visible(planted.parent) if path != planted)
    assert re.fullmatch(rf"small-{SHA256[:8]}\.pth\.[0-9a-f]{{16}}\.partial", partial.name)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("url", ["http://example.org/a.pth", "ftp://example.org/a.pth"])
def test_a_redirect_from_https_is_followed_to_https_only(url: str) -> None:
    redirects = download._Redirects()
    request = urllib.request.Request("https://example.org/a.pth")
    with pytest.raises(OSError, match="which is not https"):
        redirects.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), url)
    followed = redirects.redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), "https://example.com/b")
    assert followed is not None
    assert followed.full_url == "https://example.com/b"


def test_a_server_without_ranges_starts_again(behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.has_ranges = False
    behaviour.breaks_off_after = 100_000
    assert_fails("small", tmp_path, "broke off")
    behaviour.breaks_off_after = None
    assert resolve_weights("small", cache_dir=tmp_path).read_bytes() == CONTENT
    assert behaviour.ranges == [None, "bytes=100000-"]


def test_a_complete_partial_file_is_fetched_again(behaviour: Behaviour, tmp_path: Path) -> None:
    partial = tmp_path / "weights" / f"small-{SHA256[:8]}.pth.0123456789abcdef.partial"
    partial.parent.mkdir()
    partial.write_bytes(CONTENT)
    assert resolve_weights("small", cache_dir=tmp_path).read_bytes() == CONTENT
    assert behaviour.ranges == ["bytes=256000-", None]
    assert not partial.exists()


def test_a_server_that_states_no_length(behaviour: Behaviour, tmp_path: Path) -> None:
    behaviour.states_length = False
    seen: list[int | None] = []
    resolve_weights("small", cache_dir=tmp_path, on_progress=lambda _done, total: seen.append(total))
    assert set(seen) == {None}
    behaviour.breaks_off_after = 100_000
    (tmp_path / "weights" / f"small-{SHA256[:8]}.pth").unlink()
    assert_fails("small", tmp_path, "has sha256")


@pytest.mark.usefixtures("behaviour")
def test_a_wrong_hash_is_refused_and_deleted(tmp_path: Path) -> None:
    assert_fails("wrong", tmp_path, f"has sha256 {SHA256[:16]}, expected 0123abcd; deleted")
    assert visible(tmp_path / "weights") == []


@pytest.mark.usefixtures("behaviour")
def test_an_md5_is_checked_and_the_name_on_disk_is_plain(tmp_path: Path) -> None:
    path = resolve_weights("zenodo", cache_dir=tmp_path)
    assert path.name == "Cnn_mAP=0.3.pth"
    assert path.read_bytes() == CONTENT
    assert path.with_name(path.name + ".sha256").read_text() == f"{SHA256}  {path.name}\n"
    path.write_bytes(CONTENT[1:])
    with pytest.raises(FetchError, match=r"has md5 [0-9a-f]{16}, expected .*: delete it to download it again"):
        resolve_weights("zenodo", cache_dir=tmp_path)
    path.unlink()
    assert_fails("zenodo-wrong", tmp_path, r"has md5 [0-9a-f]{16}, expected 0123abcd; deleted")


def test_what_has_no_published_hash_is_fetched_by_a_person(behaviour: Behaviour, tmp_path: Path) -> None:
    assert_fails("by-hand", tmp_path, "by-hand is not in the cache and has no published hash: get http")
    assert behaviour.ranges == []
    by_hand = tmp_path / "weights" / "Patch-400.pth"
    by_hand.parent.mkdir()
    by_hand.write_bytes(CONTENT)
    assert resolve_weights("by-hand", cache_dir=tmp_path) == by_hand


def test_a_file_of_several_comes_as_a_folder_checked_by_the_stated_hashes(behaviour: Behaviour, tmp_path: Path) -> None:
    folder = resolve_weights("hub", cache_dir=tmp_path)
    assert folder == tmp_path / "weights" / "hub"
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert (folder / "config.json").read_bytes() == CONFIG
    assert (folder / "model.safetensors.sha256").read_text().startswith(SHA256)
    assert (folder / "config.json.sha256").read_text().startswith(hashlib.sha256(CONFIG).hexdigest())
    behaviour.hub_tag = None
    assert resolve_weights("hub", cache_dir=tmp_path) == folder


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hub_tag": "0" * 64}, f"has sha256 {SHA256[:16]}, expected 0000000000000000; deleted"),
        ({"hub_tag": None}, "the server states no hash"),
        ({"config_tag": '"' + "0" * 40 + '"'}, f"has git blob hash {CONFIG_BLOB[:16]}, expected 0000000000000000"),
        ({"config_tag": None}, "the server states no hash"),
    ],
)
def test_a_stated_hash_must_be_there_and_fit(
    behaviour: Behaviour, tmp_path: Path, change: dict[str, str | None], match: str
) -> None:
    for name, value in change.items():
        setattr(behaviour, name, value)
    with pytest.raises(FetchError, match=match):
        resolve_weights("hub", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("name", ["small", "hub"])
@pytest.mark.usefixtures("behaviour")
def test_a_cached_file_that_changed_is_refused(tmp_path: Path, name: str) -> None:
    path = resolve_weights(name, cache_dir=tmp_path)
    path = path / "model.safetensors" if path.is_dir() else path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(FetchError, match="delete it to download it again"):
        resolve_weights(name, cache_dir=tmp_path)


def test_offline_nothing_is_asked_for(behaviour: Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_OFFLINE", "1")
    assert_fails("small", tmp_path, "small is not in the cache and LUNGSOUND_OFFLINE is 1")
    assert behaviour.ranges == []
    by_hand = tmp_path / "weights" / f"small-{SHA256[:8]}.pth"
    by_hand.parent.mkdir()
    by_hand.write_bytes(CONTENT)
    assert resolve_weights("small", cache_dir=tmp_path) == by_hand


@pytest.mark.usefixtures("behaviour")
def test_no_network_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_fails("gone", tmp_path, "cannot download gone from .* 404")
    monkeypatch.setitem(KNOWN_WEIGHTS, "closed", KnownFile("http://127.0.0.1:9/a.pth", hash="sha256:00"))
    assert_fails("closed", tmp_path, "cannot download closed from .* refused")


@pytest.mark.usefixtures("behaviour")
def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"")
    assert_fails("small", tmp_path, "cannot download small")


@pytest.mark.usefixtures("behaviour")
def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGSOUND_CACHE", str(tmp_path / "here"))
    assert resolve_weights("small").parent == tmp_path / "here" / "weights"
    monkeypatch.delenv("LUNGSOUND_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve_weights("small").parent == tmp_path / "home" / ".cache" / "lungsound" / "weights"


def test_an_existing_path_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.pth").write_bytes(b"")
    assert resolve_weights(str(tmp_path / "mine.pth")) == tmp_path / "mine.pth"
    assert resolve_weights(str(tmp_path)) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_weights("~/mine.pth") == tmp_path / "mine.pth"


@pytest.mark.usefixtures("behaviour")
def test_a_runs_folder_does_not_hide_the_weights_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    assert resolve_weights("small", cache_dir=tmp_path) == tmp_path / "weights" / f"small-{SHA256[:8]}.pth"
    assert resolve_weights("./small", cache_dir=tmp_path) == Path("small")


def test_the_box_is_a_name_before_a_folder(box: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "box").mkdir()
    assert resolve_weights("box") == box
    assert resolve_weights("./box") == Path("box")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file, and no known name; known names: box, deit-tiny, ") as caught:
        resolve_weights("deit-huge", cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_known_weights() -> None:
    named_by_hash = {f"deit-{name}" for name in ("tiny", "small", "tiny-distilled", "small-distilled")}
    named_by_hash |= {"deit-base-distilled-384", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2"}
    named_by_hash |= {"resnet18", "resnet34", "resnet50", "resnet101"}
    others = {"ast-audioset", "ssast-base-patch", "cnn6-audioset", "mn04-audioset"}
    assert set(KNOWN_WEIGHTS) == named_by_hash | others
    for name, known in KNOWN_WEIGHTS.items():
        assert known.url.startswith("https://")
        if name in named_by_hash:
            assert re.fullmatch(r"sha256:[0-9a-f]{8}", known.hash or "")
            assert known.url.endswith(f"-{known.hash.removeprefix('sha256:')}.pth")
    assert KNOWN_WEIGHTS["ast-audioset"].companions[0].endswith("/config.json")
    assert not KNOWN_WEIGHTS["ssast-base-patch"].is_downloadable


def test_the_known_hash_of_mn04_is_that_of_the_file(mn04_path: Path) -> None:
    assert f"sha256:{hashlib.sha256(mn04_path.read_bytes()).hexdigest()}" == KNOWN_WEIGHTS["mn04-audioset"].hash
