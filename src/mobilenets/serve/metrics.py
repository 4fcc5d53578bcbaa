"""What Prometheus may ask: requests, pictures, queues, batches, times, and the process's own numbers."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
TOGETHER = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The numbers of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = one = CollectorRegistry()
        ProcessCollector(registry=one)
        self._requests = Counter("mobilenets_requests", "Requests answered.", ("path", "status"), registry=one)
        self._seconds = Histogram(
            "mobilenets_request_seconds",
            "From a request's header to its answer.",
            ("path",),
            buckets=SECONDS,
            registry=one,
        )
        self.in_flight = Gauge("mobilenets_requests_in_flight", "Requests being answered.", registry=one)
        self._pictures = Counter("mobilenets_pictures", "Pictures computed.", ("model",), registry=one)
        self._unreadable = Counter("mobilenets_pictures_unreadable", "Pictures that could not be read.", registry=one)
        self._batches = Histogram(
            "mobilenets_batch_pictures", "Pictures computed together.", ("model",), buckets=TOGETHER, registry=one
        )
        self._model_seconds = Histogram(
            "mobilenets_model_seconds", "A batch's computation.", ("model",), buckets=SECONDS, registry=one
        )
        self._waiting = Gauge("mobilenets_pictures_waiting", "Pictures in work.", ("model",), registry=one)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def computed(self, model: str, pictures: int, seconds: float) -> None:
        """Count a batch."""
        self._pictures.labels(model).inc(pictures)
        self._batches.labels(model).observe(pictures)
        self._model_seconds.labels(model).observe(seconds)

    def unreadable(self) -> None:
        """Count a picture that could not be read."""
        self._unreadable.inc()

    def watch_queue(self, model: str, waiting: Callable[[], float]) -> None:
        """Ask `waiting` for the number of pictures in work whenever it is wanted."""
        self._waiting.labels(model).set_function(waiting)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
