"""What the service counts, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS_S = (0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self, *, num_waiting: Callable[[], float], num_requests: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lungsound_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "lungsound_request_seconds",
            "From a request's first byte to its answer.",
            ["route"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.cycles = Counter("lungsound_cycles_answered", "Cycles answered for.", registry=registry)
        self.errors = Counter("lungsound_errors", "Requests and files refused, by kind.", ["kind"], registry=registry)
        waiting = Gauge("lungsound_queue_length", "Recordings that wait for a thread.", registry=registry)
        waiting.set_function(num_waiting)
        places = Gauge("lungsound_requests_in_progress", "Requests that have a place.", registry=registry)
        places.set_function(num_requests)

    def text(self) -> bytes:
        """All counters in Prometheus' text format."""
        return generate_latest(self._registry)
