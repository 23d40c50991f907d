"""What the quality gate says of a corpus, and whether it notices what is planted in its recordings."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from rich.console import Console
from rich.text import Text

from benchmarks.sounds import hum, music, speech
from lungsound.audio.io import read_channels
from lungsound.audio.quality import (
    HEART,
    HUM,
    MOSTLY_SILENT,
    SPEECH,
    Samples,
    find_defects,
    find_other_sounds,
    find_too_little_sound,
    measure_other_sounds,
    measure_quality,
)
from lungsound.data.corpus import Recording
from lungsound.data.reader import read_corpus
from lungsound.data.synthetic_sounds import Waveform, heart_sounds
from lungsound.errors import SettingsError
from lungsound.inference.withholding import WITHHELD_FOR
from lungsound.page import Block, Paragraph, Table, render_blocks, write_page

CLIPPED = "clipped"
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Planted:
    """A sound at a level (dB) above the recording's root mean square, and the remark that it should bring."""

    name: str
    make: Callable[[int, int, Generator], Waveform]
    level_db: float
    remark: str

    def into(self, waveform: Samples, sample_rate_hz: int, rng: Generator) -> Samples:
        sound = self.make(len(waveform), sample_rate_hz, rng)
        level = 10 ** (self.level_db / 20) * waveform.std() / sound.std()
        return np.asarray(waveform + level * sound, dtype=np.float32)


def _heart(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    return heart_sounds(num_samples, sample_rate_hz, rng, beats_per_minute=rng.uniform(55, 120))


def _hum(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    return hum(num_samples, sample_rate_hz, rng, mains_hz=float(rng.choice([50, 60])))


PLANTED = (
    *(Planted("speech", speech, level_db, SPEECH) for level_db in (10, 0, -10)),
    Planted("music", music, 0, SPEECH),
    *(Planted("hum", _hum, level_db, HUM) for level_db in (0, -10, -20)),
    *(Planted("heart", _heart, level_db, HEART) for level_db in (20, 10, 0)),
)


def report_quality(
    folder: Path,
    stem: Path,
    *,
    console: Console,
    parts: Sequence[str] = (),
    modes: Sequence[str] = (),
    num_planted: int = 50,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> None:
    """Print what is remarked on in the recordings of a corpus and in what was planted, write `<stem>.md` and `.html`.

    parts: of the split, all unless given. modes: of the recordings ("sc"), all unless given. Sounds are planted in at
    most `num_planted` recordings of which nothing was remarked. Raises SettingsError when no recording is left.
    """
    corpus = read_corpus(folder, is_strict=False)
    chosen = [
        recording
        for recording in corpus.recordings
        if (not parts or corpus.split.get(recording.name) in parts) and (not modes or recording.mode in modes)
    ]
    if not chosen:
        raise SettingsError(f"no recordings in {folder} of parts {tuple(parts)} and modes {tuple(modes)}")
    remarks = []
    for recording in chosen:
        remarks.append(remarks_on(*read_channels(recording.path)))
        if on_progress is not None:
            on_progress(len(remarks), len(chosen))
    rng = np.random.default_rng(seed)
    clean = [recording for recording, found in zip(chosen, remarks, strict=True) if not found]
    drawn = [clean[place] for place in rng.permutation(len(clean))[:num_planted]]
    blocks = [*_said(chosen, remarks), *_noticed(drawn, rng)]
    console.print(Text(render_blocks(blocks)), soft_wrap=True)
    write_page(stem, f"Quality of the recordings of {corpus.name}", blocks)


def remarks_on(channels: Samples, sample_rate_hz: int) -> tuple[str, ...]:
    """Everything that is remarked on in a recording (channel, samples)."""
    quality = measure_quality(channels, sample_rate_hz)
    others = measure_other_sounds(channels.mean(axis=0, dtype=np.float32), sample_rate_hz)
    defects = (*find_defects(quality), *find_too_little_sound(quality), *find_other_sounds(others))
    return tuple(defect.kind for defect in defects)


def _said(recordings: Sequence[Recording], remarks: Sequence[tuple[str, ...]]) -> list[Block]:
    counts = Counter(kind for found in remarks for kind in found)
    num_withheld = sum(not WITHHELD_FOR.isdisjoint(found) for found in remarks)
    rows = [
        (kind, number, f"{100 * number / len(remarks):.1f}", "withheld" if kind in WITHHELD_FOR else "remarked on")
        for kind, number in counts.most_common()
    ]
    told = f"{len(recordings)} recordings; answers withheld for {num_withheld}, nothing said of {remarks.count(())}."
    return [Paragraph(told), Table(("remark", "recordings", "%", "answer"), rows)]


def _noticed(recordings: Sequence[Recording], rng: Generator) -> list[Block]:
    """Each kind of sound planted in each recording, and silence in six tenths and clipping of it."""
    found: Counter[tuple[str, str]] = Counter()
    for recording in recordings:
        channels, rate_hz = read_channels(recording.path)
        waveform: Samples = channels.mean(axis=0, dtype=np.float32)
        for each in PLANTED:
            remarks = remarks_on(each.into(waveform, rate_hz, rng)[np.newaxis], rate_hz)
            found[each.name, f"{each.level_db:+.0f} dB"] += each.remark in remarks
        silent = waveform.copy()
        silent[: int(0.6 * len(silent))] = 0
        found["silence", "60 %"] += MOSTLY_SILENT in remarks_on(silent[np.newaxis], rate_hz)
        loud = waveform / np.quantile(np.abs(waveform), 0.99)
        found["clipping", "1 %"] += CLIPPED in remarks_on(np.clip(loud, -1, 1)[np.newaxis], rate_hz)
    rows = [
        (name, level, f"{100 * number / len(recordings):.0f}" if recordings else "n/a")
        for (name, level), number in found.items()
    ]
    told = f"Planted in {len(recordings)} recordings of which nothing was said; levels are above each recording's own."
    return [Paragraph(told), Table(("planted", "level", "noticed, %"), rows)]
