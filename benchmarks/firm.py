"""Firm predictions for clips without lungs: `python -m benchmarks.firm MODEL` prints their shares as Markdown.

Clips of 10 s are made by a program (noise, speech, hum, music, silence, handling, tones, samples that were read
wrongly), with seeds that no threshold was set on; `--hearts` adds every second of a folder of heart recordings
(`scripts/box` takes the others). A class is firm without a reason to withhold it: here each is a mistake. `--data` adds
the cycles of a corpus's parts, most of which ought to be firm. `--into` writes the table, and what the model was
measured on, between the marks of a file.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from numpy.random import Generator
from rich.console import Console
from rich.progress import track

from benchmarks.measure import table
from benchmarks.sounds import hum, music, speech
from lungsound.data.reader import read_corpus
from lungsound.data.synthetic_sounds import Waveform, add, rustle
from lungsound.errors import LungsoundError
from lungsound.experiments.study import BEGIN, END, write_between
from lungsound.inference.bulk import sound_files
from lungsound.inference.prediction import RecordingPrediction
from lungsound.inference.predictor import Predictor
from lungsound.training.model_file import TrainedModel

NUM_CLIPS, FIRST_SEED = 250, 20_000
MARK = "box"  # of the place in a file
DURATION_S = 10.0
RATES_HZ = (4000, 8000, 44100)
STDERR = Console(stderr=True)


def noise(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Noise whose power falls by 0 to 12 dB an octave, in half of the clips below a corner of 200 to 1500 Hz."""
    frequency_hz = np.fft.rfftfreq(num_samples, 1 / sample_rate_hz)
    spectrum = rng.standard_normal((2, len(frequency_hz))) * np.maximum(frequency_hz, 20) ** -rng.uniform(0, 2)
    if rng.uniform() < 0.5:
        spectrum /= 1 + (frequency_hz / rng.uniform(200, 1500)) ** 4
    return np.asarray(np.fft.irfft(spectrum[0] + 1j * spectrum[1], num_samples))


