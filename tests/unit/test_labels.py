"""The four sounds, the other label sets, the diagnosis groups, and the maps between vocabularies."""

from pathlib import Path

import pytest

from lungsound.errors import SettingsError
from lungsound.labels import (
    DIAGNOSIS_GROUPS,
    LABEL_SETS,
    LungSound,
    describe_map,
    read_label_map,
    shipped_map,
    shipped_maps,
    sound_of,
)

SOUNDS = {
    LungSound.NORMAL: (False, False),
    LungSound.CRACKLE: (True, False),
    LungSound.WHEEZE: (False, True),
    LungSound.BOTH: (True, True),
}


def test_a_sound_is_what_is_heard_in_it() -> None:
    for sound, (has_crackle, has_wheeze) in SOUNDS.items():
        assert LungSound.of(has_crackle=has_crackle, has_wheeze=has_wheeze) is sound
        assert (sound.has_crackle, sound.has_wheeze) == (has_crackle, has_wheeze)


def test_classes_have_icbhis_order_and_class_0_is_the_healthy_one() -> None:
    assert [int(sound) for sound in SOUNDS] == [0, 1, 2, 3]
    assert LABEL_SETS["sound4"].classes == tuple(sound.name.lower() for sound in SOUNDS)
    assert {label_set.classes[0] for label_set in LABEL_SETS.values()} == {"normal", "healthy", "Normal"}
    assert {name: label_set.num_classes for name, label_set in LABEL_SETS.items()} == {
        "sound4": 4,
        "sound2": 2,
        "diagnosis3": 3,
        "diagnosis2": 2,
        "sprsound_event2": 2,
        "sprsound_event7": 7,
        "sprsound_record3": 3,
        "sprsound_record5": 5,
    }
    units = {name: label_set.unit for name, label_set in LABEL_SETS.items()}
    assert {name for name, unit in units.items() if unit == "recording"} == {"sprsound_record3", "sprsound_record5"}


def test_sound_labels() -> None:
    assert [LABEL_SETS["sound4"].label(sound=sound) for sound in LungSound] == [0, 1, 2, 3]
    assert [LABEL_SETS["sound2"].label(sound=sound) for sound in LungSound] == [0, 1, 1, 1]


def test_diagnosis_labels_do_not_look_at_the_sound() -> None:
    chronic, other = ("COPD", "Bronchiectasis", "Asthma"), ("URTI", "LRTI", "Pneumonia", "Bronchiolitis")
    classes = {"Healthy": (0, 0)} | dict.fromkeys(chronic, (1, 1)) | dict.fromkeys(other, (2, 1))
    assert classes.keys() == DIAGNOSIS_GROUPS.keys()
    for diagnosis, (three, two) in classes.items():
        for sound in LungSound:
            assert LABEL_SETS["diagnosis3"].label(sound=sound, diagnosis=diagnosis) == three
            assert LABEL_SETS["diagnosis2"].label(sound=sound, diagnosis=diagnosis) == two
    for missing in (None, "Influenza", "copd"):
        with pytest.raises(SettingsError, match=f"'diagnosis2' needs each patient's diagnosis.*got {missing!r}"):
            LABEL_SETS["diagnosis2"].label(sound=LungSound.NORMAL, diagnosis=missing)


# Each word of SPRSound, and its class in the label sets that it is used in; written down apart from the maps.
EVENTS = {
    "Normal": (0, 0, 0, 0),
    "Rhonchi": (1, 2, 1, 1),
    "Wheeze": (2, 2, 1, 1),
    "Stridor": (3, 2, 1, 1),
    "Coarse Crackle": (4, 1, 1, 1),
    "Fine Crackle": (5, 1, 1, 1),
    "Wheeze+Crackle": (6, 3, 1, 1),
}
RECORDS = {"Normal": (0, 0), "CAS": (1, 1), "DAS": (2, 1), "CAS & DAS": (3, 1), "Poor Quality": (4, 2)}


def test_a_term_goes_before_the_sound() -> None:
    for term, classes in EVENTS.items():
        for name, index in zip(("sprsound_event7", "sound4", "sound2", "sprsound_event2"), classes, strict=True):
            assert {LABEL_SETS[name].label(sound=sound, term=term) for sound in LungSound} == {index}, (term, name)
    for term, classes in RECORDS.items():
        for name, index in zip(("sprsound_record5", "sprsound_record3"), classes, strict=True):
            assert LABEL_SETS[name].label(sound=LungSound.NORMAL, term=term) == index, (term, name)


