"""A summary of an audit on the terminal, and a page with pictures beside its JSON."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from lungsound.data.audit import UNKNOWN, Audit, RecordingFinding, SharedPatient, SharedSound, device_bands
from lungsound.evaluation.figures import LINE_COLOURS, picture
from lungsound.files import write_json, write_text
from lungsound.page import Block, Bullets, Cell, Facts, Heading, Paragraph, Picture, Remark, Table, render_html

MAX_ON_TERMINAL = 5  # of one kind
MAX_ON_PAGE = 200
MEANINGS = {
    "same samples": "The same samples, whatever the files are called.",
    "near-duplicate": "The same sound: re-encoded, resampled, cut, louder or quieter.",
    "simultaneous channels": "Probably the same breaths, recorded at the same time at another place (weaker evidence).",
}
SOUND_HEAD = ("one", "part", "other", "part", "offset (s)", "correlation", "coherence", "sd", "patients")
LIMITS = (
    "Patients are compared by name: one person under two names is not seen.",
    "Copies are found through gain, resampling, MP3 or Ogg, and cuts that leave 5 s or more (3.2 s at the least). "
    "A copy at another speed or pitch, or under louder noise, escapes.",
    "Simultaneous channels are found for about half the pairs of chest places; those that share no sound escape.",
    "A band is called limited where it ends well before that of other recordings of its device and rate, or below "
    "what crackles need. A rise to a higher rate is seen where the sound reaches half the old rate.",
    "A header whose rate is wrong with nothing else changed is not seen in the sound, but where hardly another "
    "recording of the device has that rate, where cycles then end after their recording, or the same samples have "
    "two rates.",
)
LIMITS_OF_NAMES = ("Only names were read: patients by their numbers. Shared sounds and defects were not looked for.",)


@dataclass(frozen=True)
class Group:
    """Findings of one kind: a line each for the terminal, a row each for the page.

    `greyed` are rows that a waiver covers; `is_open` when one of them is leakage that none covers.
    """

    title: str
    lines: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    meaning: str = ""
    greyed: frozenset[int] = frozenset()
    is_open: bool = False

    def blocks(self) -> Iterator[Block]:
        yield Heading(f"{self.title[0].upper()}{self.title[1:]}: {len(self.rows)}", level=3)
        if self.meaning:
            yield Paragraph(self.meaning)
        yield Table(self.head, self.rows[:MAX_ON_PAGE], frozenset(row for row in self.greyed if row < MAX_ON_PAGE))
        if len(self.rows) > MAX_ON_PAGE:
            yield Paragraph(f"The first {MAX_ON_PAGE} of {len(self.rows)}; audit.json has all.")


def print_audit(audit: Audit, console: Console) -> None:
    """Print the findings, at most a few of each kind, and at the end the verdict with what to do."""

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    line(f"{audit.name} in {audit.root}: {audit.num_recordings} recordings of {audit.num_patients} patients")
    head, rows = class_table(audit)
    table = TerminalTable(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column, name in enumerate(head):
        is_text = column == 0 or name == "device"
        table.add_column(Text(name), justify="left" if is_text else "right", overflow="fold", min_width=5)
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    console.print(table, crop=False)
    for note in audit.notes:
        line(f"note: {note}")
    problems, defects = problem_groups(audit), defect_groups(audit)
    for group in (*problems, *defects, *patient_groups(audit), *sound_groups(audit)):
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
    page = folder / "audit.html"
    write_text(page, render_html(f"Audit of {audit.name}", page_blocks(audit, folder)))
    return page


def page_blocks(audit: Audit, folder: Path) -> list[Block]:
    """The page's blocks; the pictures are drawn into the folder."""
    num_defective = sum(bool(finding.defects) for finding in audit.recordings)
    kinds = ", ".join(f"{kind} {len(findings)}" for kind, findings in audit.defects().items())
    defects = f"{num_defective}{f' ({kinds})' if kinds else ''}" if audit.is_audio_read else "no sound was read"
    blocks: list[Block] = [Remark(verdict(audit), is_warning=not audit.is_clean)]
    if not audit.is_clean:
        leaks = [describe(audit, leak) for leak in audit.open_leaks]
        more = [f"and {len(leaks) - MAX_ON_TERMINAL} more, below"] if len(leaks) > MAX_ON_TERMINAL else []
        blocks.append(Bullets([*leaks[:MAX_ON_TERMINAL], *more]))
        blocks += [Paragraph("", lead="What to do"), Bullets(advice(audit))]
    blocks.append(
        Facts(
            {
                "folder": str(audit.root),
                "recordings": audit.num_recordings,
                "patients": audit.num_patients,
                "parts": ", ".join(audit.parts),
                "problems of the reader": len(audit.problems),
                "recordings with a defect": defects,
            }
        )
    )
    if audit.notes:
        blocks.append(Bullets(list(audit.notes)))

    blocks.append(Heading("What the parts share"))
    if audit.unused_waivers:
        blocks.append(Remark(f"Waivers that name no leak: {', '.join(audit.unused_waivers)}."))
    sounds = sound_groups(audit)
    doubled = [group for group in sounds if group.title.endswith(WITHIN)]
    leaking = [*patient_groups(audit), *(group for group in sounds if group not in doubled)]
    by_design = patients_by_design(audit)
    for group in leaking:
        blocks += group.blocks()
    if by_design:
        blocks.append(Paragraph(f"{by_design}; audit.json names them."))
    if any(group.greyed for group in leaking):
        blocks.append(Paragraph("Grey: waived."))
    if not leaking and not by_design:
        blocks.append(Paragraph("No patient and no sound is in more than one part."))

    head, rows = class_table(audit)
    blocks += [Heading("Classes, parts and devices"), Table(head, rows)]
    counts = {part: Counter[str]() for part in audit.parts}
    for row in audit.tally:
        if row.word is not None and row.part in counts:
            counts[row.part][row.word] += row.num_cycles
    if words := [word for word in head if any(of_part[word] for of_part in counts.values())]:
        draw_classes(counts, words, folder / "classes.png")
        blocks.append(Picture(folder / "classes.png", "Share of each class in each part"))

    blocks.append(Heading("Names that join with nothing, and other problems"))
    for group in problem_groups(audit):
        blocks += group.blocks()
    if not audit.problems:
        blocks.append(Paragraph("None: every annotation has its sound, every sound its annotation and its part."))
    if audit.is_audio_read:
        blocks += _defect_blocks(audit, folder)
    if doubled:
        blocks += [Heading("The same sound twice within a part"), Paragraph("No leak, but counted twice.")]
    for group in doubled:
        blocks += group.blocks()
    limits = LIMITS if audit.is_audio_read else LIMITS_OF_NAMES
    return [*blocks, Heading("What was looked for, and what can escape"), Bullets(limits)]


