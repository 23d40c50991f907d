"""Label sets: the four lung sounds, the other sets of classes, and the maps between their words.

In every label set class 0 is the normal one: specificity is its recall. The classes of a label set are a vocabulary at
the same time: ICBHI's flags speak that of `sound4`, SPRSound's events that of `sprsound_event7`, its recordings that of
`sprsound_record5`. A label map takes the words of a vocabulary to the classes of a label set.
"""

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lungsound.errors import SettingsError
from lungsound.files import parse_toml, read_text, shipped, shipped_names

Unit = Literal["cycle", "recording"]


class LungSound(IntEnum):
    """Class of one breathing cycle, in ICBHI's order."""

    NORMAL = 0
    CRACKLE = 1
    WHEEZE = 2
    BOTH = 3

    @classmethod
    def of(cls, *, has_crackle: bool, has_wheeze: bool) -> "LungSound":
        return cls(int(has_crackle) + 2 * int(has_wheeze))

    @property
    def has_crackle(self) -> bool:
        return self in (LungSound.CRACKLE, LungSound.BOTH)

    @property
    def has_wheeze(self) -> bool:
        return self in (LungSound.WHEEZE, LungSound.BOTH)

    @property
    def word(self) -> str:
        """Its class in the label set sound4: "normal", "crackle", "wheeze", "both"."""
        return self.name.lower()


# The grouping of ICBHI's eight diagnoses in the published code.
DIAGNOSIS_GROUPS = {
    "Healthy": 0,
    **dict.fromkeys(("COPD", "Bronchiectasis", "Asthma"), 1),
    **dict.fromkeys(("URTI", "LRTI", "Pneumonia", "Bronchiolitis"), 2),
}


@dataclass(frozen=True)
class LabelSet:
    """A named list of classes that a cycle, or a whole recording, can be given; class 0 is normal."""

    name: str
    classes: tuple[str, ...]
    unit: Unit = "cycle"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def needs_diagnosis(self) -> bool:
        return self.name.startswith("diagnosis")

    def label(self, *, sound: LungSound, diagnosis: str | None = None, term: str | None = None) -> int:
        """Class index of a term, else of a sound, or of a diagnosis; SettingsError when the set has no class for it."""
        if self.needs_diagnosis:
            if diagnosis not in DIAGNOSIS_GROUPS:
                raise SettingsError(
                    f"label set {self.name!r} needs each patient's diagnosis, one of "
                    f"{', '.join(DIAGNOSIS_GROUPS)}; got {diagnosis!r}"
                )
            return min(DIAGNOSIS_GROUPS[diagnosis], self.num_classes - 1)
        word = sound.word if term is None else term
        if word in _indices(self.name):
            return _indices(self.name)[word]
        raise SettingsError(
            f"label set {self.name!r} has no class for {word!r}; its classes are {', '.join(self.classes)}: "
            "choose another data.label_set, or map the corpus's words with data.label_map"
        )


LABEL_SETS = {
    label_set.name: label_set
    for label_set in (
        LabelSet("sound4", tuple(sound.word for sound in LungSound)),
        LabelSet("sound2", ("normal", "abnormal")),
        LabelSet("diagnosis3", ("healthy", "chronic", "non-chronic")),
        LabelSet("diagnosis2", ("healthy", "unhealthy")),
        LabelSet("sprsound_event2", ("Normal", "Adventitious")),
        LabelSet(
            "sprsound_event7",
            ("Normal", "Rhonchi", "Wheeze", "Stridor", "Coarse Crackle", "Fine Crackle", "Wheeze+Crackle"),
        ),
        LabelSet("sprsound_record3", ("Normal", "Adventitious", "Poor Quality"), unit="recording"),
        LabelSet("sprsound_record5", ("Normal", "CAS", "DAS", "CAS & DAS", "Poor Quality"), unit="recording"),
    )
}


