"""What a person reads of an audit: a summary on the terminal, and a page with pictures beside the JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from lungsound.app.audit_figures import draw_bands, draw_classes
from lungsound.data.audit import UNKNOWN, Audit, RecordingFinding, SharedPatient, SharedSound
from lungsound.files import write_text
from lungsound.page import Block, Bullets, Cell, Facts, Heading, Paragraph, Picture, Remark, Table, render_html

MAX_ON_TERMINAL = 5  # of one kind
MAX_ON_PAGE = 200
NO_CYCLES = "(no cycles)"

MEANINGS = {
    "same samples": "the same samples, whatever the files are called",
    "near-duplicate": "the same sound: re-encoded, resampled, cut, louder or quieter",
    "simultaneous channels": "probably the same breaths, heard at the same time from another place (weaker evidence)",
}


def verdict(audit: Audit) -> str:
    """The audit in one line."""
    num_open, num_waived = len(audit.open_leaks), len(audit.leaks) - len(audit.open_leaks)
    waived = f"; {num_waived} waived" if num_waived else ""
    if not audit.is_clean:
        return f"LEAKAGE: {num_open} finding(s) cross the parts of the split{waived}"
    return f"no leakage between the parts of the split was found{waived}"


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


def print_audit(audit: Audit, console: Console) -> None:
    """Print what was found, at most a few of each kind."""

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    def some(title: str, lines: Sequence[str], style: str = "") -> None:
        line(f"{title}: {len(lines)}", style=style)
        for each in lines[:MAX_ON_TERMINAL]:
            line(f"  {each}")
        if len(lines) > MAX_ON_TERMINAL:
            line(f"  and {len(lines) - MAX_ON_TERMINAL} more; --out DIR lists them")

    line(f"{audit.name} in {audit.root}: {audit.num_recordings} recordings of {audit.num_patients} patients")
    console.print(_terminal_table(class_table(audit)))
    for note in audit.notes:
        line(f"note: {note}")
    for kind in sorted({problem.kind for problem in audit.problems}):
        some(kind, [f"{p.where}: {p.detail}" for p in audit.problems if p.kind == kind], "bold red")
    for kind, found in audit.defects().items():
        some(kind, [f"{finding.name}: {defect.detail}" for finding, defect in found], "bold")
    for title, shared in _shared_groups(audit):
        if all(isinstance(each, SharedPatient) and each.is_by_design for each in shared):
            line(f"{title}: {len(shared)}")
        else:
            style = "bold red" if _is_open(audit, shared) else "bold"
            some(title, [describe(audit, each) for each in shared], style)
    for name in audit.unused_waivers:
        line(f"waiver {name!r} names no leak: take it out, or correct it", style="bold red")
    line(verdict(audit), style="bold green" if audit.is_clean else "bold red")


def write_audit(audit: Audit, folder: Path) -> Path:
    """Write audit.json, audit.html and its pictures into a folder; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "audit.json", json.dumps(audit.as_json(), indent=1, allow_nan=False) + "\n")
    page = folder / "audit.html"
    write_text(page, render_html(f"Audit of {audit.name}", page_blocks(audit, folder)))
    return page


def page_blocks(audit: Audit, folder: Path) -> list[Block]:
    """The page's blocks; the pictures are drawn into the folder."""
    num_defective = sum(bool(finding.defects) for finding in audit.recordings)
    facts: dict[str, Cell] = {
        "folder": str(audit.root),
        "recordings": audit.num_recordings,
        "patients": audit.num_patients,
        "parts": ", ".join(audit.parts),
        "problems of the reader": len(audit.problems),
        "recordings with a defect": num_defective if audit.is_audio_read else "no sound was read",
    }
    return [
        Remark(verdict(audit), is_warning=not audit.is_clean),
        Facts(facts),
        *([Bullets(list(audit.notes))] if audit.notes else []),
        *_leak_blocks(audit),
        Heading("Classes, parts and devices"),
        *_class_blocks(audit, folder),
        Heading("Names that join with nothing, and other problems"),
        *_problem_blocks(audit),
        *(_defect_blocks(audit, folder) if audit.is_audio_read else []),
        Heading("What was looked for, and what can escape"),
        Bullets(_limits(audit)),
    ]