def verdict(audit: Audit) -> str:
    """The audit in one line."""
    num_open, num_waived = len(audit.open_leaks), len(audit.leaks) - len(audit.open_leaks)
    waived = f"; {num_waived} waived" if num_waived else ""
    if audit.is_clean:
        return f"no leakage between the parts of the split was found{waived}"
    num_patients = sum(isinstance(leak, SharedPatient) for leak in audit.open_leaks)
    num_pairs = num_open - num_patients
    patients = [f"{num_patients} patient{'s' if num_patients > 1 else ''}"] if num_patients else []
    pairs = [f"{num_pairs} pair{'s' if num_pairs > 1 else ''} of recordings with one sound"] if num_pairs else []
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
        more = f" ({len(waivers) - 1} more such names: put them in a file for --waivers)" if len(waivers) > 1 else ""
        sentences.append(f"If a leak is known and accepted: --waive {shlex.quote(waivers[0])}{more}")
    return sentences


def describe(audit: Audit, shared: SharedPatient | SharedSound) -> str:
    """One finding in one sentence."""
    if isinstance(shared, SharedPatient):
        waived = " [waived]" if audit.is_waived(shared) else ""
        counts = ", ".join(f"{count} in {part}" for part, count in shared.num_recordings.items())
        return f"patient {shared.patient}: recordings {counts}{waived}"
    audio, (one, other) = shared.audio, (part or "no part" for part in shared.parts)
    sentence = f"{audio.kind}: {audio.one} ({one}) and {audio.other} ({other})"
    if audio.kind != "same samples":
        sentence += f"; correlation {audio.correlation:.2f}, coherence {audio.coherence:.2f}"
        sentence += f" ({audio.deviations:.0f} sd), {audio.offset_s:+.2f} s"
    return sentence + (" [waived]" if shared.crosses_parts and audit.is_waived(shared) else "")


def patients_by_design(audit: Audit) -> str:
    """A sentence on patients that test parts share with the training set by design; empty without any."""
    num_patients = sum(shared.is_by_design for shared in audit.shared_patients)
    return f"patients in several parts by design, as the corpus says: {num_patients}" if num_patients else ""


