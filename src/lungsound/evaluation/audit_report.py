"""A summary of an audit on the terminal, and a page (the template audit.md) with pictures beside its JSON."""

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from lungsound.data.audit import UNKNOWN, Audit, RecordingFinding, SharedPatient, SharedSound
from lungsound.evaluation.figures import LINE_COLOURS, picture
from lungsound.files import write_json, write_text
from lungsound.page import Cell, counted, fill, render_html, terminal_table

MAX_ON_TERMINAL = 5  # of one kind
MAX_ON_PAGE = 200
MEANINGS = {
    "same samples": "The same samples, whatever the files are called.",
    "near-duplicate": "The same sound: re-encoded, resampled, cut, louder or quieter.",
    "simultaneous channels": "Probably the same breaths, recorded at the same time at another place (weaker evidence).",
}
WITHIN = "within a part"


@dataclass(frozen=True)
class Group:
    """Findings of one kind, a line each; `is_open` when one of them is leakage that no waiver covers."""

    title: str
    lines: Sequence[str]
    meaning: str = ""
    is_open: bool = False


def print_audit(audit: Audit, console: Console) -> None:
    """Print the findings, at most a few of each kind, and at the end the verdict with what to do."""

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    line(f"{audit.name} in {audit.root}: {audit.num_recordings} recordings of {audit.num_patients} patients")
    console.print(terminal_table(*class_table(audit), num_texts=2), crop=False)
    for note in audit.notes:
        line(f"note: {note}")
    problems = problem_groups(audit)
    for group in (*problems, *defect_groups(audit), *leak_groups(audit)):
        line(f"{group.title}: {len(group.lines)}", "bold red" if group.is_open or group in problems else "bold")
        for each in group.lines[:MAX_ON_TERMINAL]:
            line(f"  {each}")
        if len(group.lines) > MAX_ON_TERMINAL:
            line(f"  and {len(group.lines) - MAX_ON_TERMINAL} more; --out DIR lists them")
    if by_design := patients_by_design(audit):
        line(by_design)
    for name in audit.unused_waivers:
        line(f"waiver {name!r} names no leak: take it out, or correct it", "bold red")
    line(verdict(audit), "bold green" if audit.is_clean else "bold red")
    for sentence in advice(audit):
        line(f"  {sentence}")


