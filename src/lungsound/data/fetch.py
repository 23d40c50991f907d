"""Corpora by name: their archives downloaded and checked, and unpacked into a folder that appears whole."""

import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console

from lungsound.download import ERRORS, digest, download, recorded_hash
from lungsound.errors import FetchError
from lungsound.files import cache_root, shipped, written_folder
from lungsound.progress import OnProgress, track

CHUNK_BYTES = 1 << 20
MAX_MEMBERS = 100_000


@dataclass(frozen=True)
class CorpusSource:
    """Source of a corpus, as corpora.toml describes it."""

    title: str
    url: str
    name: str
    max_bytes: int
    licence: str
    hash: str | None = None
    hash_from: str = ""
    parts: tuple[str, ...] = ()


CORPORA = {name: CorpusSource(**values) for name, values in shipped("data", "manifests", "corpora.toml").items()}


def fetch_corpus(
    source: CorpusSource, folder: Path, *, archive: Path | None = None, sha256: str | None = None, console: Console
) -> str:
    """Unpack the corpus into `folder`, new or empty, and return the SHA-256 of its archive.

    The archive is `archive`, else downloaded into the cache. It must have the SHA-256 (64 digits) or, without one, the
    known hash. FetchError when it cannot be had, is another file, or is none that is safe to unpack.
    """
    hash = f"sha256:{sha256.lower()}" if sha256 else source.hash
    with written_folder(folder) as place:  # refuses a folder that is not empty before anything is downloaded
        path = archive or _downloaded(source, hash, console)
        try:
            digits = digest(path, "sha256")
            recorded = recorded_hash(path) if archive is None else None
            for kind, _, expected in ((each or "").partition(":") for each in (hash, recorded)):
                if expected and (given := digits if kind == "sha256" else digest(path, kind)) != expected:
                    raise FetchError(
                        f"{path} has {kind} {given}, expected {expected}: it is another file, or damaged; delete it to "
                        "download it again"
                    )
            with track(console, "unpacking") as on_progress:
                unpack(path, place, parts=source.parts, max_bytes=source.max_bytes, on_progress=on_progress)
        except (OSError, ValueError) as error:
            raise FetchError(f"cannot unpack {path} into {folder} ({error})") from error
    return digits


def _downloaded(source: CorpusSource, hash: str | None, console: Console) -> Path:
    path = cache_root() / "corpora" / source.name
    by_hand = "get the archive by hand and give it with --archive FILE"
    if not path.is_file():
        if os.environ.get("LUNGSOUND_OFFLINE") == "1":
            raise FetchError(f"{path} is not there and LUNGSOUND_OFFLINE is 1: from {source.url} {by_hand}")
        try:
            with track(console, source.name) as on_progress:
                limit = source.max_bytes
                download(source.url, path, hash=hash, is_hash_stated=False, max_bytes=limit, on_progress=on_progress)
        except ERRORS as error:
            raise FetchError(f"cannot download {source.url} ({error}): try again, or {by_hand}") from error
    return path


def unpack(
    archive: Path, folder: Path, *, parts: Sequence[str], max_bytes: int, on_progress: OnProgress | None = None
) -> None:
    """Unpack a zip file into the folder, without the one folder that holds all of it; of `parts` alone, if any.

    FetchError, before anything is written, for a name that leads out of the folder or stands twice, a link or another
    special file, encryption, and more than `max_bytes` or MAX_MEMBERS; and for content that is not as it was packed.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = _members(packed.infolist(), parts)
            total = sum(member.file_size for member in members.values())
            if len(members) > MAX_MEMBERS or total > max_bytes:
                raise FetchError(
                    f"unpacks to {len(members)} files of {total} bytes: more than {MAX_MEMBERS} or {max_bytes}"
                )
            num_bytes = 0
            for place, member in members.items():
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as content, target.open("xb") as out:
                    shutil.copyfileobj(content, out, CHUNK_BYTES)
                num_bytes += member.file_size
                if on_progress is not None:
                    on_progress(num_bytes, total)
    except FetchError as error:
        raise FetchError(f"{archive}: {error}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise FetchError(f"{archive} is no whole zip archive ({error}): download it again") from None


def _members(infos: Sequence[zipfile.ZipInfo], parts: Sequence[str]) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """Members that are wanted, by their place in the folder."""
    paths = [(PurePosixPath(info.filename), info) for info in infos if not info.is_dir()]
    is_one_folder = len({path.parts[:1] for path, _ in paths}) == 1 and all(len(path.parts) > 1 for path, _ in paths)
    wanted: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for path, info in paths:
        if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in info.filename:
            raise FetchError(f"holds {info.filename!r}, a name that may lead out of its folder")
        place = PurePosixPath(*path.parts[is_one_folder:])
        if parts and not any(part in (str(place), f"{place.parts[0]}/") for part in parts):
            continue
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise FetchError(f"holds {info.filename!r}, which is a link or another special file")
        if info.flag_bits & 1:
            raise FetchError(f"holds {info.filename!r}, which is encrypted")
        if place in wanted:
            raise FetchError(f"holds {info.filename!r} twice")
        wanted[place] = info
    if not wanted:
        raise FetchError(f"holds none of {', '.join(parts)}" if parts else "holds no file")
    return wanted
