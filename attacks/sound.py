"""Sound files, mutated: read as they are, with a remark, or refused by AudioError; a cut one is never read as whole."""

import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import soundfile

from attacks.mutate import mutated
from attacks.watch import Fault, Row, attempted
from lungsound.audio.io import AudioInfo, SoundLimits, probe, read_channels
from lungsound.errors import AudioError

NUM_TRIES = 5_000
LIMITS = SoundLimits(max_values=2**25)
RATE_HZ = 8000
# Ending between two frames, these end as any whole file does.
NO_END = ("AAC", "WebM, live", "MP3")
OF_SOUNDFILE = {
    "WAV": ("WAV", "PCM_16"),
    "WAV, 24 bits": ("WAV", "PCM_24"),
    "WAV, float": ("WAV", "FLOAT"),
    "WAV, extensible": ("WAVEX", "PCM_16"),
    "WAV, IMA ADPCM": ("WAV", "IMA_ADPCM"),
    "RF64": ("RF64", "PCM_16"),
    "W64": ("W64", "PCM_16"),
    "AIFF": ("AIFF", "PCM_16"),
    "AU": ("AU", "PCM_16"),
    "CAF": ("CAF", "PCM_16"),
    "FLAC": ("FLAC", "PCM_16"),
    "Ogg Vorbis": ("OGG", "VORBIS"),
    "Ogg Opus": ("OGG", "OPUS"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
}
OF_FFMPEG = {
    "M4A": ("m4a", "ipod", "aac", {}),
    "M4A, lossless": ("m4a", "ipod", "alac", {}),
    "MP4, Opus": ("mp4", "mp4", "libopus", {}),
    "AAC": ("aac", "adts", "aac", {}),
    "WebM": ("webm", "webm", "libopus", {}),
    "WebM, live": ("webm", "webm", "libopus", {"live": "1"}),
}
FORMATS = (*OF_SOUNDFILE, *OF_FFMPEG)


def whole(format: str, *, num_channels: int = 1, duration_s: float = 0.4, seed: int = 0) -> tuple[str, bytes]:
    """A name and the bytes of a good file: noise that swells."""
    num_samples, rng, content = round(duration_s * RATE_HZ), np.random.default_rng(seed), io.BytesIO()
    noise = 0.2 * rng.uniform(-1, 1, (num_samples, num_channels)) * np.linspace(0.1, 1, num_samples)[:, None]
    if format in OF_SOUNDFILE:
        container, subtype = OF_SOUNDFILE[format]
        soundfile.write(content, noise, RATE_HZ, format=container, subtype=subtype)
        return "a.wav", content.getvalue()
    suffix, container, codec, options = OF_FFMPEG[format]
    layout = "mono" if num_channels == 1 else "stereo"
    with av.open(content, "w", format=container, options=options) as file:
        stream: Any = file.add_stream(codec, rate=48000 if codec == "libopus" else RATE_HZ, layout=layout)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(noise.T, dtype=np.float32), format="fltp", layout=layout
        )
        frame.sample_rate = RATE_HZ
        fitting = av.AudioResampler(stream.format, layout, stream.rate, frame_size=stream.frame_size)
        for part in (*fitting.resample(frame), *fitting.resample(None)):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return f"a.{suffix}", content.getvalue()


def read(path: Path) -> tuple[AudioInfo, np.ndarray] | None:
    """Facts and samples (channel, samples) of a file, None if it is refused; `probe` has to say the same."""
    answers: list[Any] = []
    for each in (probe, read_channels):
        try:
            answers.append(each(path, LIMITS))
        except AudioError as error:
            answers.append(str(error))
    info, found = answers
    if isinstance(found, str) or isinstance(info, str):
        if info != found:
            raise Fault("silent", f"probe says {info}, reading {found if isinstance(found, str) else found[1]}")
        return None
    samples, facts = found
    if info != facts:
        raise Fault("silent", f"probe says {info}, reading {facts}")
    if samples.shape != (facts.num_channels, facts.num_samples) or not np.isfinite(samples).all():
        raise Fault("silent", f"samples {samples.shape} of {facts}, finite: {np.isfinite(samples).all()}")
    return facts, samples


def attack_format(format: str, folder: Path, *, seed: int) -> Callable[[int], None]:
    """One try of a format, by its number: of four one is cut, the others are mutated."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [whole(format, num_channels=channels, seed=channels) for channels in (1, 2)]
    name, contents = seeds[0][0], [content for _, content in seeds]
    path, good = folder / name, []
    for content in contents:
        path.write_bytes(content)
        if (found := read(path)) is None or (found[0].remarks and format not in NO_END):
            raise ValueError(f"{format}: a good file is not read as one")
        good.append(found[1])

    def attempt(number: int) -> None:
        rng = Random(f"{seed} {format} {number}")
        which = rng.randrange(len(contents))
        if number % 4:
            path.write_bytes(mutated(contents[which], rng, contents, is_text=False))
            read(path)
            return
        size = rng.randrange(len(contents[which]))
        path.write_bytes(contents[which][:size])
        found = read(path)
        if found is None or found[0].remarks or format in NO_END or np.array_equal(found[1], good[which]):
            return
        raise Fault("silent", f"{size} of {len(contents[which])} bytes give {found[1].shape} of {good[which].shape}")

    return attempt


def attack(folder: Path, *, seed: int, share: float) -> list[Row]:
    """All formats, a process each."""
    made = {format: attack_format(format, folder / format, seed=seed) for format in FORMATS}
    return [attempted("sound", format, attempt, round(share * NUM_TRIES)) for format, attempt in made.items()]
