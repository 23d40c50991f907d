"""Weights and models by name: downloads that are resumed, checked and kept in the cache, and the Hugging Face Hub."""

import glob
import hashlib
import os
import re
import secrets
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO

from filelock import FileLock

from lungsound.errors import FetchError, SettingsError
from lungsound.extras import load
from lungsound.files import cache_root, write_text

Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 30.0
RECORD_SUFFIX = ".sha256"  # beside a download, in the form that sha256sum checks


@dataclass(frozen=True)
class KnownFile:
    """Source of a file of weights.

    sha256, md5      the hash or its first digits; neither: what the server states when it is downloaded
    companions       other URLs whose files belong beside it (config.json); the result is then a folder
    is_downloadable  False: no hash is published to check a download with, so a person must fetch it
    """

    url: str
    sha256: str | None = None
    md5: str | None = None
    companions: tuple[str, ...] = ()
    is_downloadable: bool = True

    @property
    def hash(self) -> tuple[str, str] | None:
        """Kind and digits."""
        kinds = (("sha256", self.sha256), ("md5", self.md5))
        return next(((kind, digits) for kind, digits in kinds if digits is not None), None)


def _named_by_hash(url: str) -> KnownFile:
    """A file whose name ends in the first eight digits of its hash."""
    return KnownFile(url, sha256=url.removesuffix(".pth")[-8:])


_AST_URL = "https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/main"
_DEIT_URL = "https://dl.fbaipublicfiles.com/deit"
_TORCHVISION_URL = "https://download.pytorch.org/models"
# DeiT, ResNet and EfficientNet are trained on ImageNet-1k. The EfficientNet files that the published program names
# were replaced: their addresses give files of other hashes (pytorch/vision issue 7744), which are the ones named here.
KNOWN_WEIGHTS: dict[str, KnownFile] = {
    "deit-tiny": _named_by_hash(f"{_DEIT_URL}/deit_tiny_patch16_224-a1311bcf.pth"),
    "deit-small": _named_by_hash(f"{_DEIT_URL}/deit_small_patch16_224-cd65a155.pth"),
    "deit-tiny-distilled": _named_by_hash(f"{_DEIT_URL}/deit_tiny_distilled_patch16_224-b40b3cf7.pth"),
    "deit-small-distilled": _named_by_hash(f"{_DEIT_URL}/deit_small_distilled_patch16_224-649709d9.pth"),
    "deit-base-distilled-384": _named_by_hash(f"{_DEIT_URL}/deit_base_distilled_patch16_384-d0272ac0.pth"),
    "ast-audioset": KnownFile(f"{_AST_URL}/model.safetensors", companions=(f"{_AST_URL}/config.json",)),
    "ssast-base-patch": KnownFile(
        "https://www.dropbox.com/s/ewrzpco95n9jdz6/SSAST-Base-Patch-400.pth?dl=1", is_downloadable=False
    ),
    "resnet18": _named_by_hash(f"{_TORCHVISION_URL}/resnet18-f37072fd.pth"),
    "resnet34": _named_by_hash(f"{_TORCHVISION_URL}/resnet34-b627a593.pth"),
    "resnet50": _named_by_hash(f"{_TORCHVISION_URL}/resnet50-0676ba61.pth"),
    "resnet101": _named_by_hash(f"{_TORCHVISION_URL}/resnet101-63fe2227.pth"),
    "efficientnet_b0": _named_by_hash(f"{_TORCHVISION_URL}/efficientnet_b0_rwightman-7f5810bc.pth"),
    "efficientnet_b1": _named_by_hash(f"{_TORCHVISION_URL}/efficientnet_b1_rwightman-bac287d4.pth"),
    "efficientnet_b2": _named_by_hash(f"{_TORCHVISION_URL}/efficientnet_b2_rwightman-c35c1473.pth"),
    "cnn6-audioset": KnownFile(
        "https://zenodo.org/record/3987831/files/Cnn6_mAP%3D0.343.pth?download=1",
        md5="e25e26b84585b14c7754c91e48efc9be",
    ),
    "mn04-audioset": KnownFile(
        "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt",
        sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
    ),
}


def resolve_weights(name_or_path: str, *, cache_dir: Path | None = None, on_progress: Progress | None = None) -> Path:
    """Path of a file (or folder) of weights: a name of KNOWN_WEIGHTS from the cache, an existing path as it is.

    The name comes first, so that a run's folder of that name is not taken for the weights; `./name` is the folder.
    What the cache lacks is downloaded. The cache is `cache_dir`, else LUNGSOUND_CACHE, else ~/.cache/lungsound.
    With LUNGSOUND_OFFLINE=1 nothing is downloaded. `on_progress` gets the bytes so far and in all (None: unknown).
    Raises SettingsError for an unknown name, FetchError when the file cannot be had or has another hash.
    """
    known = KNOWN_WEIGHTS.get(name_or_path)
    if known is None:
        path = Path(name_or_path).expanduser()
        if path.exists():
            return path
        raise SettingsError(
            f"weights {name_or_path!r}: no such file, and no known name; known names: {', '.join(KNOWN_WEIGHTS)}"
        )
    root = cache_dir or cache_root()
    folder = root / "weights" / name_or_path if known.companions else root / "weights"
    path = _cached(name_or_path, known.url, folder, known.hash, on_progress, is_downloadable=known.is_downloadable)
    for url in known.companions:
        _cached(name_or_path, url, folder, None, on_progress)
    return folder if known.companions else path


