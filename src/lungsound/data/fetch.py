"""Pretrained weights by name: a cache of downloads, resumed when they break off and checked by their hash."""

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO

from lungsound.data.cache import cache_root
from lungsound.errors import FetchError, SettingsError

Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
RECORD_SUFFIX = ".sha256"  # beside a download, in the form that sha256sum checks


@dataclass(frozen=True)
class KnownFile:
    """Where weights can be had.

    sha256      the hash or its first digits; None: what the server states when it is downloaded
    companions  other URLs whose files belong beside it (config.json); the result is then a folder
    """

    url: str
    sha256: str | None
    description: str
    licence: str
    companions: tuple[str, ...] = ()


def _deit(file_name: str, description: str) -> KnownFile:
    """A file of Facebook's DeiT: its name ends in the first digits of its hash."""
    url = f"https://dl.fbaipublicfiles.com/deit/{file_name}"
    return KnownFile(url, file_name.removesuffix(".pth")[-8:], f"{description}, ImageNet-1k", "Apache-2.0")


_AST_URL = "https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/main"
KNOWN_WEIGHTS: dict[str, KnownFile] = {
    "deit-tiny": _deit("deit_tiny_patch16_224-a1311bcf.pth", "DeiT-Tiny/16, 224 px"),
    "deit-small": _deit("deit_small_patch16_224-cd65a155.pth", "DeiT-Small/16, 224 px"),
    "deit-tiny-distilled": _deit("deit_tiny_distilled_patch16_224-b40b3cf7.pth", "DeiT-Tiny/16 distilled, 224 px"),
    "deit-small-distilled": _deit("deit_small_distilled_patch16_224-649709d9.pth", "DeiT-Small/16 distilled, 224 px"),
    "deit-base-distilled-384": _deit("deit_base_distilled_patch16_384-d0272ac0.pth", "DeiT-Base/16 distilled, 384 px"),
    "ast-audioset": KnownFile(
        f"{_AST_URL}/model.safetensors",
        None,
        "AST-Base, AudioSet, stride 10, mAP 0.459",
        "BSD-3-Clause",
        companions=(f"{_AST_URL}/config.json",),
    ),
}


def resolve_weights(name_or_path: str, *, cache_dir: Path | None = None, on_progress: Progress | None = None) -> Path:
    """Path of a file (or folder) of weights: an existing path as it is, a name of KNOWN_WEIGHTS from the cache.

    What the cache lacks is downloaded. The cache is `cache_dir`, else LUNGSOUND_CACHE, else ~/.cache/lungsound.
    With LUNGSOUND_OFFLINE=1 nothing is downloaded. `on_progress` gets the bytes so far and in all (None: unknown).
    Raises SettingsError for an unknown name, FetchError when the file cannot be had or has another hash.
    """
    path = Path(name_or_path).expanduser()
    if path.exists():
        return path
    known = KNOWN_WEIGHTS.get(name_or_path)
    if known is None:
        raise SettingsError(
            f"weights {name_or_path!r}: no such file, and no known name; known names: {', '.join(KNOWN_WEIGHTS)}"
        )
    root = cache_dir or cache_root()
    folder = root / "weights" / name_or_path if known.companions else root / "weights"
    paths = [
        _cached(name_or_path, url, folder, sha256, on_progress)
        for url, sha256 in ((known.url, known.sha256), *((url, None) for url in known.companions))
    ]
    return folder if known.companions else paths[0]


def _cached(name: str, url: str, folder: Path, sha256: str | None, on_progress: Progress | None) -> Path:
    """The file of `url` in `folder`, downloaded when it is not there, and checked in either case."""
    path = folder / url.rsplit("/", 1)[-1]
    record = path.with_name(path.name + RECORD_SUFFIX)
    by_hand = f"put the file by hand at {path}"
    if not path.is_file():
        if os.environ.get("LUNGSOUND_OFFLINE") == "1":
            raise FetchError(f"{name} is not in the cache and LUNGSOUND_OFFLINE is 1: get {url} and {by_hand}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _download(url, path, sha256, on_progress)
        except (OSError, HTTPException) as error:
            raise FetchError(f"cannot download {name} from {url} ({error}): try again, or {by_hand}") from error
    if sha256 is None and record.is_file():
        sha256 = record.read_text(encoding="ascii").split()[0]
    found = _digest(path, "sha256")
    if sha256 is not None and not found.startswith(sha256):
        raise FetchError(f"{path} has sha256 {found[:16]}, expected {sha256[:16]}: delete it to download it again")
    return path


def _download(url: str, path: Path, sha256: str | None, on_progress: Progress | None) -> None:
    """Fetch `url` beside `path`, going on where an earlier attempt stopped; check; rename.

    Without `sha256` the hash that the server states is used. A file with another hash is deleted; the hash of a
    good one is recorded beside it.
    """
    partial = path.with_name(path.name + ".partial")
    headers = _Headers()
    with _open(url, partial, headers) as response:
        kind, expected = ("sha256", sha256) if sha256 is not None else headers.stated_hash()
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
    found = _digest(partial, kind)
    if not found.startswith(expected):
        partial.unlink()
        raise OSError(f"has {kind} {found[:16]}, expected {expected[:16]}; deleted")
    record = path.with_name(path.name + RECORD_SUFFIX)
    record.write_text(f"{_digest(partial, 'sha256')}  {path.name}\n", encoding="ascii")
    partial.replace(path)


def _open(url: str, partial: Path, headers: "_Headers") -> HTTPResponse:
    """Ask for what `partial` lacks; for everything when the server finds that it lacks nothing."""
    opener = urllib.request.build_opener(headers)
    request = urllib.request.Request(url, headers={"User-Agent": "lungsound"})
    if partial.is_file() and partial.stat().st_size:
        request.add_header("Range", f"bytes={partial.stat().st_size}-")
    try:
        response: HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        partial.unlink()
        return _open(url, partial, headers)
    headers.seen.append(response.headers)
    return response


class _Headers(urllib.request.HTTPRedirectHandler):
    """Follows redirects and keeps the headers of each answer: a hub states the hash before it redirects."""

    def __init__(self) -> None:
        self.seen: list[HTTPMessage] = []

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        self.seen.append(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def stated_hash(self) -> tuple[str, str]:
        """Kind and digits: X-Linked-ETag of any answer, else ETag of the last.

        The Hugging Face hub states the SHA-256 of large files and git's blob hash of small ones.
        """
        linked = [headers["X-Linked-ETag"] for headers in self.seen if headers["X-Linked-ETag"]]
        tag = (linked or [self.seen[-1]["ETag"] or ""])[0].removeprefix("W/").strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", tag):
            return "sha256", tag
        if re.fullmatch(r"[0-9a-f]{40}", tag):
            return "git blob hash", tag
        raise OSError("the server states no hash to check the file with")


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        if kind == "sha256":
            return hashlib.file_digest(stream, "sha256").hexdigest()
        sha1 = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        return hashlib.file_digest(stream, lambda: sha1).hexdigest()
