"""Sound files of telephones and browsers, which soundfile cannot read, through FFmpeg (the extra `av`)."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from lungsound.errors import AudioError, SettingsError

SUFFIXES = (".m4a", ".aac", ".mp4", ".webm")
# FFmpeg goes by content: a playlist under such a name would have it open other files.
OPTIONS = {"format_whitelist": "aac,mov,matroska,webm", "protocol_whitelist": "file"}


def decoded(path: Path) -> io.BytesIO:
    """The first sound of the file as a WAV file in memory, 32-bit float, at its own rate and with its channels.

    Raises as `decoded_blocks`, and AudioError for a file without samples.
    """
    blocks = list(decoded_blocks(path))
    if not blocks:
        raise AudioError(f"{path} has 0 samples; remove it, or convert it again")
    file = io.BytesIO()
    soundfile.write(
        file, np.concatenate([block for block, _ in blocks], axis=1).T, blocks[0][1], format="WAV", subtype="FLOAT"
    )
    file.seek(0)
    return file


def decoded_blocks(path: Path) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Samples (channel, samples) and rate of the file's first sound, block by block: few bytes may hold many hours.

    Raises AudioError for a file without sound, that cannot be decoded, or whose rate or channels change on the way;
    SettingsError without the extra.
    """
    try:
        import av
    except ImportError:
        raise SettingsError(f"{path} needs FFmpeg: pip install 'lungsound[av]', or convert it to WAV or FLAC") from None
    try:
        with av.open(str(path), options=OPTIONS) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} holds no sound; give a recording")
            to_float, found = av.AudioResampler(format="fltp"), set()
            for frame in container.decode(container.streams.audio[0]):
                found.add((frame.sample_rate, frame.layout.name))
                if len(found) > 1:
                    raise AudioError(f"{path} changes its rate or channels on the way; convert it to WAV")
                for part in to_float.resample(frame):
                    yield part.to_ndarray().astype(np.float32, copy=False), frame.sample_rate
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"{path} cannot be decoded ({error}); copy or convert the file again") from error