def sound_of(word: str) -> LungSound | None:
    """The one of the four sounds that a word means ("Rhonchi": wheeze); None for any other word ("abnormal")."""
    index = _indices("sound4").get(word)
    return None if index is None else LungSound(index)


@dataclass(frozen=True)
class LabelMap:
    """The class of a label set for each word of a vocabulary; `vocabulary` is a label set's name, or says whose."""

    vocabulary: str
    label_set: LabelSet
    classes: Mapping[str, str]

    def losses(self, words: Collection[str]) -> list[str]:
        """Words that share a class, and words without a class, a sentence each."""
        sources = {name: [word for word in words if self.classes.get(word) == name] for name in self.label_set.classes}
        losses = [f"{_listed(shared)} become {name}" for name, shared in sources.items() if len(shared) > 1]
        if lost := [word for word in words if word not in self.classes]:
            losses.append(f"{_listed(lost)} {'has' if len(lost) == 1 else 'have'} no class in {self.label_set.name}")
        return losses


def describe_map(source_vocabulary: str, label_set: str) -> list[str]:
    """Losses of the shipped map from a vocabulary (a label set's name) to a label set, if there must be one."""
    if LABEL_SETS[label_set].needs_diagnosis or label_set == source_vocabulary:
        return []
    return shipped_map(source_vocabulary, label_set).losses(LABEL_SETS[source_vocabulary].classes)


def shipped_map(vocabulary: str, label_set: str) -> LabelMap:
    """The map from the words of one label set to the classes of another; SettingsError when none is shipped."""
    known = {each.label_set.name: each for each in shipped_maps() if each.vocabulary == vocabulary}
    if label_set in known:
        return known[label_set]
    raise SettingsError(
        f"no label map from {vocabulary!r} to {label_set!r} is shipped; from there are: {', '.join(known) or 'none'}. "
        "Choose one of these label sets, or map the corpus's words with data.label_map"
    )


@cache
def shipped_maps() -> tuple[LabelMap, ...]:
    return tuple(
        _parse_map(shipped("label_maps", f"{name}.toml"), f"{name}.toml") for name in shipped_names("label_maps")
    )


def read_label_map(path: Path) -> LabelMap:
    """A user's label map: TOML with a `label_set`, maybe a `vocabulary`, and a table `[classes]` "word" = "class"."""
    return _parse_map(parse_toml(read_text(path, SettingsError), SettingsError, path=path), str(path))


def _parse_map(content: Mapping[str, Any], name: str) -> LabelMap:
    if unknown := content.keys() - {"vocabulary", "label_set", "classes"}:
        key = reprlib.repr(min(unknown))
        raise SettingsError(f"label map {name}: unknown key {key}; known are vocabulary, label_set, classes")
    targets, given = [each for each in LABEL_SETS if not LABEL_SETS[each].needs_diagnosis], content.get("label_set")
    if given not in targets:
        known = ", ".join(targets)
        raise SettingsError(f"label map {name}: label_set is {reprlib.repr(given)}, expected one of {known}")
    label_set, classes = LABEL_SETS[given], content.get("classes")
    if not isinstance(classes, dict) or not classes:
        raise SettingsError(f'label map {name}: needs a table [classes] of lines "word" = "class"')
    for word, class_name in classes.items():
        if class_name not in label_set.classes:
            known = f"the classes of {label_set.name} are {', '.join(label_set.classes)}"
            raise SettingsError(f"label map {name}: {reprlib.repr(word)} is {reprlib.repr(class_name)}, but {known}")
    return LabelMap(str(content.get("vocabulary", Path(name).name)), label_set, classes)


@cache
def _indices(label_set: str) -> dict[str, int]:
    """Class index of every word that is known to belong to a class of a label set."""
    classes = LABEL_SETS[label_set].classes
    words = {name: name for name in classes}
    for label_map in shipped_maps():
        if label_map.label_set.name == label_set:
            words |= label_map.classes
    return {word: classes.index(name) for word, name in words.items()}


def _listed(words: Collection[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
