"""Words of a corpus as classes of a label set: by a label map, else by the label set that has all of them."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from lungsound.data.corpus import Corpus, Cycle, Problem
from lungsound.labels import LABEL_SETS, LabelMap, LabelSet, LungSound, sound_of

# Each cycle beside where it was written.
Placed = list[tuple[str, Cycle]]

UNKNOWN_LABEL = "unknown label"  # the kind of problem
MAP_NOTE = "label map "  # beginning of notes on what a map loses
NUM_FINEST = 3  # label sets that are named to a user: the others are coarser
_HOW = (
    'set data.label_map to a file with label_set = "sound4" and lines "word" = "class" in [classes] '
    "(evaluate and the data commands: --label-map FILE, in Python label_map; cross: --on DIR=FILE)"
)


def relabel(cycles: Placed, label_map: LabelMap, problems: list[Problem]) -> Placed:
    """The cycles in the words of the map's label set, with the flags that these say.

    A word without an entry is an "unknown label", named where it comes first; its cycles are left out.
    """
    unknown: Counter[str] = Counter()
    first_place: dict[str, str] = {}
    kept = []
    for where, cycle in cycles:
        if cycle.word in label_map.classes:
            kept.append((where, _with_word(cycle, label_map.classes[cycle.word], label_map.label_set)))
        else:
            unknown[cycle.word] += 1
            first_place.setdefault(cycle.word, where)
    known = ", ".join(label_map.classes)
    for word, number in unknown.items():
        detail = (
            f"{word!r} (of {number} cycles) has no entry in the label map {label_map.vocabulary}, which has {known}"
        )
        problems.append(Problem(UNKNOWN_LABEL, first_place[word], detail))
    return kept


def relabelled(corpus: Corpus, label_map: LabelMap) -> Corpus:
    """The corpus in the words of the map's label set, with the losses of the map in `notes`."""
    problems = list(corpus.problems)
    kept = relabel([(cycle.key, cycle) for cycle in corpus.cycles], label_map, problems)
    return replace(
        corpus,
        cycles=tuple(cycle for _, cycle in kept),
        problems=tuple(problems),
        notes=(*corpus.notes, *map_notes(label_map, corpus.cycles)),
        vocabulary=label_map.label_set.name,
    )


def map_notes(label_map: LabelMap, cycles: Sequence[Cycle]) -> list[str]:
    """Losses of a map over the words of these cycles, as notes."""
    losses = label_map.losses([word for word in label_map.classes if any(cycle.word == word for cycle in cycles)])
    name = f"{MAP_NOTE}{label_map.vocabulary} to {label_map.label_set.name}"
    return [f"{name}: {loss}" for loss in losses] or [f"{name}: nothing is lost"]


def read_words(
    cycles: Placed, label_map: LabelMap | None, where: str, problems: list[Problem]
) -> tuple[Placed, str, list[str]]:
    """Cycles whose terms are yet unread, in the words of a label set; its name; and notes on how they were read.

    By the label map; without one by the label set that has all the words: tried in the order of `_candidates`, first
    with the words as they are, then in any case. When none has them all that is an "unknown label", and no cycle is
    left. Flags without a term stay as they are, without a map.
    """
    if label_map is not None:
        notes = map_notes(label_map, [cycle for _, cycle in cycles])
        return relabel(cycles, label_map, problems), label_map.label_set.name, notes
    words = list(dict.fromkeys(cycle.term for _, cycle in cycles if cycle.term is not None))
    if not words:
        return cycles, "sound4", []
    fitting = _fitting_map(words)
    if fitting is None:
        known = "; ".join(", ".join(label_set.classes) for label_set in _candidates()[:NUM_FINEST])
        given = ", ".join(repr(word) for word in words)
        detail = f"labels {given} are not all of one known set ({known}): {_HOW}"
        problems.append(Problem(UNKNOWN_LABEL, where, detail))
        return [], "sound4", []
    name = fitting.label_set.name
    return relabel(cycles, fitting, problems), name, [f"labels: the words of {name}"]


def _candidates() -> list[LabelSet]:
    """Label sets of sounds: those that tell most apart first, then the coarser ones."""
    finest = [LABEL_SETS[name] for name in ("sound4", "sprsound_event7", "sprsound_record5")]
    return finest + [s for s in LABEL_SETS.values() if not s.needs_diagnosis and s not in finest]


def _fitting_map(words: Collection[str]) -> LabelMap | None:
    for fold in (str, str.lower):
        for label_set in _candidates():
            class_of = {fold(name): name for name in label_set.classes}
            if all(fold(word) in class_of for word in words):
                return LabelMap("labels", label_set, {word: class_of[fold(word)] for word in words})
    return None


def _with_word(cycle: Cycle, word: str, label_set: LabelSet) -> Cycle:
    sound = sound_of(word) or LungSound.NORMAL
    term = None if label_set.name == "sound4" else word
    return replace(cycle, has_crackle=sound.has_crackle, has_wheeze=sound.has_wheeze, term=term)
