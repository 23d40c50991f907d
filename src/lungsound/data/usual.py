"""What is usual for the recordings of one device and rate: which recordings differ, and what all of them lack.

A limit that a whole corpus has is one fact about its device, not a defect of each recording. All 2,683 recordings of
SPRSound end near 900 Hz at a rate that could hold 4000 Hz: its stethoscope filters them so.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lungsound.audio.quality import MIN_BAND_HZ, MIN_RMS_DBFS, Defect, Quality

# Fewer recordings of one device and rate say nothing about what is usual.
MIN_GROUP = 10
# Of the usual limit (the median). SPRSound's lowest is 0.84; 2 recordings of ICBHI's Litt3200 have less than this. A
# low-pass filter of eighth order at 500 Hz, planted in recordings of every device, leaves 0.07 to 0.78.
MIN_USUAL_BAND = 0.75
# Of what the rate could hold, below which a whole group's limit is worth a sentence.
NARROW_BAND = 0.75
# Of a device's recordings, and how many of those it takes. ICBHI's rarest, 10 kHz of Meditron, has 4.7 %.
RARE_RATE_SHARE = 0.02
MIN_RECORDINGS_OF_DEVICE = 50


@dataclass(frozen=True)
class Usual:
    """Half of a group's spectra end below `limit_hz`, all of them between `lowest_hz` and `highest_hz`."""

    num_recordings: int
    lowest_hz: float
    limit_hz: float
    highest_hz: float


def usual_bands(devices: Sequence[str], qualities: Sequence[Quality]) -> dict[tuple[str, int], Usual]:
    """Where the spectra end, for each device and rate with a recording long enough to say."""
    limits: dict[tuple[str, int], list[float]] = {}
    for device, quality in zip(devices, qualities, strict=True):
        if quality.band is not None:
            limits.setdefault((device, quality.sample_rate_hz), []).append(quality.band.limit_hz)
    return {
        group: Usual(len(found), min(found), float(np.median(found)), max(found))
        for group, found in sorted(limits.items())
    }


def find_unusual(devices: Sequence[str], qualities: Sequence[Quality]) -> list[tuple[Defect, ...]]:
    """For each recording, what is unlike the others of its device.

    "band-limited": its spectrum ends below `MIN_USUAL_BAND` of where others of its device and rate end. "rare rate":
    hardly any other of its device has its rate; so a wrong header is found where all others say one rate.
    """
    usual = usual_bands(devices, qualities)
    rates = Counter((device, quality.sample_rate_hz) for device, quality in zip(devices, qualities, strict=True))
    num_of_device = Counter(devices)
    found = []
    for device, quality in zip(devices, qualities, strict=True):
        defects = []
        group = usual.get((device, quality.sample_rate_hz))
        if group is not None and _is_narrow(quality, group):
            limit_hz = f"{quality.band.limit_hz:.0f}" if quality.band is not None else ""
            detail = f"nothing above {limit_hz} Hz; the {group.num_recordings} of its kind usually reach"
            defects.append(Defect("band-limited", f"{detail} {group.limit_hz:.0f} Hz"))
        count, num_all = rates[device, quality.sample_rate_hz], num_of_device[device]
        if num_all >= MIN_RECORDINGS_OF_DEVICE and count <= RARE_RATE_SHARE * num_all:
            defects.append(Defect("rare rate", _rare(quality.sample_rate_hz, count, device, rates)))
        found.append(tuple(defects))
    return found


def describe_narrow(usual: Mapping[tuple[str, int], Usual]) -> list[str]:
    """One sentence for each device and rate whose recordings all hold less than their rate could."""
    return [
        f"{group.num_recordings:,} recordings at {rate_hz} Hz (device: {device}): half of the spectra end below "
        f"{group.limit_hz:.0f} Hz, all between {group.lowest_hz:.0f} and {group.highest_hz:.0f} Hz, where the rate "
        f"could hold {rate_hz // 2} Hz; that is how they were recorded, not a defect of some"
        for (device, rate_hz), group in usual.items()
        if group.num_recordings >= MIN_GROUP and group.limit_hz < NARROW_BAND * rate_hz / 2
    ]


def _is_narrow(quality: Quality, group: Usual) -> bool:
    """Whether a band is narrow for its group, and nothing else said so already."""
    if quality.band is None or quality.upsampled_from_hz is not None or quality.rms_dbfs < MIN_RMS_DBFS:
        return False
    limit_hz = quality.band.limit_hz
    return group.num_recordings >= MIN_GROUP and MIN_BAND_HZ <= limit_hz < MIN_USUAL_BAND * group.limit_hz


def _rare(rate_hz: int, count: int, device: str, rates: Mapping[tuple[str, int], int]) -> str:
    common_hz, num_common = max(
        ((other_hz, number) for (of, other_hz), number in rates.items() if of == device), key=lambda item: item[1]
    )
    return (
        f"its header says {rate_hz} Hz, as {count} of this device do; {num_common} say {common_hz} Hz: if the header "
        "is wrong, it plays too fast or too slow"
    )
