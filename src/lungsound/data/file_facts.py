"""Length, rate and hash of sound files, remembered for as long as the files stay as they are.

A corpus is read at each start; with these facts no sound file is opened for it again. They lie in the cache, one file
for each folder of sounds. A sound file is taken for unchanged while its size, its inode and its times of modification
and of change (which nobody can set back) are the same; a file that changed moments ago is read again, for a second
change within one tick of the file system's clock would not show.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lungsound.audio.io import AudioInfo, probe
from lungsound.files import cache_root, hash_file, read_record, write_record

FORMAT = "lungsound file facts 3"
MIN_AGE_S = 2.0  # the coarsest clock of a file system in use (FAT)

Stamp = tuple[int, int, int, int]  # size, time of modification and of change in ns, inode


@dataclass(frozen=True)
class Facts:
    """Facts of one file as it was at `stamp`; None is not known yet."""

    stamp: Stamp
    info: AudioInfo | None = None
    sha256: str | None = None


class FileFacts:
    """Facts of files, kept in the folder `place`. `save` writes new ones; nothing is harmed where they are lost."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._known: dict[Path, dict[str, Facts]] = {}
        self._is_new: set[Path] = set()

    def audio_info(self, path: Path) -> AudioInfo:
        """As `lungsound.audio.io.probe`, whose errors it raises; the file is read once."""
        stamp = _stamp(path)
        facts = self._find(path, stamp)
        if facts is not None and facts.info is not None:
            return facts.info
        info = probe(path)
        self._add(path, stamp, info=info)
        return info

    def sha256(self, paths: Sequence[Path]) -> list[str]:
        """SHA-256 of the bytes of each file, as hex digits; several files are read at a time. Raises OSError."""
        stamps = [_stamp(path) for path in paths]
        known = [self._find(path, stamp) for path, stamp in zip(paths, stamps, strict=True)]
        hashes = [None if facts is None else facts.sha256 for facts in known]
        unknown = [place for place, sha256 in enumerate(hashes) if sha256 is None]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for place, sha256 in zip(unknown, pool.map(hash_file, [paths[place] for place in unknown]), strict=True):
                hashes[place] = sha256
                self._add(paths[place], stamps[place], sha256=sha256)
        return [sha256 for sha256 in hashes if sha256 is not None]

    def save(self) -> None:
        """Write new facts, together with those that other processes have written meanwhile."""
        for folder in self._is_new:
            file = self._file(folder)
            known = _read(file, folder) | self._known[folder]
            rows = {
                name: [*facts.stamp, None if facts.info is None else list(vars(facts.info).values()), facts.sha256]
                for name, facts in sorted(known.items())
            }
            # Only time is lost where the cache cannot be written: no reason to fail.
            with contextlib.suppress(OSError):
                write_record(file, rows, made_for=f"{FORMAT} {folder}")
        self._is_new.clear()

    def _file(self, folder: Path) -> Path:
        return self.place / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]}.json"

    def _find(self, path: Path, stamp: Stamp | None) -> Facts | None:
        folder = path.parent.absolute()
        if folder not in self._known:
            self._known[folder] = _read(self._file(folder), folder)
        facts = self._known[folder].get(path.name)
        return facts if facts is not None and facts.stamp == stamp else None

    def _add(self, path: Path, stamp: Stamp | None, **more: Any) -> None:
        """Remember, unless the file may have changed between the stamp and now, or may again within one tick."""
        if stamp is not None and stamp == _stamp(path) and time.time_ns() - max(stamp[1:3]) >= MIN_AGE_S * 1e9:
            facts, folder = replace(self._find(path, stamp) or Facts(stamp), **more), path.parent.absolute()
            self._known[folder][path.name] = facts
            self._is_new.add(folder)


_facts_at = lru_cache(maxsize=8)(FileFacts)


def file_facts() -> FileFacts:
    """The facts in the cache; the same object while the cache is the same folder."""
    return _facts_at(cache_root() / "files")


def _stamp(path: Path) -> Stamp | None:
    """None for a file that cannot be looked at; reading it will say why."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # the second for a path that cannot be one
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _read(file: Path, folder: Path) -> dict[str, Facts]:
    """Facts in the file; none where it is not there or not as it was written, as the cache may be lost at any time."""
    facts, kept = {}, read_record(file, made_for=f"{FORMAT} {folder}") or {}
    for name, (size, modified, changed, inode, info, sha256) in kept.items():
        num_samples, rate_hz, num_channels, remarks = info or (0, 0, 0, ())
        audio = AudioInfo(num_samples, rate_hz, num_channels, tuple(remarks)) if info else None
        facts[name] = Facts((size, modified, changed, inode), audio, sha256)
    return facts
