"""An audit in words and counts, for the terminal and for the page alike.

The pictures of an audit: classes by part, and where the spectra of the recordings end.

What a person reads of an audit: a summary on the terminal, and a page with pictures beside the JSON.
"""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from lungsound.data.audit import UNKNOWN, Audit, RecordingFinding, SharedPatient, SharedSound, usual_bands
from lungsound.evaluation.figures import LINE_COLOURS, picture
from lungsound.files import write_text
from lungsound.page import Block, Bullets, Cell, Facts, Heading, Paragraph, Picture, Remark, Table, render_html

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
            "(the default), which takes the patients of the test out of the training set."
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
        axes.set_ylabel("percent of the part's cycles")
        axes.set_title("Share of each class in each part")
        axes.legend(loc="upper right")


def draw_bands(findings: Sequence[RecordingFinding], path: Path) -> None:
    """Draw how many recordings' spectra end where, in percent of half their rate, by device and rate."""
    groups: dict[str, list[float]] = {}
    for finding in findings:
        if finding.quality is not None and finding.quality.band is not None:
            rate_hz = finding.quality.sample_rate_hz
            groups.setdefault(f"{finding.device}, {rate_hz} Hz", []).append(
                200 * finding.quality.band.limit_hz / rate_hz
            )
    with picture(path, width_inch=8.0, height_inch=3.2) as figure:
        axes = figure.add_subplot()
        base = np.zeros(50)
        edges = np.linspace(0.0, 100.0, 51)
        for number, name in enumerate(sorted(groups)):
            heights, _ = np.histogram(groups[name], edges)
            colour = LINE_COLOURS[number % len(LINE_COLOURS)]
            axes.bar(edges[:-1], heights, width=2.0, bottom=base, align="edge", color=colour, label=name)
            base += heights
        axes.set_xlim(0, 100)
        axes.set_xlabel("end of the spectrum, percent of what the rate could hold")
        axes.set_ylabel("recordings")
        axes.set_title("Where the spectra of the recordings end")
        if groups:
            axes.legend(loc="upper right")


MAX_ON_TERMINAL = 5  # of one kind
MAX_ON_PAGE = 200
MAX_FOLDED = 8  # letters of a class that stay in one line of a narrow terminal
NO_CYCLES = "(no cycles)"


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
    console.print(_terminal_table(class_table(audit)), crop=False)
    for note in audit.notes:
        line(f"note: {note}")
    for kind in sorted({problem.kind for problem in audit.problems}):
        some(kind, [f"{p.where}: {p.detail}" for p in audit.problems if p.kind == kind], "bold red")
    for kind, found in audit.defects().items():
        some(kind, [f"{finding.name}: {defect.detail}" for finding, defect in found], "bold")
    for title, shared in shared_groups(audit):
        if all(isinstance(each, SharedPatient) and each.is_by_design for each in shared):
            line(f"{title}: {len(shared)}")
        else:
            style = "bold red" if _is_open(audit, shared) else "bold"
            some(title, [describe(audit, each) for each in shared], style)
    for name in audit.unused_waivers:
        line(f"waiver {name!r} names no leak: take it out, or correct it", style="bold red")
    line(verdict(audit), style="bold green" if audit.is_clean else "bold red")
    for sentence in advice(audit):
        line(f"  {sentence}")


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
    kinds = ", ".join(f"{kind} {len(found)}" for kind, found in audit.defects().items())
    facts: dict[str, Cell] = {
        "folder": str(audit.root),
        "recordings": audit.num_recordings,
        "patients": audit.num_patients,
        "parts": ", ".join(audit.parts),
        "problems of the reader": len(audit.problems),
        "recordings with a defect": f"{num_defective}{f' ({kinds})' if kinds else ''}"
        if audit.is_audio_read
        else "no sound was read",
    }
    return [
        Remark(verdict(audit), is_warning=not audit.is_clean),
        *_summary_blocks(audit),
        Facts(facts),
        *([Bullets(list(audit.notes))] if audit.notes else []),
        *_leak_blocks(audit),
        Heading("Classes, parts and devices"),
        *_class_blocks(audit, folder),
        Heading("Names that join with nothing, and other problems"),
        *_problem_blocks(audit),
        *(_defect_blocks(audit, folder) if audit.is_audio_read else []),
        *_doubled_blocks(audit),
        Heading("What was looked for, and what can escape"),
        Bullets(_limits(audit)),
    ]


def _summary_blocks(audit: Audit) -> list[Block]:
    """What leaks and what to do about it, short."""
    if audit.is_clean:
        return []
    leaks = [describe(audit, leak) for leak in audit.open_leaks]
    more = [f"and {len(leaks) - MAX_ON_TERMINAL} more, below"] if len(leaks) > MAX_ON_TERMINAL else []
    return [
        Bullets([*leaks[:MAX_ON_TERMINAL], *more]),
        Paragraph("", lead="What to do"),
        Bullets(advice(audit)),
    ]