def _cached(
    name: str,
    url: str,
    folder: Path,
    wanted: tuple[str, str] | None,
    on_progress: Progress | None,
    *,
    is_downloadable: bool = True,
) -> Path:
    """The file of `url` in `folder`, downloaded when it is not there, and checked in either case.

    Two programs that want the same file wait for each other.
    """
    path = folder / urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
    record = path.with_name(path.name + RECORD_SUFFIX)
    by_hand = f"put the file by hand at {path}, or give another by --set model.pretrained=FILE (none: random weights)"
    if not path.is_file():
        if not is_downloadable:
            raise FetchError(f"{name} is not in the cache and has no published hash: get {url} and {by_hand}")
        if os.environ.get("LUNGSOUND_OFFLINE") == "1":
            raise FetchError(f"{name} is not in the cache and LUNGSOUND_OFFLINE is 1: get {url} and {by_hand}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{path.name}.lock"):
                if not path.is_file():
                    _download(url, path, wanted, on_progress)
        except (OSError, HTTPException) as error:
            raise FetchError(f"cannot download {name} from {url} ({error}): try again, or {by_hand}") from error
    if wanted is None and record.is_file():
        wanted = "sha256", record.read_text(encoding="ascii").split()[0]
    if wanted is not None:
        kind, expected = wanted
        digest = _digest(path, kind)
        if not digest.startswith(expected):
            raise FetchError(
                f"{path} has {kind} {digest[:16]}, expected {expected[:16]}: delete it to download it again"
            )
    return path


def _download(url: str, path: Path, wanted: tuple[str, str] | None, on_progress: Progress | None) -> None:
    """Fetch `url` beside `path`, resuming where an earlier attempt stopped; check; rename.

    `wanted` is the kind and the digits of the hash; without it the hash that the server states is used. A file with
    another hash is deleted; the SHA-256 of a good one is recorded beside it. The name of what is not complete cannot be
    guessed, so that nobody can put a link in its place where the folder is shared.
    """
    partials = [each for each in path.parent.glob(f"{glob.escape(path.name)}.*.partial") if not each.is_symlink()]
    partial = partials[0] if partials else path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    redirects = _Redirects()
    with _open(url, partial, redirects) as response:
        kind, expected = wanted or redirects.stated_hash()
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
    write_text(path.with_name(path.name + RECORD_SUFFIX), f"{_digest(partial, 'sha256')}  {path.name}\n")
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

    def stated_hash(self) -> tuple[str, str]:
        """Kind and digits: X-Linked-ETag of any response, else ETag of the last.

        The Hugging Face hub states the SHA-256 of large files and git's blob hash of small ones.
        """
        linked = [headers["X-Linked-ETag"] for headers in self.headers if headers["X-Linked-ETag"]]
        tag = (linked or [self.headers[-1]["ETag"] or ""])[0].removeprefix("W/").strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", tag):
            return "sha256", tag
        if re.fullmatch(r"[0-9a-f]{40}", tag):
            return "git blob hash", tag
        raise OSError("the server states no hash to check the file with")


def _digest(path: Path, kind: str) -> str:
    """Hex digits of a hash: sha256, md5, or git's of a blob."""
    if kind == "git blob hash":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: digest).hexdigest()


OWN_FILE = "lungsound.safetensors"  # where model.safetensors is the one of another library
FILES = (OWN_FILE, "model.safetensors")
SCHEME = "hf://"
NAME = re.compile(r"(?:hf://)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")

Download = Callable[..., str]


def is_hub_name(text: str) -> bool:
    """Recognise the name of a repository: `hf://owner/name`, or `owner/name` where no file or folder `owner` is here.

    So a mistyped path under a folder that exists asks no server.
    """
    if text.startswith(SCHEME):
        return True
    return NAME.fullmatch(text) is not None and not Path(text.partition("/")[0]).exists()


def download_model(name: str, *, download: Download | None = None) -> Path:
    """Our model file of a repository on the Hub, in the Hub's cache; `name` may have `hf://` before, `@revision` after.

    A repository has it as lungsound.safetensors or model.safetensors. With LUNGSOUND_OFFLINE=1 only the cache is asked.
    `download` stands for huggingface_hub's hf_hub_download. Raises SettingsError for what is no name or without
    huggingface_hub, FetchError when the file cannot be had.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise SettingsError(f"{name!r} is no name on the Hub: hf://OWNER/NAME or hf://OWNER/NAME@REVISION is needed")
    errors = load("huggingface_hub.errors", extra="hub")
    ask: Download = download or load("huggingface_hub", extra="hub").hf_hub_download
    is_offline = os.environ.get("LUNGSOUND_OFFLINE") == "1"
    for file in FILES:
        try:
            return Path(ask(match["repository"], file, revision=match["revision"], local_files_only=is_offline))
        except errors.EntryNotFoundError as error:
            missing = error
        except (OSError, ValueError) as error:
            raise FetchError(
                f"cannot get {file} of {name} from the Hub ({error}): check the name, try again"
            ) from error
    if isinstance(missing, errors.LocalEntryNotFoundError):
        raise FetchError(f"{name} is not in the Hub's cache and the Hub cannot be asked: connect and try again")
    raise FetchError(f"{name} on the Hub holds none of {', '.join(FILES)}: upload the model file of a run to it")
