"""A Ray cluster, started here or found at an address, on which archives are predicted and tables of runs trained."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lungsound.errors import SettingsError
from lungsound.extras import load
from lungsound.processor import num_threads

HERE = "ray"
# What ends the work is raised, in one line. Ray's workers are 15 nicer than the command, which has a nice of its own;
# and it takes lines that differ in their numbers alone for the same.
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
def joined_cluster(on: str, num_workers: int | None, *, is_output_shown: bool = False) -> Iterator[tuple[Any, int]]:
    """The module of Ray, joined to a cluster ("ray": one that ends with the block), and how many are to work there.

    By default as many as the cluster has GPUs, or else processors. With `is_output_shown` what tasks print is printed
    here. SettingsError for a cluster that is not reached or is lost.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    ray, is_here = load("ray", extra="ray"), on == HERE
    start = {"log_to_driver": is_output_shown, "logging_level": logging.ERROR}
    if is_here:
        start |= {"num_cpus": num_workers or num_threads(), "object_store_memory": OBJECT_STORE_BYTES}
        start |= {"include_dashboard": False}
    try:
        ray.init("local" if is_here else on, **start)
        there = ray.cluster_resources()
        yield ray, num_workers or int(there.get("GPU") or there["CPU"])
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:  # also for other versions in the cluster
        detail = str(error).strip().split("\n")[-1]  # of a traceback what it is about
        raise SettingsError(f"--on {on}: {type(error).__name__}: {detail}; the same call goes on") from error
    finally:
        ray.shutdown()
