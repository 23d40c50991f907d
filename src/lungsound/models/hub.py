"""Weights and models by name: downloads that are resumed, checked and kept in the cache, and the Hugging Face Hub."""

import glob
import hashlib
import os
import re
import secrets
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from importlib import resources
from pathlib import Path
from typing import IO

from filelock import FileLock

from lungsound.errors import FetchError, SettingsError
from lungsound.extras import BOX, box_file, load
from lungsound.files import cache_root, write_text
from lungsound.progress import OnProgress

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
RECORD_SUFFIX = ".sha256"  # beside a download, in the form that sha256sum checks
BLOB = "git blob hash"


@dataclass(frozen=True)
class KnownFile:
    """Source of a file of weights, as weight_sources.toml describes it."""

    url: str
    hash: str | None = None
    companions: tuple[str, ...] = ()
    is_downloadable: bool = True
    trained_on: str = ""
    licence: str = ""

    def path(self, folder: Path) -> Path:
        """Place of the file in a folder of downloads."""
        return folder / urllib.parse.unquote(urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1])


_SOURCES = (resources.files("lungsound.models") / "weight_sources.toml").read_text(encoding="utf-8")
KNOWN_WEIGHTS = {name: KnownFile(**values) for name, values in tomllib.loads(_SOURCES).items()}


def resolve_weights(name_or_path: str, *, cache_dir: Path | None = None, on_progress: OnProgress | None = None) -> Path:
    """Path of a file (or folder) of weights: "box", a name of KNOWN_WEIGHTS from the cache, or an existing path.

    The name comes first, so that a run's folder of that name is not taken for the weights; `./name` is the folder.
    What the cache lacks is downloaded, unless LUNGSOUND_OFFLINE is 1. `on_progress` gets the bytes so far and in
    all (None: unknown). SettingsError for an unknown name, FetchError when the file cannot be had or has another
    hash.
    """
    if name_or_path == BOX:
        return box_file()
    known = KNOWN_WEIGHTS.get(name_or_path)
    if known is None:
        path = Path(name_or_path).expanduser()
        if path.exists():
            return path
        names = ", ".join((BOX, *KNOWN_WEIGHTS))
        raise SettingsError(f"weights {name_or_path!r}: no such file, and no known name; known names: {names}")
    folder = _cache_of(name_or_path, cache_dir)
    if not known.companions:
        return _cached(name_or_path, known, folder, on_progress)
    for file in (known, *map(KnownFile, known.companions)):
        _cached(name_or_path, file, folder, on_progress)
    return folder


def is_cached(name: str, *, cache_dir: Path | None = None) -> bool:
    """True when weights of KNOWN_WEIGHTS need no download."""
    files = (KNOWN_WEIGHTS[name], *map(KnownFile, KNOWN_WEIGHTS[name].companions))
    return all(file.path(_cache_of(name, cache_dir)).is_file() for file in files)


def _cache_of(name: str, cache_dir: Path | None) -> Path:
    folder = (cache_dir or cache_root()) / "weights"
    return folder / name if KNOWN_WEIGHTS[name].companions else folder


def _cached(name: str, file: KnownFile, folder: Path, on_progress: OnProgress | None) -> Path:
    """The file in `folder`, downloaded when it is not there, and checked in either case.

    Two programs that want the same file wait for each other.
    """
    path = file.path(folder)
    record = path.with_name(path.name + RECORD_SUFFIX)
    by_hand = f"put the file by hand at {path}, or give another by --set model.pretrained=FILE (none: random weights)"
    if not path.is_file():
        if not file.is_downloadable or os.environ.get("LUNGSOUND_OFFLINE") == "1":
            reason = "LUNGSOUND_OFFLINE is 1" if file.is_downloadable else "has no published hash"
            raise FetchError(f"{name} is not in the cache and {reason}: get {file.url} and {by_hand}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{path.name}.lock"):
                if not path.is_file():
                    _download(file, path, record, on_progress)
        except (OSError, HTTPException) as error:
            raise FetchError(f"cannot download {name} from {file.url} ({error}): try again, or {by_hand}") from error
    known = file.hash
    if known is None and record.is_file():
        known = f"sha256:{record.read_text(encoding='ascii').split()[0]}"
    kind, _, expected = (known or "").partition(":")
    if expected and not (digest := _digest(path, kind)).startswith(expected):
        raise FetchError(f"{path} has {kind} {digest[:16]}, expected {expected[:16]}: delete it to download it again")
    return path


