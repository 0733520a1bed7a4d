"""What Prometheus is told; by route and status, never by what was asked."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """The figures of one service."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "sluice_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "sluice_request_seconds",
            "From a request's first byte to its answer's last, waiting included",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "sluice_requests_in_flight", "Requests being worked on", registry=registry
        )
        self.waiting = Gauge(
            "sluice_requests_waiting", "Requests that wait for those in flight", registry=registry
        )
        self.batch = Histogram(
            "sluice_search_batch", "Vector searches in a batch", buckets=SIZES, registry=registry
        )
        self.vectors = Gauge(
            "sluice_index_vectors", "Vectors of an index served", ["index"], registry=registry
        )
        self.reloads = Counter(
            "sluice_reloads",
            "Newer versions swapped in, or found broken",
            ["index", "outcome"],
            registry=registry,
        )

    def text(self, vectors: dict[str, int]) -> bytes:
        """All figures in Prometheus' text format; `vectors` by served index."""
        self.vectors.clear()
        for name, count in vectors.items():
            self.vectors.labels(name).set(count)
        return generate_latest(self._registry)
