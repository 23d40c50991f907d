"""Which remarks withhold an answer, and which there are of scores and devices."""

import pytest

from lungsound.inference.withholding import (
    OTHER_DEVICE,
    UNKNOWN_DEVICE,
    UNLIKE,
    is_withheld,
    remark_on_device,
    remark_on_score,
    score_of,
)


@pytest.mark.parametrize(
    ("remarks", "expected"),
    [
        ((), False),
        (("clipped", "mains hum", "heart sounds dominate", "band-limited", "dropouts", UNLIKE, UNKNOWN_DEVICE), False),
        (("too short",), True),
        (("clipped", "mostly silent"), True),
        (("speech", "DC offset"), True),
    ],
)
def test_only_what_is_no_breathing_withholds(remarks: tuple[str, ...], expected: bool) -> None:
    assert is_withheld(remarks) == expected


def test_a_score_is_the_median_and_remarked_on_from_nineteen_twentieths() -> None:
    assert score_of([0.1, 0.9, 0.2]) == 0.2
    assert score_of([]) is None
    assert remark_on_score(None) == remark_on_score(0.949) == ()
    assert remark_on_score(0.95) == remark_on_score(1.0) == (UNLIKE,)


@pytest.mark.parametrize(
    ("device", "trained_on", "expected"),
    [
        (None, ("Meditron",), (UNKNOWN_DEVICE,)),
        ("AKGC417L", ("Meditron",), (OTHER_DEVICE,)),
        ("meditron", ("Litt3200", "Meditron"), ()),
        (None, (), ()),
        ("AKGC417L", (), ()),
    ],
)
def test_devices(device: str | None, trained_on: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert remark_on_device(device, trained_on) == expected
