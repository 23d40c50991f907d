"""The four lung sounds, their two-class reading, and the diagnosis labels of the published code.

In every label set class 0 is the normal (healthy) one: specificity is its recall.
"""

from dataclasses import dataclass
from enum import IntEnum

from lungsound.errors import SettingsError


class LungSound(IntEnum):
    """What is heard in one breathing cycle, in ICBHI's order of classes."""

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


# The grouping of ICBHI's eight diagnoses in the published code.
DIAGNOSIS_GROUPS = {
    "Healthy": 0,
    "COPD": 1,
    "Bronchiectasis": 1,
    "Asthma": 1,
    "URTI": 2,
    "LRTI": 2,
    "Pneumonia": 2,
    "Bronchiolitis": 2,
}


@dataclass(frozen=True)
class LabelSet:
    """A named list of classes that a cycle can be given; class 0 is normal."""

    name: str
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def needs_diagnosis(self) -> bool:
        return self.name.startswith("diagnosis")

    def label(self, sound: LungSound, diagnosis: str | None) -> int:
        """Class index of a cycle with this sound, of a patient with this diagnosis.

        Raises SettingsError when the set needs a diagnosis and it is missing or unknown.
        """
        if self.needs_diagnosis:
            if diagnosis not in DIAGNOSIS_GROUPS:
                raise SettingsError(
                    f"label set {self.name!r} needs each patient's diagnosis, one of "
                    f"{', '.join(DIAGNOSIS_GROUPS)}; got {diagnosis!r}"
                )
            return min(DIAGNOSIS_GROUPS[diagnosis], self.num_classes - 1)
        return min(int(sound), self.num_classes - 1)


LABEL_SETS = {
    label_set.name: label_set
    for label_set in (
        LabelSet("sound4", ("normal", "crackle", "wheeze", "both")),
        LabelSet("sound2", ("normal", "abnormal")),
        LabelSet("diagnosis3", ("healthy", "chronic", "non-chronic")),
        LabelSet("diagnosis2", ("healthy", "unhealthy")),
    )
}
