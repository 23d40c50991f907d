"""Recordings and annotations read in processes of their own, which are ended when that takes too long or too much.

Whoever sends a file chooses what decoding and parsing it costs, and no thread can be stopped. So each file has a
process, forked in milliseconds from one that has imported everything, with limits that the system keeps.
"""

import gc
import io
import multiprocessing
import pickle
import resource
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from contextvars import ContextVar
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lungsound.audio.front_end import FrontEnd
from lungsound.config import AudioSettings
from lungsound.errors import DataError, SettingsError
from lungsound.files import private_folder
from lungsound.inference.predictor import FindBy, LoadedRecording, Predictor, load_recording
from lungsound.serve import uploads
from lungsound.serve.limits import Limits, Refusal, log, place_of

Result = TypeVar("Result")

CONTEXT = multiprocessing.get_context("forkserver")
# The second is what `lungsound` runs: each process imports the program's first module again.
PRELOADED = ["lungsound.serve.review", "lungsound.cli.main"]
CONTEXT.set_forkserver_preload(PRELOADED)
POLL_S = 0.1
_processes = threading.Lock()  # starting one looks at the others, which two threads must not do at once

# True once nobody waits any more for the work that the present thread does.
is_abandoned: ContextVar[Callable[[], bool]] = ContextVar("is_abandoned", default=lambda: False)


class AbandonedError(Exception):
    """The end of work for which nobody waits any more."""


@cache
def start() -> None:
    """Start the process that readers are forked from, with its socket in a folder that goes with this process.

    Raises SettingsError where the temporary folder cannot hold a socket: its path may have about 60 bytes.
    """
    folder = ExitStack()
    Finalize(None, folder.close, exitpriority=-200)  # after multiprocessing's own
    before, tempfile.tempdir = tempfile.tempdir, str(folder.enter_context(private_folder()))
    try:
        forkserver.ensure_running()
    except OSError as error:
        raise SettingsError(
            f"no socket can be made in {before or tempfile.gettempdir()} ({error}): set TMPDIR to a folder with a "
            "short path"
        ) from None
    finally:
        tempfile.tempdir = before


def load_apart(path: Path, predictor: Predictor, limits: Limits) -> LoadedRecording:
    """The recording as `Predictor.load_recording`, read in a process of its own.

    Refusal for one beyond the limits, that cannot be read, or whose reading takes too much.
    """
    return run_apart(_load, path, predictor.trained.front_end.audio, predictor.find_by, limits, limits=limits)


def _load(path: Path, audio: AudioSettings, find_by: FindBy, limits: Limits) -> LoadedRecording:
    uploads.check_sound(path, limits)
    try:
        return load_recording(path, FrontEnd(audio), find_by=find_by)
    except DataError as error:
        raise Refusal("unusable", uploads.error_text(error, path)) from None


def wav_apart(path: Path, out: Path, limits: Limits) -> None:
    """Write the sound as WAV of 16 bits in a process of its own. Refusal as `load_apart`."""
    run_apart(_write_wav, path, out, limits, limits=limits)


def _write_wav(path: Path, out: Path, limits: Limits) -> None:
    uploads.check_sound(path, limits)
    uploads.write_wav(path, out)


def run_apart(function: Callable[..., Result], *args: object, limits: Limits) -> Result:
    """The result of `function(*args)` or its error, computed in a process that keeps to the limits.

    Refusal when the process was ended for them, or ended itself; AbandonedError as soon as nobody waits any more.
    """
    receiving, sending = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_answer, args=(sending, limits, function, args), daemon=True)
    content = None
    with closing(receiving):
        with _processes:
            start()
            process.start()
        sending.close()
        try:
            while not receiving.poll(POLL_S):
                if is_abandoned.get()():
                    raise AbandonedError
            content = receiving.recv_bytes()
        except EOFError:  # it has ended, and its exit code says why
            with _processes:
                process.join()
        finally:
            with _processes:
                process.kill()
                process.join()
    if content is None:
        raise _refusal(process.exitcode, limits)
    result: Result
    result, error = pickle.loads(content)
    if error is not None:
        raise error
    return result


def _refusal(exit_code: int | None, limits: Limits) -> Refusal:
    if exit_code in (-signal.SIGXCPU, -signal.SIGALRM):
        return Refusal("unusable", f"reading takes more than {limits.reader_s:g} s, which is the limit; send less")
    return Refusal("unusable", f"reading ended the process that did it (exit code {exit_code}); send less, or as WAV")


def _answer(sending: Connection, limits: Limits, function: Callable[..., object], args: tuple[object, ...]) -> None:
    """Keep to the limits from here on, and send the result and the error of a function, one of them None."""
    num_bytes, cpu_s = limits.reader_mb * 2**20, max(1, round(limits.reader_s))
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(max(1, round(limits.timeout_s)))  # should the service be gone, or the process wait for ever
    gc.freeze()  # a collection would write to all that is shared with other readers
    error: Exception
    try:
        content = io.BytesIO()
        _Pickler(content, protocol=pickle.HIGHEST_PROTOCOL).dump((function(*args), None))
    except Exception as failure:
        error = failure
        if isinstance(failure, MemoryError) or "can't allocate memory" in str(failure):
            error = Refusal(
                "too large", f"reading takes more than {limits.reader_mb} MB, which is the limit; send less"
            )
        elif not isinstance(failure, Refusal):
            log("error", error=place_of(failure))
            error = RuntimeError("internal error (bug) in a reader")
        content = io.BytesIO(pickle.dumps((None, error)))
    sending.send_bytes(content.getbuffer())


class _Pickler(pickle.Pickler):
    """Sends the waveform of a recording once, with the place in it of each cycle: there may be thousands of them."""

    def reducer_override(self, value: object) -> Any:
        if not isinstance(value, np.ndarray) or not isinstance(whole := value.base, np.ndarray):
            return NotImplemented
        if value.ndim != 1 or whole.ndim != 1:
            return NotImplemented
        at, begin = (each.__array_interface__["data"][0] for each in (value, whole))
        return _part, (whole, (at - begin) // value.itemsize, len(value))


def _part(whole: NDArray[Any], start: int, size: int) -> NDArray[Any]:
    return whole[start : start + size]
