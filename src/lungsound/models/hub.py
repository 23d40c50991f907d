"""Weights and models by name: downloads that are resumed, checked and kept in the cache, and the Hugging Face Hub."""

import os
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lungsound.download import ERRORS, digest, download, recorded_hash
from lungsound.errors import FetchError, SettingsError
from lungsound.extras import BOX, box_file, load
from lungsound.files import cache_root, shipped
from lungsound.progress import OnProgress


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


KNOWN_WEIGHTS = {name: KnownFile(**values) for name, values in shipped("models", "weight_sources.toml").items()}


def resolve_weights(name_or_path: str, *, cache_dir: Path | None = None, on_progress: OnProgress | None = None) -> Path:
    """Path of a file (or folder) of weights: "box", a name of KNOWN_WEIGHTS from the cache, or an existing path.

    The name comes first: `./name` is the folder. What the cache lacks is downloaded, unless LUNGSOUND_OFFLINE is 1.
    SettingsError for an unknown name, FetchError when the file cannot be had or has another hash.
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
    """The file in `folder`, downloaded when it is not there, and checked in either case."""
    path = file.path(folder)
    by_hand = f"put the file by hand at {path}, or give another by --set model.pretrained=FILE (none: random weights)"
    if not path.is_file():
        if not file.is_downloadable or os.environ.get("LUNGSOUND_OFFLINE") == "1":
            reason = "LUNGSOUND_OFFLINE is 1" if file.is_downloadable else "has no published hash"
            raise FetchError(f"{name} is not in the cache and {reason}: get {file.url} and {by_hand}")
        try:
            download(file.url, path, hash=file.hash, on_progress=on_progress)
        except ERRORS as error:
            raise FetchError(f"cannot download {name} from {file.url} ({error}): try again, or {by_hand}") from error
    try:
        known = file.hash or recorded_hash(path)
    except ValueError as error:
        raise FetchError(str(error)) from None
    kind, _, expected = (known or "").partition(":")
    if expected and not (given := digest(path, kind)).startswith(expected):
        raise FetchError(f"{path} has {kind} {given[:16]}, expected {expected[:16]}: delete it to download it again")
    return path


OWN_FILE = "lungsound.safetensors"  # where model.safetensors is the one of another library
FILES = (OWN_FILE, "model.safetensors")
NAME = re.compile(r"(?:hf://)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def is_hub_name(text: str) -> bool:
    """Recognise `hf://owner/name`, or `owner/name` where no `owner` is here: a mistyped path asks no server."""
    is_name = NAME.fullmatch(text) is not None and not Path(text.partition("/")[0]).exists()
    return is_name or text.startswith("hf://")


def download_model(name: str, *, download: Callable[..., str] | None = None) -> Path:
    """Our model file of a repository on the Hub, in the Hub's cache; `name` may have `hf://` before, `@revision` after.

    With LUNGSOUND_OFFLINE=1 only the cache is asked. `download` stands for huggingface_hub's hf_hub_download.
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