def _download(file: KnownFile, path: Path, record: Path, on_progress: OnProgress | None) -> None:
    """Fetch the file beside `path`, resuming where an earlier attempt stopped; check; rename.

    A file with another hash is deleted; the SHA-256 of a good one goes into `record`. The name of what is not
    complete cannot be guessed, so that nobody can put a link in its place where the folder is shared.
    """
    partials = [each for each in path.parent.glob(f"{glob.escape(path.name)}.*.partial") if not each.is_symlink()]
    partial = partials[0] if partials else path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    redirects = _Redirects()
    with _open(file.url, partial, redirects) as response:
        kind, _, expected = (file.hash or redirects.stated_hash()).partition(":")
        is_resumed = response.status == 206
        num_bytes = partial.stat().st_size if is_resumed else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else num_bytes + int(length)
        with partial.open("ab" if is_resumed else "wb") as out:
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                num_bytes += len(chunk)
                if on_progress is not None:
                    on_progress(num_bytes, total)
    if total is not None and num_bytes < total:
        raise OSError(f"broke off after {num_bytes} of {total} bytes; the next attempt goes on from there")
    digest = _digest(partial, kind)
    if not digest.startswith(expected):
        partial.unlink()
        raise OSError(f"has {kind} {digest[:16]}, expected {expected[:16]}; deleted")
    write_text(record, f"{_digest(partial, 'sha256')}  {path.name}\n")
    partial.replace(path)


def _open(url: str, partial: Path, redirects: "_Redirects") -> HTTPResponse:
    """Ask for what `partial` lacks; for everything when the server answers that it lacks nothing."""
    request = urllib.request.Request(url, headers={"User-Agent": "lungsound"})
    if partial.is_file():
        request.add_header("Range", f"bytes={partial.stat().st_size}-")
    try:
        response: HTTPResponse = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not partial.is_file():
            raise
        partial.unlink()
        return _open(url, partial, redirects)
    redirects.headers.append(response.headers)
    return response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, never from https to another scheme, and keep all headers: a hub states a hash in the first."""

    def __init__(self) -> None:
        self.headers: list[HTTPMessage] = []

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise OSError(f"{req.full_url} redirects to {newurl}, which is not https")
        self.headers.append(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def stated_hash(self) -> str:
        """X-Linked-ETag of any response, else ETag of the last: on the Hub the SHA-256, git's hash of small files."""
        linked = [headers["X-Linked-ETag"] for headers in self.headers if headers["X-Linked-ETag"]]
        tag = (linked or [self.headers[-1]["ETag"] or ""])[0].removeprefix("W/").strip('"').lower()
        kind = {64: "sha256", 40: BLOB}.get(len(tag))
        if kind is None or not re.fullmatch("[0-9a-f]+", tag):
            raise OSError("the server states no hash to check the file with")
        return f"{kind}:{tag}"


def _digest(path: Path, kind: str) -> str:
    """Hex digits of a hash: sha256, md5, or git's of a blob."""
    digest = hashlib.new("sha1" if kind == BLOB else kind, usedforsecurity=False)
    if kind == BLOB:
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: digest).hexdigest()


OWN_FILE = "lungsound.safetensors"  # where model.safetensors is the one of another library
FILES = (OWN_FILE, "model.safetensors")
NAME = re.compile(r"(?:hf://)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def is_hub_name(text: str) -> bool:
    """Recognise the name of a repository: `hf://owner/name`, or `owner/name` where no file or folder `owner` is here.

    So a mistyped path under a folder that exists asks no server.
    """
    is_name = NAME.fullmatch(text) is not None and not Path(text.partition("/")[0]).exists()
    return is_name or text.startswith("hf://")


def download_model(name: str, *, download: Callable[..., str] | None = None) -> Path:
    """Our model file of a repository on the Hub, in the Hub's cache; `name` may have `hf://` before, `@revision` after.

    With LUNGSOUND_OFFLINE=1 only the cache is asked. `download` stands for huggingface_hub's hf_hub_download.
    SettingsError for what is no name or without huggingface_hub, FetchError when the file cannot be had.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise SettingsError(f"{name!r} is no name on the Hub: hf://OWNER/NAME or hf://OWNER/NAME@REVISION is needed")
    errors = load("huggingface_hub.errors", extra="hub")
    ask = download or load("huggingface_hub", extra="hub").hf_hub_download
    is_offline = os.environ.get("LUNGSOUND_OFFLINE") == "1"
    for file in FILES:
        try:
            return Path(ask(match["repository"], file, revision=match["revision"], local_files_only=is_offline))
        except errors.EntryNotFoundError as error:
            missing = error
        except (OSError, ValueError) as error:
            raise FetchError(f"cannot get {file} of {name} from the Hub ({error}): check the name, try again") from None
    if isinstance(missing, errors.LocalEntryNotFoundError):
        raise FetchError(f"{name} is not in the Hub's cache and the Hub cannot be asked: connect and try again")
    raise FetchError(f"{name} on the Hub holds none of {', '.join(FILES)}: upload the model file of a run to it")