def _leak_blocks(audit: Audit) -> list[Block]:
    blocks: list[Block] = [Heading("What the parts share")]
    if audit.unused_waivers:
        blocks.append(Remark(f"Waivers that name no leak: {', '.join(audit.unused_waivers)}."))
    groups = _shared_groups(audit)
    for title, found in groups:
        blocks.append(Heading(f"{title[0].upper()}{title[1:]}: {len(found)}", level=3))
        sounds = [each for each in found if isinstance(each, SharedSound)]
        patients = [each for each in found if isinstance(each, SharedPatient)]
        if patients:
            rows: list[list[Cell]] = [
                [p.patient, *(p.num_recordings.get(part, 0) for part in audit.parts)] for p in patients
            ]
            grey = frozenset(i for i, p in enumerate(patients) if p.is_by_design or audit.is_waived(p))
            blocks += _table(["patient", *audit.parts], rows, grey)
        if sounds:
            head = ["one", "part", "other", "part", "offset (s)", "correlation", "coherence", "sd", "patients"]
            grey = frozenset(i for i, s in enumerate(sounds) if s.crosses_parts and audit.is_waived(s))
            blocks += [
                Paragraph(MEANINGS[sounds[0].audio.kind] + "."),
                *_table(head, list(map(_sound_row, sounds)), grey),
            ]
    if not groups:
        blocks.append(Paragraph("No patient and no sound is in more than one part, and no sound is there twice."))
    elif any(audit.is_waived(leak) for leak in audit.leaks) or any(p.is_by_design for p in audit.shared_patients):
        blocks.append(Paragraph("Grey: waived, or by the design of the corpus."))
    return blocks


def _sound_row(shared: SharedSound) -> list[Cell]:
    audio = shared.audio
    one, other = (part or "-" for part in shared.parts)
    sd = "-" if audio.kind == "same samples" else f"{audio.deviations:.0f}"
    patients = "same" if shared.patients[0] == shared.patients[1] else " / ".join(shared.patients)
    return [audio.one, one, audio.other, other, audio.offset_s, audio.correlation, audio.coherence, sd, patients]


def _shared_groups(audit: Audit) -> list[tuple[str, list[SharedPatient | SharedSound]]]:
    """What is shared, in groups of one kind with a title; those that cross the parts first."""
    groups: dict[str, list[SharedPatient | SharedSound]] = {}
    for patient in audit.shared_patients:
        design = ", by design" if patient.is_by_design else ""
        groups.setdefault(f"patients in {' and '.join(patient.num_recordings)}{design}", []).append(patient)
    for shared in sorted(audit.shared_sounds, key=lambda shared: not shared.crosses_parts):
        across = "across parts" if shared.crosses_parts else "within a part"
        groups.setdefault(f"{shared.audio.kind} {across}", []).append(shared)
    return list(groups.items())


def _is_open(audit: Audit, found: Sequence[SharedPatient | SharedSound]) -> bool:
    return bool(set(map(id, found)) & set(map(id, audit.open_leaks)))


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


def _class_blocks(audit: Audit, folder: Path) -> list[Block]:
    head, rows = class_table(audit)
    blocks: list[Block] = [Table(head, rows)]
    shares = {part: _class_counts(audit, part) for part in audit.parts}
    words = [word for word in head if any(counts[word] for counts in shares.values())]
    if not words:
        return blocks

    path = folder / "classes.png"
    draw_classes(shares, words, path)
    return [*blocks, Picture(path, "Share of each class in each part")]


