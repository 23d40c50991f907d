"""How much the service takes on."""

from dataclasses import dataclass

from lungsound.errors import SettingsError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1000, 192_000  # beyond, resampling takes memory out of all proportion
USUAL_RATE_HZ, USUAL_CHANNELS = 48_000, 2
MAX_TEXT_BYTES = 2**20  # of an annotation, and of a JSON body


@dataclass(frozen=True)
class Limits:
    """`max_bytes` is of a request's whole body, `max_duration_s` of a recording.

    `num_workers` recordings are read at the same time, `max_waiting` requests wait beside them, and `timeout_s` after
    its first byte a request is given up.
    """

    max_bytes: int = 64 * 2**20
    max_duration_s: float = 600.0
    num_workers: int = 2
    max_waiting: int = 16
    timeout_s: float = 120.0
    max_files: int = 64

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_duration_s", "num_workers", "timeout_s", "max_files"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}: more than 0 is needed")
        if self.max_waiting < 0:
            raise SettingsError(f"max_waiting is {self.max_waiting}: 0 or more is needed")

    @property
    def max_values(self) -> int:
        """Samples of all channels of a recording: a small file may promise any number of them."""
        return int(self.max_duration_s * USUAL_RATE_HZ * USUAL_CHANNELS)