def write_audit(audit: Audit, folder: Path) -> Path:
    """Write audit.json, audit.html and its pictures into a folder; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "audit.json", audit.to_json())
    head, rows = class_table(audit)
    counts = {part: Counter[str]() for part in audit.parts}
    for row in audit.tally:
        if row.word is not None and row.part in counts:
            counts[row.part][row.word] += row.num_cycles
    if words := [word for word in head if any(of_part[word] for of_part in counts.values())]:
        draw_classes(counts, words, folder / "classes.png")
    if measured := [finding for finding in audit.recordings if finding.quality is not None]:
        draw_bands(measured, folder / "bands.png")
    num_defective = sum(bool(finding.defects) for finding in audit.recordings)
    defects = defect_groups(audit)
    kinds = ", ".join(f"{group.title} {len(group.lines)}" for group in defects)
    leaks = leak_groups(audit)
    markdown = fill(
        "audit.md",
        audit=audit,
        verdict=verdict(audit),
        advice=advice(audit),
        open_leaks=[describe(audit, leak) for leak in audit.open_leaks],
        facts_of_audit={
            "folder": str(audit.root),
            "recordings": audit.num_recordings,
            "patients": audit.num_patients,
            "parts": ", ".join(audit.parts),
            "problems of the reader": len(audit.problems),
            "recordings with a defect": f"{num_defective}{f' ({kinds})' if kinds else ''}"
            if audit.is_audio_read
            else "no sound was read",
        },
        by_design=patients_by_design(audit),
        leaking=[group for group in leaks if not group.title.endswith(WITHIN)],
        doubled=[group for group in leaks if group.title.endswith(WITHIN)],
        problems=problem_groups(audit),
        defects=defects,
        class_head=head,
        class_rows=rows,
        has_classes=bool(words),
        has_bands=bool(measured),
        max_lines=MAX_ON_PAGE,
    )
    write_text(folder / "audit.html", render_html(f"Audit of {audit.name}", markdown, folder))
    return folder / "audit.html"


def verdict(audit: Audit) -> str:
    """The audit in one line."""
    num_open, num_waived = len(audit.open_leaks), len(audit.leaks) - len(audit.open_leaks)
    waived = f"; {num_waived} waived" if num_waived else ""
    if audit.is_clean:
        return f"no leakage between the parts of the split was found{waived}"
    num_patients = sum(isinstance(leak, SharedPatient) for leak in audit.open_leaks)
    patients = [counted(num_patients, "patient")] if num_patients else []
    pairs = [f"{counted(num, 'pair')} of recordings with one sound"] if (num := num_open - num_patients) else []
    return f"LEAKAGE between the parts of the split: {' and '.join(patients + pairs)}{waived}"


def advice(audit: Audit) -> list[str]:
    """A sentence for each thing to do about leakage; none when there is none."""
    patients = [leak.patient for leak in audit.open_leaks if isinstance(leak, SharedPatient)]
    sounds = [leak for leak in audit.open_leaks if isinstance(leak, SharedSound)]
    others = [each.audio for each in sounds if each.patients[0] != each.patients[1] or each.patients[0] not in patients]
    waivers = [*patients, *(f"{audio.one},{audio.other}" for audio in others)]
    sentences = []
    if patients:
        sentences.append(
            "Move all recordings of a patient into one part; or keep the split and train with data.protocol=strict "
            "(the default), which takes the patients of the test out of the training set."
        )
    if others:
        sentences.append(
            "Leave one recording of each pair out, or move both into one part; data.protocol=strict does neither."
        )
    if waivers:
        more = f" ({len(waivers) - 1} more such names)" if len(waivers) > 1 else ""
        sentences.append(f"If a leak is known and accepted: --waive {shlex.quote(waivers[0])}{more}")
    return sentences


def describe(audit: Audit, shared: SharedPatient | SharedSound) -> str:
    """One finding in one sentence."""
    waived = " [waived]" if audit.is_waived(shared) else ""
    if isinstance(shared, SharedPatient):
        counts = ", ".join(f"{count} in {part}" for part, count in shared.num_recordings.items())
        return f"patient {shared.patient}: recordings {counts}{waived}"
    audio, (one, other) = shared.audio, (part or "no part" for part in shared.parts)
    sentence = f"{audio.kind}: {audio.one} ({one}) and {audio.other} ({other})"
    if audio.kind != "same samples":
        sentence += f"; correlation {audio.correlation:.2f}, coherence {audio.coherence:.2f}"
        sentence += f" ({audio.deviations:.0f} sd), {audio.offset_s:+.2f} s"
    return sentence + waived


def patients_by_design(audit: Audit) -> str:
    """A sentence on patients that test parts share with the training set by design; empty without any."""
    num_patients = sum(shared.is_by_design for shared in audit.shared_patients)
    return f"patients in several parts by design, as the corpus says: {num_patients}" if num_patients else ""


def leak_groups(audit: Audit) -> list[Group]:
    """Patients by the parts that they are in; pairs of recordings by the kind of their sound, across parts first."""
    groups: dict[tuple[str, str], list[SharedPatient | SharedSound]] = {}
    for patient in audit.shared_patients:
        if not patient.is_by_design:
            groups.setdefault((f"patients in {' and '.join(patient.num_recordings)}", ""), []).append(patient)
    for sound in sorted(audit.shared_sounds, key=lambda shared: not shared.is_leak):
        title = f"{sound.audio.kind} {'across parts' if sound.is_leak else WITHIN}"
        groups.setdefault((title, MEANINGS[sound.audio.kind]), []).append(sound)
    open_leaks = audit.open_leaks
    return [
        Group(title, [describe(audit, each) for each in leaks], meaning, any(each in open_leaks for each in leaks))
        for (title, meaning), leaks in groups.items()
    ]


def problem_groups(audit: Audit) -> list[Group]:
    problems = sorted(audit.problems, key=lambda problem: problem.kind)
    return _by_kind((each.kind, f"{each.where}: {each.detail}") for each in problems)


def defect_groups(audit: Audit) -> list[Group]:
    """Recordings with a defect, by kind, the most frequent first."""
    groups = _by_kind((each.kind, f"{of.name}: {each.detail}") for of in audit.recordings for each in of.defects)
    return sorted(groups, key=lambda group: (-len(group.lines), group.title))


def _by_kind(findings: Iterable[tuple[str, str]]) -> list[Group]:
    lines: dict[str, list[str]] = {}
    for kind, line in findings:
        lines.setdefault(kind, []).append(line)
    return [Group(kind, of_kind) for kind, of_kind in lines.items()]


def class_table(audit: Audit) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows: recordings, and cycles by class, of each part and device (if any is known), and of all."""
    order = {part: place for place, part in enumerate(audit.parts)}
    words = list(dict.fromkeys(row.word for row in audit.tally if row.word is not None))
    places = sorted({(row.part, row.device) for row in audit.tally}, key=lambda p: (order.get(p[0], len(order)), p[1]))
    cycles = Counter({(row.part, row.device, row.word): row.num_cycles for row in audit.tally})
    num_recordings = Counter((finding.part, finding.device) for finding in audit.recordings)
    rows: list[list[Cell]] = []
    for part, device in places:
        counts = [cycles[part, device, word] for word in words]
        rows.append([part, device, num_recordings[part, device], sum(counts), *counts])
    total = [sum(cycles[part, device, word] for part, device in places) for word in words]
    rows.append(["all", "", audit.num_recordings, sum(total), *total])
    head = ["part", "device", "recordings", "cycles", *words]
    if {device for _, device in places} <= {UNKNOWN}:
        return head[:1] + head[2:], [row[:1] + row[2:] for row in rows]
    return head, rows


