"""Small corpora on disk for the tests of the readers."""

import json
from pathlib import Path

import numpy as np
import soundfile

# Files in the place of a JSON file of ours.
DAMAGED = (b"", b"{}", b"[]", b"null", b"NaN", b"5", b'"text"', b"[" * 100_000, b'{"a": ' + b"9" * 5_000 + b"}")
DAMAGED += ("{}".encode("utf-16"), b'{"a": "\xe9"}', b'{"a": 1')
NORMAL = "0.5\t1.5\t0\t0\n"


def write_sound(path: Path, *, num_samples: int = 8000, sample_rate_hz: int = 4000) -> Path:
    """A quiet ramp; 2 s long by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.linspace(-0.1, 0.1, num_samples, dtype=np.float32), sample_rate_hz, subtype="PCM_16")
    return path


def write_icbhi(folder: Path, annotations: dict[str, str], *, suffix: str = ".wav") -> Path:
    """A recording of 2 s and its annotation for each name; the text is written as it is."""
    for name, text in annotations.items():
        write_sound(folder / f"{name}{suffix}")
        (folder / f"{name}.txt").write_bytes(text.encode())
    return folder


def write_event_file(path: Path, events: list[tuple[object, object, str]], *, record: object = "Normal") -> Path:
    """SPRSound's JSON of (start in ms, end in ms, type)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    items = [{"start": start, "end": end, "type": kind} for start, end, kind in events]
    path.write_text(json.dumps({"record_annotation": record, "event_annotation": items}), encoding="utf-8")
    return path


def kinds(problems) -> list[str]:
    return [problem.kind for problem in problems]