def handling(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Rubbing of skin and tube, five to fifteen times, over faint noise."""
    sound = 0.01 * rng.standard_normal(num_samples)
    for _ in range(rng.integers(5, 16)):
        rub = rng.uniform(0.2, 1.0) * rustle(sample_rate_hz, rng, duration_s=rng.uniform(0.1, 1.5))
        add(sound, rub, int(rng.integers(0, num_samples - len(rub))))
    return sound


def silence(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """The noise of a converter alone, or nothing at all."""
    del sample_rate_hz
    return rng.standard_normal(num_samples) if rng.uniform() < 0.5 else np.zeros(num_samples)


def mains(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Hum of 50 or 60 Hz over noise 10 to 30 dB below it."""
    sound = hum(num_samples, sample_rate_hz, rng, mains_hz=float(rng.choice([50, 60])))
    return sound + 10 ** -rng.uniform(0.5, 1.5) * rng.standard_normal(num_samples)


def swelling(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Gain that rises and falls as breathing does, once in 2 to 5 s."""
    return np.asarray(1.05 - np.cos(2 * np.pi * np.arange(num_samples) / sample_rate_hz / rng.uniform(2, 5)))


def tones(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """One to three tones that swell at the rate of breathing, over noise 20 to 60 dB below them."""
    time_s = np.arange(num_samples) / sample_rate_hz
    frequencies_hz = rng.uniform(80, 0.4 * sample_rate_hz, rng.integers(1, 4))
    sound = sum(np.sin(2 * np.pi * frequency_hz * time_s) for frequency_hz in frequencies_hz)
    gain = swelling(num_samples, sample_rate_hz, rng)
    return np.asarray(sound * gain + 10 ** -rng.uniform(1, 3) * rng.standard_normal(num_samples))


def misread(num_samples: int, sample_rate_hz: int, rng: Generator) -> Waveform:
    """Breathing whose samples of 16 bits were converted wrongly: bytes swapped, shifted, as 24 bits; overflow."""
    gain = swelling(num_samples, sample_rate_hz, rng)
    breath = noise(num_samples, sample_rate_hz, rng) * gain
    whole = (10 ** rng.uniform(1.5, 3.5) * breath / breath.std()).clip(-32768, 32767).astype("<i2")
    content = whole.tobytes()
    triples = np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)
    converted = [
        whole.byteswap(),
        np.frombuffer(content[1:] + b"\0", "<i2"),
        np.resize(triples[:, 1:].copy().view("<i2"), num_samples),  # the upper two bytes
        (whole.astype(np.int64) * int(rng.integers(50, 500))).astype("<i2"),
    ]
    return np.asarray(converted[rng.integers(len(converted))].reshape(-1), np.float64)


KINDS: dict[str, Callable[[int, int, Generator], Waveform]] = {
    "noise": noise,
    "speech": speech,
    "hum": mains,
    "music": music,
    "silence": silence,
    "handling": handling,
    "tones": tones,
    "misread samples": misread,
}
SHORT_S = (0.3, 1.5)  # of cycles in annotations of children's recordings
ALL, ALL_SHORT = "all", f"all, in cycles of {SHORT_S[0]} to {SHORT_S[1]} s"


def clips(num_clips: int, *, first_seed: int = FIRST_SEED) -> Iterator[tuple[str, Waveform, int]]:
    """Kind, samples and rate of the clips, each kind in turn, at -40 to -10 dBFS (silence: -90)."""
    for number in range(num_clips):
        rng, kind = np.random.default_rng(first_seed + number), list(KINDS)[number % len(KINDS)]
        rate_hz = int(rng.choice(RATES_HZ))
        sound = KINDS[kind](round(DURATION_S * rate_hz), rate_hz, rng)
        level = 10 ** (-90 / 20 if kind == "silence" else -rng.uniform(0.5, 2.0))
        yield kind, np.clip(level * sound / max(sound.std(), 1e-12), -1, 1), rate_hz


@dataclass
class Counts:
    """Recordings of one kind, those with a firm class, and those with a firm cycle; cycles, and the firm ones."""

    num_recordings: int = 0
    num_firm: int = 0
    num_with_firm_cycle: int = 0
    num_cycles: int = 0
    num_firm_cycles: int = 0

    def count(self, prediction: RecordingPrediction) -> None:
        firm = sum(not cycle.reasons for cycle in prediction.cycles)
        self.num_recordings += 1
        self.num_firm += prediction.aggregate is not None and not prediction.aggregate.reasons
        self.num_with_firm_cycle += firm > 0
        self.num_cycles += len(prediction.cycles)
        self.num_firm_cycles += firm

    @property
    def row(self) -> tuple[object, ...]:
        of_recordings, of_cycles = 100 / max(1, self.num_recordings), 100 / max(1, self.num_cycles)
        shares = of_recordings * self.num_firm, of_recordings * self.num_with_firm_cycle
        return (
            self.num_recordings,
            *(f"{share:.1f}" for share in shares),
            self.num_cycles,
            f"{of_cycles * self.num_firm_cycles:.1f}",
        )


def without_lungs(predictor: Predictor, *, num_clips: int, hearts: Path | None) -> dict[str, Counts]:
    """Counts by kind, of all together, and of all cut into short cycles, as an annotation would."""
    counts = {kind: Counts() for kind in KINDS} | ({} if hearts is None else {"hearts": Counts()})
    counts |= {ALL: Counts(), ALL_SHORT: Counts()}

    def count(path: Path, kind: str) -> None:
        prediction = predictor.predict(path)
        for each in (kind, ALL):
            counts[each].count(prediction)
        spans_s = short_cycles(prediction.duration_s, np.random.default_rng(FIRST_SEED))
        counts[ALL_SHORT].count(predictor.predict(path, spans_s=spans_s))

    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        for kind, samples, rate_hz in track(clips(num_clips), "clips", total=num_clips, console=STDERR):
            soundfile.write(path, samples, rate_hz, subtype="PCM_16")
            count(path, kind)
    for heart in track(sound_files([hearts])[1::2] if hearts else [], "hearts", console=STDERR):
        count(heart, "hearts")
    return counts


def short_cycles(duration_s: float, rng: Generator) -> list[tuple[float, float]]:
    """Cycles one after the other to the end of a recording, each of a length drawn from `SHORT_S`."""
    borders = np.append(0, np.cumsum(rng.uniform(*SHORT_S, round(duration_s / SHORT_S[0]) + 1)))
    return [(float(start_s), float(end_s)) for start_s, end_s in pairwise(borders) if end_s <= duration_s]


def of_parts(predictor: Predictor, root: Path, parts: Sequence[str]) -> dict[str, Counts]:
    """Counts of the annotated cycles of a corpus's parts."""
    corpus, counts = read_corpus(root, is_strict=False), {}
    for part in parts or [name for name in corpus.parts if name != "train"]:
        spans_s: dict[Path, list[tuple[float, float]]] = {}
        for cycle in corpus.part(part):
            spans_s.setdefault(cycle.recording.path, []).append((cycle.start_s, cycle.end_s))
        own = counts[f"{corpus.name}.{part}"] = Counts()
        for path, spans in track(spans_s.items(), part, console=STDERR):
            own.count(predictor.predict(path, spans_s=spans))
    return counts


def measurements(trained: TrainedModel) -> str:
    """Bullets of what a model was measured on, under its checksum."""
    groups = () if trained.evidence is None else trained.evidence.groups
    lines = "\n".join(f"- {each.summary}" for each in groups)
    return f"The model with SHA-256 `{trained.sha256[:16]}`:\n\n{lines}"


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.firm", description=__doc__)
    parser.add_argument("model", help="run folder, model file, or box")
    parser.add_argument("--hearts", type=Path, help="folder of heart recordings, of which every second is taken")
    parser.add_argument("--clips", type=int, default=NUM_CLIPS, help="that are made")
    parser.add_argument("--data", type=Path, help="folder of a corpus, whose cycles are predicted as annotated")
    parser.add_argument("--part", action="append", default=[], help="of its split; repeatable")
    parser.add_argument(
        "--into", type=Path, help=f"text file, between the lines {BEGIN.format(MARK)} and {END.format(MARK)}"
    )
    options = parser.parse_args(words)
    try:
        predictor = Predictor.load(options.model)
        counts = without_lungs(predictor, num_clips=options.clips, hearts=options.hearts)
        if options.data is not None:
            counts |= of_parts(predictor, options.data, options.part)
    except LungsoundError as error:
        parser.error(str(error))
    head = ("sounds", "recordings", "firm, %", "with a firm cycle, %", "cycles", "firm, % of cycles")
    firm = table(head, [(name, *each.row) for name, each in counts.items()])
    if options.into is None:
        print(f"{predictor.evidence}\n\n{firm}")
    else:
        write_between(options.into, MARK, f"{measurements(predictor.trained)}\n\n{firm}")


if __name__ == "__main__":
    main(sys.argv[1:])
