"""A Ray cluster, started here or found at an address, on which archives are predicted and tables of runs trained."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lungsound.errors import SettingsError
from lungsound.extras import load
from lungsound.processor import num_processors

HERE = "ray"
# Errors are raised, as one line: Ray need not log them. It lowers the priority of its workers, colours what they print,
# and merges lines that differ in their numbers alone, such as those of two epochs.
RAY_SETTINGS = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_worker_niceness": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
}
OBJECT_STORE_BYTES = 2**27  # of a local cluster: it holds names and counts


def check_address(on: str) -> None:
    """SettingsError for what is neither "ray" nor an address."""
    if on != HERE and not on.startswith("ray://"):
        raise SettingsError(f"--on {on}: give ray, for a cluster that is started here, or ray://HOST:PORT")


@contextmanager
def joined_cluster(on: str, num_workers: int | None, *, is_output_shown: bool = False) -> Iterator[Any]:
    """The module of Ray, joined to a cluster: "ray" starts one here for so many workers, which ends with the block.

    With `is_output_shown` the output of tasks is printed here. SIGTERM is a KeyboardInterrupt in the block.
    SettingsError for a cluster that cannot be reached, or is lost.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    ray, is_here = load("ray", extra="ray"), on == HERE
    start = {"log_to_driver": is_output_shown, "logging_level": logging.ERROR}
    if is_here:
        start |= {"num_cpus": num_workers or num_processors(), "object_store_memory": OBJECT_STORE_BYTES}
        start |= {"include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init("local" if is_here else on, **start)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's ends the command without a word
        yield ray
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:  # also for other versions in the cluster
        detail = str(error).strip().split("\n")[-1]  # of a traceback what it is about
        raise SettingsError(f"--on {on}: {type(error).__name__}: {detail}; the same call goes on") from error
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def num_of(ray: Any, *kinds: str) -> int:
    """Number of the first of these resources ("GPU", "CPU") that the cluster has; SettingsError where it has none."""
    there = ray.cluster_resources()
    for kind in kinds:
        if number := int(there.get(kind, 0)):
            return number
    raise SettingsError(f"the cluster has no {' or '.join(kinds)} yet: give --workers N")
