"""Prometheus metrics of a run, on a port of its own: `Metrics` listens to its events.

    sluice_shards_total{stage}            shards done, resumed ones included
    sluice_stage_shards{stage}            shards there are: less those done, the queue
    sluice_rows_total{stage,outcome}      rows in: "kept", or the reason that dropped them
    sluice_written_bytes_total{stage}
    sluice_shard_seconds{stage}           histogram: how long one shard takes its worker
    sluice_cpu_seconds_total{stage}
    sluice_store_retries_total{stage}     requests to a remote store that were made again
    sluice_worker_memory_bytes{stage}     the most that a worker held in the last shard
    sluice_steps_total{stage}             of what has steps and no shards, such as training
    sluice_waiting_share{stage}           of the time of a training, or of the last shard that a
                                          network worked on: it starves where this is large
    sluice_gpu_use_share{stage}           of that time: its GPU works
    sluice_gpu_memory_bytes{stage}        the most that it held of the GPU
    sluice_last_progress_seconds{stage}   Unix time of the last shard or step
    sluice_stage_running{stage}           1 while it runs
    sluice_alerts_total                   of what was said, what somebody should look at
    sluice_run_running, sluice_run_failed

GPUs and memory of whole nodes are told by Ray's own metrics and by exporters.
"""

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from infra.errors import SluiceError
from infra.telemetry.events import ALERT

BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)  # seconds


class Metrics:
    """Keeps the metrics; `serve` shows them at http://HOST:PORT/metrics until `close`."""

    name = "metrics"

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"namespace": "sluice", "registry": self.registry}
        self._shards = Counter("shards", "Shards done", ["stage"], **own)
        self._there = Gauge("stage_shards", "Shards there are", ["stage"], **own)
        self._rows = Counter("rows", "Rows in, by what became of them", ["stage", "outcome"], **own)
        self._bytes = Counter("written_bytes", "Bytes of the files written", ["stage"], **own)
        self._seconds = Histogram(
            "shard_seconds", "Seconds of one shard", ["stage"], buckets=BUCKETS, **own
        )
        self._cpu = Counter("cpu_seconds", "CPU seconds of shards", ["stage"], **own)
        self._retries = Counter("store_retries", "Requests made again", ["stage"], **own)
        self._memory = Gauge("worker_memory_bytes", "The most a worker held", ["stage"], **own)
        self._steps = Counter("steps", "Steps of what has no shards", ["stage"], **own)
        self._pulse = {
            "waiting": Gauge("waiting_share", "Of the time, for data", ["stage"], **own),
            "gpu_use": Gauge("gpu_use_share", "Of the time, at work", ["stage"], **own),
            "gpu_memory": Gauge("gpu_memory_bytes", "Most held", ["stage"], **own),
        }
        self._last = Gauge("last_progress_seconds", "Unix time of the last end", ["stage"], **own)
        self._running = Gauge("stage_running", "1 while it runs", ["stage"], **own)
        self._alerts = Counter("alerts", "What somebody should look at", **own)
        self._run = Gauge("run_running", "1 while the run goes on", **own)
        self._failed = Gauge("run_failed", "1 once the run has failed", **own)
        self._stop: Callable[[], None] | None = None

    def __call__(self, event: Mapping[str, Any]) -> None:
        handle = getattr(self, f"_on_{event['event']}", None)
        if handle is not None:
            handle(event)

    def serve(self, address: str) -> str:
        """Show the metrics at HOST:PORT; port 0 takes a free one. Returns the URL."""
        host, colon, port = address.rpartition(":")
        if not (colon and port.isdigit()):
            raise SluiceError(f"run.metrics is {address!r}", "say HOST:PORT, as 127.0.0.1:9464")
        try:
            server, thread = start_http_server(int(port), host.strip("[]"), self.registry)
        except OSError as error:
            raise SluiceError(
                f"metrics cannot be shown at {address}: {error.strerror or error}",
                "give another run.metrics, or null; another run may have this port",
            ) from error

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        self._stop = stop
        return f"http://{host}:{server.server_port}/metrics"

    def close(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None

    # ---- one method for each kind of event ----

    def _on_run_begin(self, event: Mapping[str, Any]) -> None:
        self._run.set(1)
        self._failed.set(0)

    def _on_stage_begin(self, event: Mapping[str, Any]) -> None:
        stage = event["stage"]
        self._there.labels(stage).set(event["total"])
        self._running.labels(stage).set(1)
        self._last.labels(stage).set(event["at"])
        self._shards.labels(stage)  # 0 is a figure, too

    def _on_resumed(self, event: Mapping[str, Any]) -> None:
        self._shards.labels(event["stage"]).inc(event["count"])

    def _on_shard(self, event: Mapping[str, Any]) -> None:
        stage = event["stage"]
        self._shards.labels(stage).inc()
        self._rows.labels(stage, "kept").inc(event["kept"])
        for reason, count in event["dropped"].items():
            self._rows.labels(stage, reason).inc(count)
        self._bytes.labels(stage).inc(event["bytes"])
        self._seconds.labels(stage).observe(event["seconds"])
        self._cpu.labels(stage).inc(event["cpu_seconds"])
        self._retries.labels(stage).inc(event["retries"])
        self._memory.labels(stage).set(event["memory"])
        self._feel(event)
        self._last.labels(stage).set(event["at"])

    def _on_advance(self, event: Mapping[str, Any]) -> None:
        self._steps.labels(event["stage"]).inc(event["count"])
        self._feel(event)
        self._last.labels(event["stage"]).set(event["at"])

    def _feel(self, event: Mapping[str, Any]) -> None:
        if any(event.get(name) for name in self._pulse):  # of a stage without network all are 0
            for name, gauge in self._pulse.items():
                gauge.labels(event["stage"]).set(event[name])

    def _on_stage_end(self, event: Mapping[str, Any]) -> None:
        self._running.labels(event["stage"]).set(0)

    def _on_said(self, event: Mapping[str, Any]) -> None:
        self._alerts.inc(event["text"].startswith(ALERT))

    def _on_run_end(self, event: Mapping[str, Any]) -> None:
        self._run.set(0)
        self._failed.set(event["state"] == "failed")
