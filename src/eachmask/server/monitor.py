"""Monitor: what an operator sees of a server, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)


class Monitor:
    """Counters of one server.

    Args:
        waiting: how many requests wait for a network now.
        workers: how many workers are up now.
    """

    def __init__(self, waiting: Callable[[], int], workers: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "eachmask_requests", "Answered requests", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram("eachmask_request_seconds", "Time to an answer", buckets=_SECONDS, registry=registry)
        self._batches = Counter("eachmask_batches", "Passes of a network", registry=registry)
        self._images = Counter("eachmask_images", "Images in them", registry=registry)
        self._busy = Counter("eachmask_busy_seconds", "Time in which a network computed", registry=registry)
        Gauge("eachmask_waiting", "Requests that wait for a network", registry=registry).set_function(waiting)
        Gauge("eachmask_workers", "Workers that are up", registry=registry).set_function(workers)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.observe(seconds)

    def batch(self, number: int, seconds: float) -> None:
        """That many images went through a network together."""
        self._batches.inc()
        self._images.inc(number)
        self._busy.inc(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
