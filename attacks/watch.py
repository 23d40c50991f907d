"""Attempts and commands in processes of their own, which are ended when they hang; what an attack finds, and counts."""

import ctypes
import multiprocessing
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Literal, NoReturn, get_args

import torch

from lungsound.cli.main import main

Kind = Literal["lost", "silent", "hung", "traceback", "internal"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TRACEBACK = "Traceback (most recent call last)"
CAPABILITY_VERSION = 0x20080522  # of Linux's capabilities: root without any may write as little as others
FORK = multiprocessing.get_context("fork")  # what is imported once serves every attempt


class Fault(Exception):
    """A promise that was not kept: what was lost, or answered in silence."""

    def __init__(self, kind: Kind, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


@dataclass
class Row:
    """Counts of one attack; `faults` are what was found, in words."""

    part: str
    what: str
    num_tries: int = 0
    counts: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    faults: list[str] = field(default_factory=list)

    def add(self, fault: Fault | None, *, where: str) -> None:
        """Count a try, and what came of it."""
        self.num_tries += 1
        self.judge(fault, where=where)

    def judge(self, fault: Fault | None, *, where: str) -> None:
        """Count what came of tries that are counted already."""
        if fault is not None:
            self.counts[fault.kind] += 1
            self.faults.append(f"{self.part}: {self.what}: {where}: {fault.kind}: {fault.detail}")
            print(self.faults[-1], file=sys.stderr, flush=True)


def attempts(
    attempt: Callable[[int], None], numbers: Sequence[int], *, limit_s: float = 10.0, memory_mb: int = 1024
) -> Iterator[tuple[int, Fault | None]]:
    """Call `attempt` with each number, all in one process, and say what came of it.

    A Fault that it raises is one, another exception "internal", a process that died "traceback". One that gives no
    answer in `limit_s` of the processor's time is ended, and a new one goes on. `memory_mb` is what it may take beside
    what it has at its start.
    """
    left = list(numbers)
    while left:
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_attempt_all, args=(attempt, left, theirs, memory_mb), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads, which the child has no use for
            process.start()
        theirs.close()
        try:
            while left:
                if not _is_in_time(process.pid or 0, limit_s, ours.poll):
                    yield left.pop(0), Fault("hung", f"no answer after {limit_s:g} s")
                    break
                kind, detail = ours.recv()
                yield left.pop(0), None if kind is None else Fault(kind, detail)
        except EOFError:
            process.join()
            yield left.pop(0), Fault("traceback", f"the process died ({process.exitcode})")
        finally:
            process.kill()
            process.join()
            ours.close()


def attempted(part: str, what: str, attempt: Callable[[int], None], num_tries: int) -> Row:
    """The row of so many attempts, at least one."""
    row = Row(part, what)
    for number, fault in attempts(attempt, range(max(1, num_tries))):
        row.add(fault, where=f"input {number}")
    print(f"{part}: {what}: {row.num_tries} tries", flush=True)
    return row


IDLE = 20  # times as long, where a process waits, or the machine is busy


def _is_in_time(pid: int, limit_s: float, wait: Callable[[float], object]) -> bool:
    """Wait until `wait` is true; false where the process takes more than the limit of the processor's time."""
    began_s, end_s = _processor_s(pid), time.monotonic() + IDLE * limit_s
    while not wait(0.02):
        if _processor_s(pid) - began_s > limit_s or time.monotonic() > end_s:
            return False
    return True


def _processor_s(pid: int) -> float:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


def _attempt_all(attempt: Callable[[int], None], numbers: Sequence[int], answers: Connection, memory_mb: int) -> None:
    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + memory_mb * 2**20,) * 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders comment on what they are given
    for number in numbers:
        fault = None
        try:
            attempt(number)
        except Fault as error:
            fault = error
        except Exception as error:
            fault = unforeseen(error)
        answers.send((None, "") if fault is None else (fault.kind, fault.detail))


def unforeseen(error: Exception) -> Fault:
    """An exception that no caller expects, and where it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return Fault("internal", f"{type(error).__name__}: {str(error)[:200]} ({Path(last.filename).name}:{last.lineno})")


@dataclass(frozen=True)
class Ended:
    """A command that ended, or was ended: its exit code (None: killed), what it printed, and seconds."""

    code: int | None
    text: str
    seconds: float
    is_hung: bool = False

    def fault(self) -> Fault | None:
        """What no command may do, whatever it was given."""
        if self.is_hung:
            return Fault("hung", f"no end after {self.seconds:.0f} s")
        if TRACEBACK in self.text:
            return Fault("traceback", self.text[-400:])
        if "internal error" in self.text:
            return Fault("internal", self.text[self.text.index("internal error") :][:300])
        return None


class Running:
    """Work in a process group of its own; it is forked, so that libraries are loaded already."""

    def __init__(
        self,
        work: Callable[[], object],
        *,
        cache: Path,
        max_file_bytes: int | None = None,
        is_without_privilege: bool = False,
    ) -> None:
        self.start_s, self.text, self.is_at_end = time.monotonic(), b"", False
        sys.stdout.flush()
        sys.stderr.flush()
        self.output, theirs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            _run(work, theirs, cache, max_file_bytes, is_without_privilege)
        with suppress(ProcessLookupError, PermissionError):  # it did so itself
            os.setpgid(self.pid, self.pid)
        os.close(theirs)

    def end(self, *, limit_s: float = 60.0, kill_after_s: float | None = None) -> Ended:
        """Wait for the end; kill it after some seconds if that is asked for, else past the limit (see `attempts`)."""
        waited = [0, 0]

        def is_done(wait_s: float) -> bool:
            self.read(wait_s)
            waited[:] = os.waitpid(self.pid, os.WNOHANG)
            is_late = kill_after_s is not None and time.monotonic() - self.start_s > kill_after_s
            return waited[0] > 0 or is_late

        is_hung = not _is_in_time(self.pid, limit_s, is_done)
        seconds = time.monotonic() - self.start_s
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it started too
        if not waited[0]:
            os.waitpid(self.pid, 0)
        while self.read(0.0):
            pass
        os.close(self.output)
        code = os.waitstatus_to_exitcode(waited[1]) if waited[0] else None
        return Ended(code, self.text.decode("utf-8", "replace"), seconds, is_hung)

    def read(self, wait_s: float) -> bool:
        """Read what there is of the output; false at its end, or when there is none."""
        if not select.select([self.output], [], [], wait_s)[0]:
            return False
        part = os.read(self.output, 2**16)
        self.text, self.is_at_end = self.text + part, not part
        if self.is_at_end:
            time.sleep(wait_s)
        return bool(part)


def _run(
    work: Callable[[], object], output: int, cache: Path, max_file_bytes: int | None, is_without_privilege: bool
) -> NoReturn:
    code = 70
    try:
        os.setpgid(0, 0)
        os.environ["LUNGSOUND_CACHE"] = str(cache)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # a pool of threads does not come through a fork
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
        sys.modules["__main__"] = ModuleType("__main__")  # which processes that it starts would import again
        if is_without_privilege:
            none = (ctypes.c_uint32 * 6)()
            ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), none)
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def lungsound(*arguments: object) -> Callable[[], None]:
    """The command line, as a person would call it."""

    def call() -> None:
        sys.argv = ["lungsound", *map(str, arguments)]
        main()

    return call