def _class_counts(audit: Audit, part: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in audit.tally:
        if row.part == part and row.word is not None:
            counts[row.word] += row.num_cycles
    return counts


def _problem_blocks(audit: Audit) -> list[Block]:
    if not audit.problems:
        return [Paragraph("None: every annotation has its sound, every sound its annotation and its part.")]
    return _table(["kind", "where", "what"], [[p.kind, p.where, p.detail] for p in audit.problems])


def _defect_blocks(audit: Audit, folder: Path) -> list[Block]:
    blocks: list[Block] = [Heading("Recordings that are not what they should be")]
    defects = audit.defects()
    parts = [*audit.parts, *sorted({finding.part for finding in audit.recordings} - set(audit.parts))]
    if defects:
        rows: list[list[Cell]] = [
            [kind, len(found), *(sum(finding.part == part for finding, _ in found) for part in parts)]
            for kind, found in defects.items()
        ]
        blocks.append(Table(["defect", "recordings", *parts], rows))
    else:
        blocks.append(Paragraph("No recording is beyond a threshold."))
    measured = [finding for finding in audit.recordings if finding.quality is not None]
    blocks += _rate_blocks(measured)
    if measured:
        path = folder / "bands.png"
        draw_bands(measured, path)
        blocks.append(Picture(path, "Where the spectra of the recordings end"))
    for kind, found in defects.items():
        blocks.append(Heading(f"{kind[0].upper()}{kind[1:]}: {len(found)}", level=3))
        blocks += _table(
            ["recording", "part", "device", "what"], [[f.name, f.part, f.device, d.detail] for f, d in found]
        )
    return blocks


def _rate_blocks(measured: Sequence[RecordingFinding]) -> list[Block]:
    """Recordings by device, rate and where their band ends: a rate that is rare for a device may be wrong."""
    limits: dict[tuple[str, int], list[float]] = {}
    for finding in measured:
        if finding.quality is not None:
            band = finding.quality.band
            limit = band.limit_hz if band is not None else float("nan")
            limits.setdefault((finding.device, finding.quality.sample_rate_hz), []).append(limit)
    rows: list[list[Cell]] = [
        [device, rate_hz, len(found), *(round(float(q)) for q in np.nanquantile(found, (0, 0.5, 1)))]
        for (device, rate_hz), found in sorted(limits.items())
        if not np.isnan(found).all()
    ]
    head = ["device", "rate (Hz)", "recordings", "band ends (Hz): lowest", "median", "highest"]
    return [Heading("Rates and bands", level=3), Table(head, rows)] if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]], grey: frozenset[int] = frozenset()) -> list[Block]:
    blocks: list[Block] = [Table(head, rows[:MAX_ON_PAGE], frozenset(i for i in grey if i < MAX_ON_PAGE))]
    if len(rows) > MAX_ON_PAGE:
        blocks.append(Paragraph(f"The first {MAX_ON_PAGE} of {len(rows)}; audit.json has all."))
    return blocks


def _limits(audit: Audit) -> list[str]:
    if not audit.is_audio_read:
        return ["Only names were read: patients by their numbers. Shared sounds and defects were not looked for."]
    return [
        "Patients are compared by name: one person under two names is not seen.",
        "Copies are found through gain, resampling, MP3 or Ogg, and cuts that leave 5 s or more (3.2 s at the least). "
        "A copy at another speed or pitch, or under louder noise, escapes.",
        "Simultaneous channels are found for about half the pairs of chest places; those that share no sound escape.",
        "A band that ends early, or at a wall, is seen. A header whose rate is wrong with nothing else changed is not "
        "seen in the sound, but where cycles then end after their recording, or the same samples have two rates.",
    ]


def _terminal_table(table: tuple[list[str], list[list[Cell]]]) -> TerminalTable:
    drawn = TerminalTable(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(table[0]):
        drawn.add_column(Text(name), justify="right" if number and name != "device" else "left")
    for row in table[1]:
        drawn.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return drawn
