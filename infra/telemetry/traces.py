"""OpenTelemetry traces of a run: one span for the run, one for each stage, one for each shard.

    run "curate"
      stage "score pool"
        shard "00017"       where and how long it was worked on, its rows, what was dropped

Spans of shards are made here of what workers told, with the times that they measured: a worker
needs no exporter, and no connection of its own. Where spans go is told by OpenTelemetry's own
variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME.
"""

from collections.abc import Mapping
from typing import Any

from infra.errors import SluiceError

SERVICE = "sluice"
NANOSECONDS = 1_000_000_000


class Traces:
    """Listens to events. SluiceError where OpenTelemetry is not installed."""

    name = "traces"

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SluiceError(
                "run.traces needs OpenTelemetry's exporter, which is not installed",
                "pip install 'sluice[traces]', or leave run.traces out",
            ) from error
        self._trace = trace
        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(SERVICE)
        self._run: Any = None
        self._stages: dict[str, Any] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        at = _nanoseconds(event["at"])
        match event["event"]:
            case "run_begin":
                told = {"sluice.store": event["store"], "sluice.run": event["run"]}
                self._run = self._tracer.start_span(event["target"], None, attributes=told)
            case "stage_begin":
                told = {"sluice.total": event["total"], "sluice.unit": event["unit"]}
                above = self._trace.set_span_in_context(self._run) if self._run else None
                self._stages[event["stage"]] = self._tracer.start_span(
                    event["stage"], above, attributes=told, start_time=at
                )
            case "shard":
                self._shard(event)
            case "stage_end":
                self._stages.pop(event["stage"]).end(at)
            case "run_end":
                self._end(event, at)
            case _:
                return

    def _shard(self, event: Mapping[str, Any]) -> None:
        told = {
            "sluice.shard": event["name"],
            "sluice.worker": event["worker"],
            "sluice.rows": event["rows"],
            "sluice.kept": event["kept"],
            "sluice.bytes": event["bytes"],
            "sluice.cpu_seconds": event["cpu_seconds"],
            "sluice.retries": event["retries"],
            "sluice.memory": event["memory"],
        }
        told |= {f"sluice.dropped.{reason}": count for reason, count in event["dropped"].items()}
        span = self._tracer.start_span(
            "shard",
            self._trace.set_span_in_context(self._stages[event["stage"]]),
            attributes=told,
            start_time=_nanoseconds(event["begin"]),
        )
        span.end(_nanoseconds(event["begin"] + event["seconds"]))

    def _end(self, event: Mapping[str, Any], at: int) -> None:
        failed = event["state"] != "completed"
        state = self._trace.Status(
            self._trace.StatusCode.ERROR if failed else self._trace.StatusCode.OK,
            event.get("error") if failed else None,
        )
        for span in [*self._stages.values(), self._run]:  # a stage that failed never ended
            if span is not None:
                span.set_status(state)
                span.end(at)
        self._stages, self._run = {}, None

    def close(self) -> None:
        self._provider.shutdown()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * NANOSECONDS)
