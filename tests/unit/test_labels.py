"""The four sounds, their two-class reading, the diagnosis groups."""

import pytest

from lungsound.errors import SettingsError
from lungsound.labels import DIAGNOSIS_GROUPS, LABEL_SETS, LungSound

SOUNDS = {
    LungSound.NORMAL: (False, False),
    LungSound.CRACKLE: (True, False),
    LungSound.WHEEZE: (False, True),
    LungSound.BOTH: (True, True),
}


@pytest.mark.parametrize(("sound", "heard"), SOUNDS.items())
def test_a_sound_is_what_is_heard_in_it(sound: LungSound, heard: tuple[bool, bool]) -> None:
    has_crackle, has_wheeze = heard
    assert LungSound.of(has_crackle=has_crackle, has_wheeze=has_wheeze) is sound
    assert (sound.has_crackle, sound.has_wheeze) == heard


def test_classes_have_icbhis_order_and_class_0_is_the_healthy_one() -> None:
    assert [int(sound) for sound in SOUNDS] == [0, 1, 2, 3]
    assert LABEL_SETS["sound4"].classes == tuple(sound.name.lower() for sound in SOUNDS)
    assert {label_set.classes[0] for label_set in LABEL_SETS.values()} == {"normal", "healthy"}
    assert {name: label_set.num_classes for name, label_set in LABEL_SETS.items()} == {
        "sound4": 4,
        "sound2": 2,
        "diagnosis3": 3,
        "diagnosis2": 2,
    }


def test_sound_labels() -> None:
    assert [LABEL_SETS["sound4"].label(sound, None) for sound in LungSound] == [0, 1, 2, 3]
    assert [LABEL_SETS["sound2"].label(sound, None) for sound in LungSound] == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("diagnosis", "three", "two"),
    [
        ("Healthy", 0, 0),
        ("COPD", 1, 1),
        ("Bronchiectasis", 1, 1),
        ("Asthma", 1, 1),
        ("URTI", 2, 1),
        ("LRTI", 2, 1),
        ("Pneumonia", 2, 1),
        ("Bronchiolitis", 2, 1),
    ],
)
def test_diagnosis_labels_do_not_look_at_the_sound(diagnosis: str, three: int, two: int) -> None:
    for sound in LungSound:
        assert LABEL_SETS["diagnosis3"].label(sound, diagnosis) == three
        assert LABEL_SETS["diagnosis2"].label(sound, diagnosis) == two


def test_all_of_icbhis_diagnoses_have_a_group() -> None:
    assert len(DIAGNOSIS_GROUPS) == 8


@pytest.mark.parametrize("diagnosis", [None, "Influenza", "copd"])
def test_a_missing_or_unknown_diagnosis_is_named(diagnosis: str | None) -> None:
    with pytest.raises(SettingsError, match=f"'diagnosis2' needs each patient's diagnosis.*got {diagnosis!r}"):
        LABEL_SETS["diagnosis2"].label(LungSound.NORMAL, diagnosis)