def _leak_blocks(audit: Audit) -> list[Block]:
    blocks: list[Block] = [Heading("What the parts share")]
    if audit.unused_waivers:
        blocks.append(Remark(f"Waivers that name no leak: {', '.join(audit.unused_waivers)}."))
    groups = [(title, found) for title, found in shared_groups(audit) if not is_doubled(found)]
    for title, found in groups:
        if isinstance(found[0], SharedPatient) and found[0].is_by_design:
            sentence = "the corpus says that it tests known patients there; audit.json names them."
            blocks.append(Paragraph(f": {len(found)}; {sentence}", lead=title[0].upper() + title[1:]))
        else:
            blocks += _group_blocks(audit, title, found)
    if not groups:
        blocks.append(Paragraph("No patient and no sound is in more than one part."))
    elif any(audit.is_waived(leak) for leak in audit.leaks):
        blocks.append(Paragraph("Grey: waived."))
    return blocks


def _doubled_blocks(audit: Audit) -> list[Block]:
    """Sounds that are there twice within a part, or where one has no part: no leak."""
    groups = [(title, found) for title, found in shared_groups(audit) if is_doubled(found)]
    if not groups:
        return []
    blocks: list[Block] = [Heading("The same sound twice within a part"), Paragraph("No leak, but counted twice.")]
    for title, found in groups:
        blocks += _group_blocks(audit, title, found)
    return blocks


def _group_blocks(audit: Audit, title: str, found: Sequence[SharedPatient | SharedSound]) -> list[Block]:
    blocks: list[Block] = [Heading(f"{title[0].upper()}{title[1:]}: {len(found)}", level=3)]
    patients = [each for each in found if isinstance(each, SharedPatient)]
    sounds = [each for each in found if isinstance(each, SharedSound)]
    if patients:
        rows: list[list[Cell]] = [
            [p.patient, *(p.num_recordings.get(part, 0) for part in audit.parts)] for p in patients
        ]
        grey = frozenset(i for i, p in enumerate(patients) if audit.is_waived(p))
        blocks += _table(["patient", *audit.parts], rows, grey)
    if sounds:
        head = ["one", "part", "other", "part", "offset (s)", "correlation", "coherence", "sd", "patients"]
        grey = frozenset(i for i, s in enumerate(sounds) if s.crosses_parts and audit.is_waived(s))
        blocks += [
            Paragraph(MEANINGS[sounds[0].audio.kind]),
            *_table(head, list(map(_sound_row, sounds)), grey),
        ]
    return blocks


def _sound_row(shared: SharedSound) -> list[Cell]:
    audio = shared.audio
    one, other = (part or "-" for part in shared.parts)
    sd = "-" if audio.kind == "same samples" else f"{audio.deviations:.0f}"
    patients = "same" if shared.patients[0] == shared.patients[1] else " / ".join(shared.patients)
    return [audio.one, one, audio.other, other, audio.offset_s, audio.correlation, audio.coherence, sd, patients]


def _is_open(audit: Audit, found: Sequence[SharedPatient | SharedSound]) -> bool:
    return bool(set(map(id, found)) & set(map(id, audit.open_leaks)))


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
    """Recordings by device, rate and where their band ends."""
    qualities = [finding.quality for finding in measured if finding.quality is not None]
    usual = usual_bands([finding.device for finding in measured], qualities)
    rows: list[list[Cell]] = [
        [device, rate_hz, band.num_recordings, *map(round, (band.lowest_hz, band.limit_hz, band.highest_hz))]
        for (device, rate_hz), band in usual.items()
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
        "A band is called limited where it ends well before that of other recordings of its device and rate, or below "
        "what crackles need. A rise to a higher rate is seen where the sound reaches half the old rate.",
        "A header whose rate is wrong with nothing else changed is not seen in the sound, but where hardly another "
        "recording of the device has that rate, where cycles then end after their recording, or the same samples have "
        "two rates.",
    ]


def _terminal_table(table: tuple[list[str], list[list[Cell]]]) -> TerminalTable:
    drawn = TerminalTable(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    first_class = table[0].index("cycles") + 1
    for number, name in enumerate(table[0]):
        justify: Literal["left", "right"] = "right" if number and name != "device" else "left"
        longest = max(map(len, name.split()), default=0)
        drawn.add_column(
            Text(name),
            justify=justify,
            overflow="fold",
            min_width=longest if number < first_class else min(longest, MAX_FOLDED),
        )
    for row in table[1]:
        drawn.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return drawn