def test_icbhis_sounds_have_a_place_in_the_two_class_task_and_none_among_seven_events() -> None:
    assert [LABEL_SETS["sprsound_event2"].label(sound=sound) for sound in LungSound] == [0, 1, 1, 1]
    with pytest.raises(SettingsError, match=r"'sprsound_event7' has no class for 'crackle'.*data\.label_map"):
        LABEL_SETS["sprsound_event7"].label(sound=LungSound.CRACKLE)


def test_a_word_that_says_no_sound_is_refused_and_not_taken_for_normal() -> None:
    assert (sound_of("abnormal"), sound_of("Poor Quality")) == (None, None)
    assert (sound_of("CAS"), sound_of("Stridor"), sound_of("both")) == (
        LungSound.WHEEZE,
        LungSound.WHEEZE,
        LungSound.BOTH,
    )
    with pytest.raises(SettingsError, match="'sound4' has no class for 'abnormal'"):
        LABEL_SETS["sound4"].label(sound=LungSound.NORMAL, term="abnormal")


def test_a_word_has_one_class_in_a_label_set_whichever_map_says_it() -> None:
    found: dict[tuple[str, str], str] = {}
    for label_map in shipped_maps():
        assert set(label_map.classes) <= set(LABEL_SETS[label_map.vocabulary].classes)
        own = {name: name for name in label_map.label_set.classes}
        for word, name in {**label_map.classes, **own}.items():
            assert found.setdefault((label_map.label_set.name, word), name) == name
        assert label_map.classes[LABEL_SETS[label_map.vocabulary].classes[0]] == label_map.label_set.classes[0]


def test_losses_of_a_map() -> None:
    assert describe_map("sprsound_event7", "sound4") == [
        "Coarse Crackle and Fine Crackle become crackle",
        "Rhonchi, Wheeze and Stridor become wheeze",
    ]
    assert describe_map("sprsound_record5", "sound4") == ["Poor Quality has no class in sound4"]
    assert describe_map("sound2", "sprsound_event2") == []
    assert describe_map("sound4", "sound4") == describe_map("sound4", "diagnosis2") == []
    assert shipped_map("sprsound_event7", "sound4").losses(["Wheeze", "Cough", "Fine Crackle", "Sigh"]) == [
        "Cough and Sigh have no class in sound4"
    ]
    with pytest.raises(SettingsError, match="'sound4' to 'sprsound_event7' is shipped; from there are: sound2"):
        describe_map("sound4", "sprsound_event7")


def test_a_users_label_map(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text('label_set = "sound4"\n[classes]\nsibilus = "wheeze"\nrhonchus = "wheeze"\nclear = "normal"\n')
    label_map = read_label_map(path)
    assert (label_map.vocabulary, label_map.label_set) == ("ours.toml", LABEL_SETS["sound4"])
    assert label_map.losses(tuple(label_map.classes)) == ["sibilus and rhonchus become wheeze"]


def test_a_bad_label_map_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    with pytest.raises(SettingsError, match="cannot be read"):
        read_label_map(path)
    for text, message in (
        ("label_set = ", "no valid TOML"),
        (f"label_set = {'9' * 5_000}", "too many digits"),
        ("label_set = " + "[" * 3_000, "nested deeper"),
        (f"{'.'.join('a' * 10_000)} = 1", "a key of more than"),
        ('label_set = "sound5"\n[classes]\na = "normal"', "label_set is 'sound5', expected one of sound4, sound2"),
        ('label_set = "diagnosis2"\n[classes]\na = "healthy"', "label_set is 'diagnosis2', expected one of"),
        ('[classes]\na = "normal"', "label_set is None"),
        ('label_set = "sound4"', r"needs a table \[classes\]"),
        ('label_set = "sound4"\n[classes]', r"needs a table \[classes\]"),
        ('label_set = "sound4"\n[classes]\na = "Normal"', "'a' is 'Normal', but the classes of sound4 are normal, "),
        ('label_set = "sound4"\nclass = 1\n[classes]\na = "normal"', "unknown key 'class'"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=f"ours.toml.*{message}"):
            read_label_map(path)
