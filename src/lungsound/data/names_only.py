"""A corpus by the names of its annotation files, where the sounds are not at hand: what an audit by names needs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lungsound.data.corpus import Corpus, Cycle, Problem, Recording
from lungsound.data.icbhi import (
    AUDIO_FOLDER,
    SPLIT_FILES,
    canonical_name,
    is_icbhi_name,
    official_split,
    parse_split,
    read_annotation,
)
from lungsound.data.tree import assemble, files_with_suffix, one_per_name, require_folder
from lungsound.errors import AnnotationError, CorpusError


def read_names(root: Path, *, split: str = "official") -> Corpus:
    """The recordings that ICBHI's annotation files in `root` name, with their cycles and parts, and without sounds.

    split: "official" (a split file beside the annotations or one folder up, else the one shipped here) or the path of
        a file of lines `name<TAB>part`.

    The length of a recording is not known (NaN), its rate is 0, its path is that of its annotation. Raises CorpusError
    when `root` is no folder, has no such file, or the split cannot be read.
    """
    folder = require_folder(root)
    if (root / AUDIO_FOLDER).is_dir():
        folder = root / AUDIO_FOLDER
    paths = [path for path in files_with_suffix(folder, [".txt"]) if is_icbhi_name(path.stem)]
    if not paths:
        raise CorpusError(
            f"no annotation files in {folder}: an audit by names needs files called like ICBHI's, as in "
            "101_1b1_Al_sc_Meditron.txt; leave --names-only out to read another corpus"
        )
    problems: list[Problem] = []
    annotations = one_per_name(paths, "duplicate annotation", problems, canonical=canonical_name)
    part_of, note = _read_split((folder, folder.absolute().parent), split)
    recordings, cycles = [], []
    for name, path in annotations.items():
        recording = _recording(name, path)
        recordings.append(recording)
        cycles.extend(_cycles(recording, problems))
        if name not in part_of:
            problems.append(Problem("in no split", recording.name, "the split does not name it"))
    return assemble(
        "icbhi",
        root,
        recordings=recordings,
        cycles=cycles,
        split={path.stem: part_of[name] for name, path in annotations.items() if name in part_of},
        problems=problems,
        notes=(note, "by names only: no sound was read"),
    )


def _recording(name: str, path: Path) -> Recording:
    patient, _, location, mode, device = name.split("_")
    return Recording(path.stem, patient, path, math.nan, 0, location=location, mode=mode, device=device)


def _cycles(recording: Recording, problems: list[Problem]) -> list[Cycle]:
    try:
        return [Cycle(recording, *fields) for _, fields in read_annotation(recording.path)]
    except AnnotationError as error:
        where, _, detail = str(error).partition(": ")
        problems.append(Problem("bad annotation", where, detail))
        return []


def _read_split(places: Sequence[Path], split: str) -> tuple[Mapping[str, str], str]:
    if split != "official":
        return parse_split(Path(split)), f"split: from {split}"
    beside = [place / name for place in places for name in SPLIT_FILES if (place / name).is_file()]
    if beside:
        return parse_split(beside[0]), f"split: official, from {beside[0].name}"
    return official_split(), "split: official, shipped with lungsound"
