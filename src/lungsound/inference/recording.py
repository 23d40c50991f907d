"""A recording read for answering: its quality, where its cycles are, and their waveforms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lungsound.audio.front_end import FrontEnd
from lungsound.audio.io import read_channels
from lungsound.audio.quality import (
    MAX_SILENT_SHARE,
    MIN_RMS_DBFS,
    TOO_SHORT,
    Samples,
    find_defects,
    find_other_sounds,
    find_too_little_sound,
    measure_other_sounds,
    measure_quality,
    rms_dbfs,
    silent_stretches,
)
from lungsound.audio.segmentation import segment_cycles, sliding_windows
from lungsound.data.icbhi import annotation_beside, read_annotation
from lungsound.data.tree import cycle_faults
from lungsound.errors import AnnotationError
from lungsound.inference.prediction import CyclesFrom

FindBy = Literal["auto", "annotation", "segmentation", "windows"]
OVERLAP = 0.5  # of windows
Spans = tuple[tuple[float, float], ...]
ANNOTATED_SHORT = ("annotation", TOO_SHORT)  # somebody has heard a cycle in it


@dataclass(frozen=True)
class Heard:
    """A recording, its stretches `spans_s` (start, end), and of each the waveform (samples,) at the model's rate.

    `is_silent` says of each whether it holds too little sound for an answer. `quality` names what is wrong with the
    recording, and why no cycles were found in it where they were looked for.
    """

    path: Path
    duration_s: float
    sample_rate_hz: int
    cycles_from: CyclesFrom
    spans_s: Spans
    waveforms: tuple[Tensor, ...]
    is_silent: tuple[bool, ...]
    quality: tuple[str, ...]

    def sounding(self) -> "Heard":
        """Without the stretches that hold too little sound."""
        kept = [place for place, is_silent in enumerate(self.is_silent) if not is_silent]
        return replace(
            self,
            spans_s=tuple(self.spans_s[place] for place in kept),
            waveforms=tuple(self.waveforms[place] for place in kept),
            is_silent=(False,) * len(kept),
        )


def listen(
    path: Path, front_end: FrontEnd, *, find_by: FindBy = "auto", spans_s: Sequence[tuple[float, float]] | None = None
) -> Heard:
    """Read a recording and find its cycles, unless `spans_s` says where they are.

    "auto" takes those of the annotation beside it (`annotated_spans`), else looks for breathing, else takes windows of
    the model's input that overlap by half; "annotation" takes none but annotated ones, "segmentation" windows where
    there is no breathing. Raises AudioError for what cannot be read, AnnotationError for an annotation that is needed
    and missing, or that cannot be read.
    """
    channels, rate_hz = read_channels(path)
    mono: Samples = channels.mean(axis=0, dtype=np.float32)
    found: tuple[CyclesFrom, Spans, str | None]
    if spans_s is not None:
        found = "annotation", tuple(spans_s), None
    else:
        found = _find(path, mono, rate_hz, find_by=find_by, window_s=front_end.duration_s)
    cycles_from, spans, problem = found
    waveform = front_end.prepare(torch.from_numpy(mono), rate_hz)
    quality = measure_quality(channels, rate_hz)
    too_little = [each for each in find_too_little_sound(quality) if (cycles_from, each.kind) != ANNOTATED_SHORT]
    defects = (*find_defects(quality), *too_little, *find_other_sounds(measure_other_sounds(mono, rate_hz)))
    remarks = [defect.kind for defect in defects]
    return Heard(
        path=path,
        duration_s=len(mono) / rate_hz,
        sample_rate_hz=rate_hz,
        cycles_from=cycles_from,
        spans_s=spans,
        waveforms=tuple(front_end.cut(waveform, start_s=start_s, end_s=end_s) for start_s, end_s in spans),
        is_silent=tuple(_is_silent(mono, start_s, end_s, rate_hz) for start_s, end_s in spans),
        quality=(*remarks, *([] if problem is None else [f"no breathing found: {problem}"])),
    )


def annotated_spans(recording: Path, duration_s: float) -> Spans | None:
    """Start and end (s) of the cycles in `<name>.txt` beside a recording, whatever its labels; None without one.

    AnnotationError for what `lungsound data check` refuses too.
    """
    annotation = annotation_beside(recording)
    if annotation is None:
        return None
    lines, cycles = zip(*read_annotation(annotation), strict=True)
    spans_s = [(start_s, end_s) for start_s, end_s, _, _ in cycles]
    for line, fault in zip(lines, cycle_faults(spans_s, duration_s), strict=True):
        if fault is not None:
            raise AnnotationError(": ".join(fault), path=annotation, line=line)
    return tuple(sorted(spans_s))


def _find(
    path: Path, mono: Samples, rate_hz: int, *, find_by: FindBy, window_s: float
) -> tuple[CyclesFrom, Spans, str | None]:
    """How the cycles were found, where they are, and why there are none but windows."""
    problem = None
    if find_by in ("auto", "annotation"):
        annotated = annotated_spans(path, len(mono) / rate_hz)
        if annotated is not None:
            return "annotation", annotated, None
        if find_by == "annotation":
            raise AnnotationError(
                f"no annotation {path.stem}.txt beside it; take another --cycles, in Python find_by", path=path
            )
    if find_by in ("auto", "segmentation"):
        segmentation = segment_cycles(mono, rate_hz)
        if segmentation.problem is None:
            return "segmentation", segmentation.cycles, None
        problem = segmentation.problem
    windows = sliding_windows(len(mono) / rate_hz, length_s=window_s, hop_s=(1 - OVERLAP) * window_s)
    return "windows", windows, problem


def _is_silent(mono: Samples, start_s: float, end_s: float, rate_hz: int) -> bool:
    part = mono[int(start_s * rate_hz) : int(end_s * rate_hz)]
    if len(part) < 2 or rms_dbfs(part) < MIN_RMS_DBFS:
        return True
    num_silent = sum(end - start for start, end in silent_stretches(part, rate_hz))
    return num_silent > MAX_SILENT_SHARE * len(part)
