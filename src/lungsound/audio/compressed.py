"""Sound files of telephones and browsers, which soundfile cannot read, through FFmpeg (the extra `av`)."""

import io
from pathlib import Path

import numpy as np
import soundfile

from lungsound.errors import AudioError, SettingsError

SUFFIXES = (".m4a", ".aac", ".mp4", ".webm")


def decoded(path: Path) -> io.BytesIO:
    """The first sound of the file as a WAV file in memory, 32-bit float, at its own rate and with its channels.

    Raises AudioError for a file without sound or that cannot be decoded, SettingsError without the extra.
    """
    try:
        import av
    except ImportError:
        raise SettingsError(f"{path} needs FFmpeg: pip install 'lungsound[av]', or convert it to WAV or FLAC") from None
    parts = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} holds no sound; give a recording")
            stream = container.streams.audio[0]
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                parts += [each.to_ndarray() for each in to_float.resample(frame)]
            rate_hz = stream.rate
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"{path} cannot be decoded ({error}); copy or convert the file again") from error
    if not parts:
        raise AudioError(f"{path} has 0 samples; remove it, or convert it again")
    file = io.BytesIO()
    soundfile.write(file, np.concatenate(parts, axis=1).T, rate_hz, format="WAV", subtype="FLOAT")
    file.seek(0)
    return file