def patient_groups(audit: Audit) -> list[Group]:
    """Patients in several parts, a group for each set of parts."""
    by_parts: dict[str, list[SharedPatient]] = {}
    for shared in audit.shared_patients:
        if not shared.is_by_design:
            by_parts.setdefault(" and ".join(shared.num_recordings), []).append(shared)
    return [
        Group(
            f"patients in {parts}",
            [describe(audit, shared) for shared in group],
            ["patient", *audit.parts],
            [[shared.patient, *(shared.num_recordings.get(part, 0) for part in audit.parts)] for shared in group],
            greyed=frozenset(row for row, shared in enumerate(group) if audit.is_waived(shared)),
            is_open=not all(map(audit.is_waived, group)),
        )
        for parts, group in by_parts.items()
    ]


WITHIN = "within a part"


def sound_groups(audit: Audit) -> list[Group]:
    """Pairs of recordings with one sound, a group for each kind, those across parts first."""
    by_kind: dict[str, list[SharedSound]] = {}
    for shared in sorted(audit.shared_sounds, key=lambda shared: not shared.crosses_parts):
        by_kind.setdefault(f"{shared.audio.kind} {'across parts' if shared.crosses_parts else WITHIN}", []).append(
            shared
        )
    return [
        Group(
            title,
            [describe(audit, shared) for shared in group],
            SOUND_HEAD,
            [_sound_row(shared) for shared in group],
            meaning=MEANINGS[group[0].audio.kind],
            greyed=frozenset(row for row, s in enumerate(group) if s.crosses_parts and audit.is_waived(s)),
            is_open=any(shared.crosses_parts and not audit.is_waived(shared) for shared in group),
        )
        for title, group in by_kind.items()
    ]


def _sound_row(shared: SharedSound) -> list[Cell]:
    audio = shared.audio
    one, other = (part or "-" for part in shared.parts)
    sd = "-" if audio.kind == "same samples" else f"{audio.deviations:.0f}"
    patients = "same" if shared.patients[0] == shared.patients[1] else " / ".join(shared.patients)
    return [audio.one, one, audio.other, other, audio.offset_s, audio.correlation, audio.coherence, sd, patients]


def problem_groups(audit: Audit) -> list[Group]:
    """Problems of the reader, by kind."""
    return [
        Group(
            kind,
            [f"{problem.where}: {problem.detail}" for problem in problems],
            ["kind", "where", "what"],
            [[problem.kind, problem.where, problem.detail] for problem in problems],
        )
        for kind in sorted({problem.kind for problem in audit.problems})
        if (problems := [problem for problem in audit.problems if problem.kind == kind])
    ]


def defect_groups(audit: Audit) -> list[Group]:
    """Recordings with a defect, by kind, the most frequent first."""
    return [
        Group(
            kind,
            [f"{finding.name}: {defect.detail}" for finding, defect in findings],
            ["recording", "part", "device", "what"],
            [[finding.name, finding.part, finding.device, defect.detail] for finding, defect in findings],
        )
        for kind, findings in audit.defects().items()
    ]


def _defect_blocks(audit: Audit, folder: Path) -> Iterator[Block]:
    yield Heading("Recordings that are not what they should be")
    groups = defect_groups(audit)
    if groups:
        parts = list(dict.fromkeys([*audit.parts, *sorted(finding.part for finding in audit.recordings)]))
        counts = [[sum(row[1] == part for row in group.rows) for part in parts] for group in groups]
        kinds: list[list[Cell]] = [
            [group.title, sum(count), *count] for group, count in zip(groups, counts, strict=True)
        ]
        yield Table(["defect", "recordings", *parts], kinds)
    else:
        yield Paragraph("No recording is beyond a threshold.")
    measured = [finding for finding in audit.recordings if finding.quality is not None]
    bands = device_bands([f.device for f in measured], [f.quality for f in measured if f.quality is not None])
    if bands:
        yield Heading("Rates and bands", level=3)
        head = ["device", "rate (Hz)", "recordings", "band ends (Hz): lowest", "median", "highest"]
        limits = {group: map(round, (band.lowest_hz, band.limit_hz, band.highest_hz)) for group, band in bands.items()}
        rows: list[list[Cell]] = [[*group, bands[group].num_recordings, *limit] for group, limit in limits.items()]
        yield Table(head, rows)
    if measured:
        draw_bands(measured, folder / "bands.png")
        yield Picture(folder / "bands.png", "Where the spectra of the recordings end")
    for group in groups:
        yield from group.blocks()


def class_table(audit: Audit) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows: recordings, and cycles by class, of each part and device (where devices are known), and of all."""
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
    if {device for _, device in places} == {UNKNOWN}:
        return [head[0], *head[2:]], [[row[0], *row[2:]] for row in rows]
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
