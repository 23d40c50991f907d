"""Downloads: resumed, checked, one program at a time, from https to https only, never around a certificate."""

import hashlib
import os
import re
import secrets
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO

from filelock import FileLock

from lungsound.files import write_text
from lungsound.progress import OnProgress

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
LEAST_BYTES = 30_000  # in that time; a server that gives less might as well give nothing
HASH_SUFFIX = ".sha256"  # beside a download, in the form that sha256sum checks
BLOB = "git blob hash"
ERRORS = (OSError, HTTPException)  # of `download`
_PAGES = ("text/html", "application/xhtml+xml")


def download(
    url: str,
    path: Path,
    *,
    hash: str | None = None,
    is_hash_stated: bool = True,
    max_bytes: int | None = None,
    on_progress: OnProgress | None = None,
) -> None:
    """Download the file unless it is there, resuming where an earlier attempt stopped; check; rename.

    `hash` is a kind and digits, or the first of them; without it the server must state one, or with `is_hash_stated`
    false nothing is checked, and nothing resumed. A file with another hash is deleted; the SHA-256 of a good one is
    recorded beside it. Programs that want the same file wait for each other. Raises one of ERRORS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.is_file():
            _download(url, path, hash if hash or is_hash_stated else "", max_bytes, on_progress)


def recorded_hash(path: Path) -> str | None:
    """SHA-256 recorded at the download; None without a record. ValueError for one that is damaged."""
    record = path.with_name(path.name + HASH_SUFFIX)
    if not record.is_file():
        return None
    match = re.match(rb"([0-9a-f]{64})  ", record.read_bytes())
    if match is None:
        raise ValueError(f"{record} is damaged: delete it and {path}, and download again")
    return f"sha256:{match[1].decode()}"


def digest(path: Path, kind: str) -> str:
    """Hex digits of a hash: sha256, md5, or git's of a blob."""
    made = hashlib.new("sha1" if kind == BLOB else kind, usedforsecurity=False)
    if kind == BLOB:
        made.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: made).hexdigest()


def _download(url: str, path: Path, hash: str | None, max_bytes: int | None, on_progress: OnProgress | None) -> None:
    partial = _left(path)
    if partial is not None and hash == "":
        partial.unlink()  # what has no hash may be another file by now
        partial = None
    redirects = _Redirects()
    with _open(url, partial, redirects) as response:
        if response.headers.get_content_type() in _PAGES:
            raise OSError("the server gave a page in place of the file")
        hash = redirects.stated_hash() if hash is None else hash
        num_bytes, total = _sizes(response, partial)
        if partial is not None and num_bytes == 0:
            partial.unlink(missing_ok=True)
            partial = None
        # The name cannot be guessed, so that nobody can put a link in its place where the folder is shared.
        place = partial or path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
        with place.open("ab" if partial else "xb") as out:
            since_s, since = time.monotonic(), num_bytes
            while chunk := response.read1(CHUNK_BYTES):
                out.write(chunk)
                num_bytes += len(chunk)
                if max_bytes is not None and num_bytes > max_bytes:
                    place.unlink()
                    raise OSError(f"gives more than {max_bytes} bytes, which the file cannot have; deleted")
                if (now_s := time.monotonic()) - since_s > TIMEOUT_S:
                    if num_bytes - since < LEAST_BYTES:
                        raise OSError(f"is too slow: {num_bytes - since} bytes in {now_s - since_s:.0f} s")
                    since_s, since = now_s, num_bytes
                if on_progress is not None:
                    on_progress(num_bytes, total)
    if total is not None and num_bytes < total:
        raise OSError(f"broke off after {num_bytes} of {total} bytes; the next attempt goes on from there")
    kind, _, expected = hash.partition(":")
    if hash and not (given := digest(place, kind)).startswith(expected):
        place.unlink()
        raise OSError(f"has {kind} {given[:16]}, expected {expected[:16]}; deleted")
    write_text(path.with_name(path.name + HASH_SUFFIX), f"{digest(place, 'sha256')}  {path.name}\n")
    place.replace(path)


def _left(path: Path) -> Path | None:
    """What an earlier attempt left: a file of this user's under no other name, which a link to another file is not."""
    pattern = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.partial")
    for each in sorted(path.parent.iterdir()):
        if pattern.fullmatch(each.name):
            facts = each.lstat()
            if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and facts.st_uid == os.getuid():
                return each
    return None


def _sizes(response: HTTPResponse, partial: Path | None) -> tuple[int, int | None]:
    """Bytes that are there already, and in all; None where the server does not say. OSError for what is no number."""
    length = response.headers.get("Content-Length")
    if length is not None and not (length.isascii() and length.isdigit() and len(length) < 16):
        raise OSError(f"the server states the length {length[:20]!r}, which is no number")
    num_bytes = 0
    if response.status == 206:
        num_bytes = 0 if partial is None else partial.stat().st_size
        given = response.headers.get("Content-Range", f"bytes {num_bytes}-")
        if not given.startswith(f"bytes {num_bytes}-"):
            raise OSError(f"the server gave {given[:40]!r} where the bytes from {num_bytes} on were asked for")
    return num_bytes, None if length is None else num_bytes + int(length)


def _open(url: str, partial: Path | None, redirects: "_Redirects") -> HTTPResponse:
    """Ask for what `partial` lacks; for everything when the server answers that it lacks nothing."""
    request = urllib.request.Request(url, headers={"User-Agent": "lungsound"})
    if partial is not None and partial.is_file():
        request.add_header("Range", f"bytes={partial.stat().st_size}-")
    try:
        response: HTTPResponse = urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or partial is None or not partial.is_file():
            raise
        partial.unlink()
        return _open(url, partial, redirects)
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from error
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
