"""Baseline of a device: said once for all its recordings, and only outliers are defects of their own."""

from dataclasses import replace

import numpy as np
import pytest

from lungsound.audio.quality import Band, Quality, measure_quality
from lungsound.data.audit import MIN_GROUP, compare_with_devices

NOISE = (0.05 * np.random.default_rng(0).standard_normal((1, 16000))).astype(np.float32)
PLAIN = measure_quality(NOISE, 8000)


def ending_at(limit_hz: float, *, rate_hz: int = 8000) -> Quality:
    return replace(PLAIN, sample_rate_hz=rate_hz, band=Band(limit_hz, is_steep=False))


def kinds(devices: list[str], qualities: list[Quality]) -> list[list[str]]:
    return [[defect.kind for defect in defects] for defects in compare_with_devices(devices, qualities)[0]]


def test_a_limit_that_all_have_is_one_sentence_and_no_defect() -> None:
    qualities = [ending_at(850.0 + i) for i in range(101)]
    devices = ["unknown"] * 101
    assert kinds(devices, qualities) == [[]] * 101
    sentences = compare_with_devices(devices, qualities)[1]
    assert len(sentences) == 1
    for part in ("101 recordings", "8000 Hz", "below 900 Hz", "850 and 950 Hz", "4000 Hz"):
        assert part in sentences[0]


def test_a_group_that_fills_its_rate_or_is_small_is_no_sentence() -> None:
    assert compare_with_devices(["a"] * 20, [ending_at(3000.0)] * 20)[1] == []
    assert len(compare_with_devices(["a"] * 20, [ending_at(2999.0)] * 20)[1]) == 1
    assert compare_with_devices(["a"] * (MIN_GROUP - 1), [ending_at(900.0)] * (MIN_GROUP - 1))[1] == []


@pytest.mark.parametrize(("limit_hz", "found"), [(1499.0, ["band-limited"]), (1500.0, []), (640.0, [])])
def test_a_band_much_narrower_than_usual_is_a_defect(limit_hz: float, found: list[str]) -> None:
    """Below what crackles need (640 Hz) `find_defects` says so already."""
    qualities = [ending_at(2000.0)] * 20 + [ending_at(limit_hz)]
    assert kinds(["a"] * 21, qualities) == [[]] * 20 + [found]
    assert kinds(["a"] * 20 + ["b"], qualities)[-1] == []


def test_few_others_silence_and_upsampling_say_nothing_about_the_band() -> None:
    few = [ending_at(2000.0)] * (MIN_GROUP - 2) + [ending_at(1000.0)]
    assert kinds(["a"] * len(few), few)[-1] == []
    assert kinds(["a"] * (len(few) + 1), [few[0], *few])[-1] == ["band-limited"]
    for other in (
        replace(few[-1], rms_dbfs=-90.0),
        replace(few[-1], upsampled_from_hz=4000),
        replace(PLAIN, band=None),
    ):
        assert kinds(["a"] * 21, [ending_at(2000.0)] * 20 + [other])[-1] == []


def test_a_header_with_another_rate_than_all_others_of_the_device_is_found() -> None:
    qualities = [ending_at(3900.0)] * 49 + [ending_at(7800.0, rate_hz=16000)]
    assert kinds(["a"] * 50, qualities) == [[]] * 49 + [["rare rate"]]
    detail = compare_with_devices(["a"] * 50, qualities)[0][-1][0].detail
    assert "16000 Hz, as 1 of this device" in detail
    assert "49 say 8000 Hz" in detail


def test_a_rate_that_some_have_or_few_recordings_is_not_rare() -> None:
    assert kinds(["a"] * 49, [ending_at(3900.0)] * 48 + [ending_at(7800.0, rate_hz=16000)])[-1] == []
    twice = [ending_at(3900.0)] * 50 + [ending_at(7800.0, rate_hz=16000)] * 2
    assert kinds(["a"] * 52, twice)[-1] == []
    assert kinds(["b"] * 51 + ["a"], [ending_at(3900.0)] * 51 + [ending_at(7800.0, rate_hz=16000)])[-1] == []
