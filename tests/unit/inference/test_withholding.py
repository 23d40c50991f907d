from lungsound.inference.withholding import (
    OTHER_DEVICE,
    UNKNOWN_DEVICE,
    UNLIKE,
    is_withheld,
    remark_on_device,
    remark_on_score,
    score_of,
)


def test_only_what_is_no_breathing_withholds() -> None:
    audible = ("clipped", "mains hum", "heart sounds dominate", "band-limited", "dropouts", UNLIKE, UNKNOWN_DEVICE)
    for remarks, expected in (
        ((), False),
        (audible, False),
        (("too short",), True),
        (("clipped", "mostly silent"), True),
        (("speech", "DC offset"), True),
    ):
        assert is_withheld(remarks) == expected, remarks


def test_a_score_is_the_median_and_remarked_on_from_nineteen_twentieths() -> None:
    assert score_of([0.1, 0.9, 0.2]) == 0.2
    assert score_of([]) is None
    assert remark_on_score(None) == remark_on_score(0.949) == ()
    assert remark_on_score(0.95) == remark_on_score(1.0) == (UNLIKE,)


def test_devices() -> None:
    for device, trained_on, expected in (
        (None, ("Meditron",), (UNKNOWN_DEVICE,)),
        ("AKGC417L", ("Meditron",), (OTHER_DEVICE,)),
        ("meditron", ("Litt3200", "Meditron"), ()),
        (None, (), ()),
        ("AKGC417L", (), ()),
    ):
        assert remark_on_device(device, trained_on) == expected, (device, trained_on)
