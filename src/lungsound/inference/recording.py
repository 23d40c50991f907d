"""A recording loaded for prediction: its quality, the places of its cycles, and their waveforms."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

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
from lungsound.inference.withholding import SILENT_CYCLES

FindBy = Literal["auto", "annotation", "segmentation", "windows"]
WINDOW_OVERLAP = 0.5
Spans = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Stretch:
    """A stretch of a recording and its waveform (samples,) at the model's rate."""

    start_s: float
    end_s: float
    waveform: NDArray[np.float32]
    is_silent: bool


@dataclass(frozen=True)
class LoadedRecording:
    """A recording cut into the stretches to predict.

    `quality` are remarks: defects, and why no cycles were detected where they were searched for.
    """

    path: Path
    duration_s: float
    sample_rate_hz: int
    cycles_from: CyclesFrom
    stretches: tuple[Stretch, ...]
    quality: tuple[str, ...]


def load_recording(
    path: Path, front_end: FrontEnd, *, find_by: FindBy, spans_s: Spans | None = None, is_silence_kept: bool = False
) -> LoadedRecording:
    """Read a recording and cut it into its cycles, or at `spans_s` (start, end).

    "auto" takes the cycles of the annotation beside it (`annotated_spans`), else looks for breathing, else takes
    windows of the model's input that overlap by half; "annotation" takes none but annotated ones, "segmentation"
    windows where there is no breathing. Cycles with too little sound are left out, with a remark, unless
    `is_silence_kept`; spans never are. Raises AudioError for a recording that cannot be read, AnnotationError for an
    annotation that is needed and missing, or that cannot be read.
    """
    channels, rate_hz = read_channels(path)
    mono: Samples = channels.mean(axis=0, dtype=np.float32)
    duration_s, remarks = len(mono) / rate_hz, []
    cycles_from: CyclesFrom = "annotation"
    is_silence_kept = is_silence_kept or spans_s is not None
    if spans_s is None and find_by in ("auto", "annotation"):
        spans_s = annotated_spans(path, duration_s)
        if spans_s is None and find_by == "annotation":
            raise AnnotationError(
                f"no annotation {path.stem}.txt beside it; take another --cycles, in Python find_by", path=path
            )
    if spans_s is None and find_by in ("auto", "segmentation"):
        segmentation = segment_cycles(mono, rate_hz)
        if segmentation.problem is None:
            cycles_from, spans_s = "segmentation", segmentation.cycles
        else:
            remarks = [f"no breathing found: {segmentation.problem}"]
    if spans_s is None:
        window_s = front_end.audio.duration_s
        cycles_from = "windows"
        spans_s = sliding_windows(duration_s, length_s=window_s, hop_s=(1 - WINDOW_OVERLAP) * window_s)
    waveform = front_end.prepare(torch.from_numpy(mono), rate_hz)
    stretches = [
        Stretch(
            start_s,
            end_s,
            front_end.cut(waveform, start_s=start_s, end_s=end_s).numpy(),
            _is_silent(mono[int(start_s * rate_hz) : int(end_s * rate_hz)], rate_hz),
        )
        for start_s, end_s in spans_s
    ]
    sounding = [stretch for stretch in stretches if not stretch.is_silent]
    if not is_silence_kept:
        remarks += [SILENT_CYCLES] if 0 < len(sounding) < len(stretches) else []
        stretches = sounding
    quality = measure_quality(channels, rate_hz)
    too_little = find_too_little_sound(quality)
    if cycles_from == "annotation":  # somebody has marked a cycle in it, however short it is
        too_little = tuple(each for each in too_little if each.kind != TOO_SHORT)
    defects = (*find_defects(quality), *too_little, *find_other_sounds(measure_other_sounds(mono, rate_hz)))
    remarks = [*(defect.kind for defect in defects), *remarks]
    return LoadedRecording(path, duration_s, rate_hz, cycles_from, tuple(stretches), tuple(remarks))


def annotated_spans(recording: Path, duration_s: float) -> tuple[tuple[float, float], ...] | None:
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


def _is_silent(samples: Samples, rate_hz: int) -> bool:
    if len(samples) < 2 or rms_dbfs(samples) < MIN_RMS_DBFS:
        return True
    num_silent = sum(end - start for start, end in silent_stretches(samples, rate_hz))
    return num_silent > MAX_SILENT_SHARE * len(samples)
