"""The classes of a stranger's file: what they are called, in which order, and which of them is the normal one."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lungsound.errors import DataError, SettingsError
from lungsound.labels import LABEL_SETS

# Spellings as `plain` gives them.
NORMAL_SPELLINGS = frozenset({"normal", "healthy", "norm", "n", "none", "negative", "neg", "no", "healthy normal"})
POOR_QUALITY_SPELLINGS = frozenset({"poor quality", "poor", "pq"})
# What the indices of a file without names most likely mean.
USUAL_CLASSES = {2: LABEL_SETS["sound2"].classes, 4: LABEL_SETS["sound4"].classes}


def plain(name: str) -> str:
    """A class name without the differences that mean nothing: case, blanks, underscores, signs."""
    return re.sub(r"[^0-9a-z]+", " ", name.casefold()).strip()


def whole_number(text: str) -> int | None:
    """The index that "3", "3.0" or " 3 " writes; None for anything else."""
    found = re.fullmatch(r"\s*(-?\d+)(\.0*)?\s*", text)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class FileClasses:
    """The classes in the file's own order, `normal` the index of the normal one; `notes` say what was assumed."""

    names: tuple[str, ...]
    normal: int
    notes: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """Indices in the file's order, the normal class put first."""
        return (self.normal, *(index for index in range(len(self.names)) if index != self.normal))

    @property
    def normal_first(self) -> tuple[str, ...]:
        return tuple(self.names[index] for index in self.order)

    def index(self, text: str) -> int | None:
        """Place in `normal_first` of a class written by its name or its index; None when it is neither."""
        spellings = [plain(name) for name in self.names]
        if plain(text) in spellings:
            return self.order.index(spellings.index(plain(text)))
        number = whole_number(text)
        return self.order.index(number) if number is not None and 0 <= number < len(self.names) else None


def given_classes(names: Sequence[str], normal: str | None) -> FileClasses:
    """The classes that the user named, in the file's order. Raises SettingsError when they cannot be classes."""
    if len(names) < 2 or len({plain(name) for name in names}) != len(names) or not all(map(plain, names)):
        raise SettingsError(f"--classes needs two or more different names, as in normal,crackle; got {','.join(names)}")
    place = _normal_place(names, normal)
    if place is None:
        return FileClasses(tuple(names), 0, (f"Class {names[0]!r}, the first of --classes, is taken as normal.",))
    return FileClasses(tuple(names), place)


def classes_of_indices(num_classes: int, normal: str | None) -> FileClasses:
    """The classes of a file that writes indices only, 0 to `num_classes` - 1."""
    names = USUAL_CLASSES.get(num_classes, tuple(f"class {index}" for index in range(num_classes)))
    if normal is not None:
        return FileClasses(names, _required_place(names, normal))
    return FileClasses(
        names, 0, (f"Indices 0 to {num_classes - 1} are read as {', '.join(names)}; --classes says otherwise.",)
    )


def classes_of_names(names: Iterable[str], normal: str | None, *, source: str) -> FileClasses:
    """The classes of a file that writes names, in the order in which they come (spellings of one name count once).

    The four lung sounds are put into ICBHI's order. Raises DataError when none of them is called normal.
    """
    spelled = {plain(name): name.strip() for name in reversed(list(names))}
    first_seen = list(dict.fromkeys(reversed(spelled)))
    known = [plain(name) for name in USUAL_CLASSES[4]]
    ordered = known if set(first_seen) == set(known) else first_seen
    found = tuple(spelled[name] for name in ordered)
    if len(found) < 2:
        raise DataError(f"{source}: all rows are of class {', '.join(found)!r}; name all classes with --classes")
    place = _normal_place(found, normal)
    if place is None:
        raise DataError(f"{source}: no class is called normal ({', '.join(found)}): name it with --normal NAME")
    return FileClasses(found, place)


def _normal_place(names: Sequence[str], normal: str | None) -> int | None:
    """Index of the normal class: the one that the user names, else the one that is called so."""
    if normal is not None:
        return _required_place(names, normal)
    places = [index for index, name in enumerate(names) if plain(name) in NORMAL_SPELLINGS]
    return places[0] if len(places) == 1 else None


def _required_place(names: Sequence[str], normal: str) -> int:
    spellings = [plain(name) for name in names]
    number = whole_number(normal)
    if plain(normal) in spellings:
        return spellings.index(plain(normal))
    if number is not None and 0 <= number < len(names):
        return number
    raise SettingsError(f"--normal {normal}: no such class; the classes are {', '.join(names)}")
