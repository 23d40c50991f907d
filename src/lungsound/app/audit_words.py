"""An audit in words and counts, for the terminal and for the page alike."""

import shlex
from collections import Counter
from collections.abc import Sequence

from lungsound.data.audit import UNKNOWN, Audit, SharedPatient, SharedSound
from lungsound.page import Cell

MEANINGS = {
    "same samples": "The same samples, whatever the files are called.",
    "near-duplicate": "The same sound: re-encoded, resampled, cut, louder or quieter.",
    "simultaneous channels": "Probably the same breaths, heard at the same time from another place (weaker evidence).",
}


def verdict(audit: Audit) -> str:
    """The audit in one line."""
    num_open, num_waived = len(audit.open_leaks), len(audit.leaks) - len(audit.open_leaks)
    waived = f"; {num_waived} waived" if num_waived else ""
    if audit.is_clean:
        return f"no leakage between the parts of the split was found{waived}"
    num_patients = sum(isinstance(leak, SharedPatient) for leak in audit.open_leaks)
    counts = [_count(num_patients, "patient"), _count(num_open - num_patients, "pair", "of recordings with one sound")]
    return f"LEAKAGE between the parts of the split: {' and '.join(filter(None, counts))}{waived}"


def advice(audit: Audit) -> list[str]:
    """What to do about leakage, one sentence each; nothing when there is none."""
    patients = [leak.patient for leak in audit.open_leaks if isinstance(leak, SharedPatient)]
    sounds = [leak for leak in audit.open_leaks if isinstance(leak, SharedSound)]
    others = [each.audio for each in sounds if each.patients[0] != each.patients[1] or each.patients[0] not in patients]
    waivers = [*patients, *(f"{audio.one},{audio.other}" for audio in others)]
    done = []
    if patients:
        done.append(
            "Move all recordings of a patient into one part; or keep the split and train with data.protocol=strict "
            "(the default), which takes the patients of the test out of the training part."
        )
    if others:
        done.append(
            "Leave one recording of each pair out, or move both into one part; data.protocol=strict does neither."
        )
    if waivers:
        more = f" ({len(waivers) - 1} more such names: put them in a file for --waivers)" if len(waivers) > 1 else ""
        done.append(f"If a leak is known and accepted: --waive {shlex.quote(waivers[0])}{more}")
    return done


def _count(number: int, thing: str, rest: str = "") -> str:
    """The number with its noun; empty for none."""
    return f"{number} {thing}{'s' if number > 1 else ''} {rest}".rstrip() if number else ""


def describe(audit: Audit, leak: SharedPatient | SharedSound) -> str:
    """One finding in one sentence."""
    waived = " [waived]" if audit.is_waived(leak) else ""
    if isinstance(leak, SharedPatient):
        counts = ", ".join(f"{count} in {part}" for part, count in leak.num_recordings.items())
        return f"patient {leak.patient}: recordings {counts}{' [by design]' if leak.is_by_design else waived}"
    audio = leak.audio
    (one, other), evidence = (part or "no part" for part in leak.parts), ""
    if audio.kind != "same samples":
        evidence = f"; correlation {audio.correlation:.2f}, coherence {audio.coherence:.2f}"
        evidence += f" ({audio.deviations:.0f} sd), {audio.offset_s:+.2f} s"
    return (
        f"{audio.kind}: {audio.one} ({one}) and {audio.other} ({other}){evidence}{waived if leak.crosses_parts else ''}"
    )


def shared_groups(audit: Audit) -> list[tuple[str, list[SharedPatient | SharedSound]]]:
    """What is shared, in groups of one kind with a title: patients first, then what crosses the parts."""
    groups: dict[str, list[SharedPatient | SharedSound]] = {}
    for patient in sorted(audit.shared_patients, key=lambda shared: shared.is_by_design):
        design = ", by design" if patient.is_by_design else ""
        groups.setdefault(f"patients in {' and '.join(patient.num_recordings)}{design}", []).append(patient)
    for shared in sorted(audit.shared_sounds, key=lambda shared: not shared.crosses_parts):
        across = "across parts" if shared.crosses_parts else "within a part"
        groups.setdefault(f"{shared.audio.kind} {across}", []).append(shared)
    return list(groups.items())


def is_doubled(found: Sequence[SharedPatient | SharedSound]) -> bool:
    """Whether a group is of sounds that do not cross the parts: no leak."""
    return isinstance(found[0], SharedSound) and not found[0].crosses_parts


def class_table(audit: Audit) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows: recordings, and cycles by class, of each part and device (where devices are known), and of all."""
    words = list(dict.fromkeys(row.word for row in audit.tally if row.word is not None))
    places = sorted({(row.part, row.device) for row in audit.tally}, key=lambda p: (_part_order(audit, p[0]), p[1]))
    cycles = Counter({(row.part, row.device, row.word): row.num_cycles for row in audit.tally})
    num_recordings = Counter((finding.part, finding.device) for finding in audit.recordings)
    rows: list[list[Cell]] = []
    for part, device in places:
        counts = [cycles[part, device, word] for word in words]
        rows.append([part, device, num_recordings[part, device], sum(counts), *counts])
    total = [sum(cycles[part, device, word] for part, device in places) for word in words]
    rows.append(["all", "", audit.num_recordings, sum(total), *total])
    head = ["part", "device", "recordings", "cycles", *words]
    if {device for _, device in places} == {UNKNOWN}:
        return [head[0], *head[2:]], [[row[0], *row[2:]] for row in rows]
    return head, rows


def _part_order(audit: Audit, part: str) -> int:
    return audit.parts.index(part) if part in audit.parts else len(audit.parts)