def draw_classes(counts_of: Mapping[str, Mapping[str, int]], words: Sequence[str], path: Path) -> None:
    """Draw what share of each part's cycles each class has, a group of bars for each class."""
    width = 0.8 / len(counts_of)
    with picture(path, width_inch=8.0, height_inch=3.2) as figure:
        axes = figure.add_subplot()
        for number, (part, counts) in enumerate(counts_of.items()):
            total = sum(counts.values())
            axes.bar(
                np.arange(len(words)) + (number - (len(counts_of) - 1) / 2) * width,
                [100 * counts[word] / max(total, 1) for word in words],
                width=0.95 * width,
                color=LINE_COLOURS[number % len(LINE_COLOURS)],
                label=f"{part} ({total:,} cycles)",
            )
        axes.set_xticks(range(len(words)), words)
        axes.set(ylabel="percent of the part's cycles", title="Share of each class in each part")
        axes.legend(loc="upper right")


def draw_bands(findings: Sequence[RecordingFinding], path: Path) -> None:
    """Draw how many recordings' spectra end where, in percent of half their rate, by device and rate."""
    groups: dict[str, list[float]] = {}
    for finding in findings:
        if finding.quality is not None and finding.quality.band is not None:
            rate_hz, limit_hz = finding.quality.sample_rate_hz, finding.quality.band.limit_hz
            groups.setdefault(f"{finding.device}, {rate_hz} Hz", []).append(200 * limit_hz / rate_hz)
    names, edges = sorted(groups), np.linspace(0.0, 100.0, 51)
    with picture(path, width_inch=8.0, height_inch=3.2) as figure:
        axes = figure.add_subplot()
        if names:
            colours = [LINE_COLOURS[number % len(LINE_COLOURS)] for number in range(len(names))]
            limits = [groups[name] for name in names]
            axes.hist(limits, bins=list(edges), stacked=True, color=colours, label=names)
            axes.legend(loc="upper left")
        axes.set(xlim=(0, 100), xlabel="end of the spectrum, percent of what the rate could hold")
        axes.set(ylabel="recordings", title="Where the spectra of the recordings end")
