"""Events of a run, and who listens: a log, Prometheus, OpenTelemetry, the state of a page."""

import contextlib
import gzip
import http.server
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra import feeding
from infra.artifacts import Part, Spec
from infra.errors import SluiceError
from infra.filesystem import write_bytes
from infra.progress import Done, PlainDisplay, Pulse, Several, SilentDisplay
from infra.runner import InlineRunner
from infra.stage import Draft, Item, run_stage
from infra.telemetry.events import Event, JsonLines, Told
from infra.telemetry.metrics import Metrics
from infra.telemetry.relay import Relay
from infra.telemetry.state import RunState

SHARDS = 4


class Work:
    """Each shard has ten rows, of which its number are too small."""

    def __init__(self, url: str, fails_at: int = SHARDS) -> None:
        self.url, self.fails_at = url, fails_at

    def __call__(self, value: int, todo: list[str]) -> dict[str, Part]:
        if value == self.fails_at:
            raise SluiceError(f"shard {value} is broken", "mend it")
        file = write_bytes(self.url, f"{value}.bin", bytes(100))
        dropped = {"too_small": value} if value else {}
        return {"": Part(str(value), (file,), 10, 10 - value, dropped)}


def run(folder: Path, told: Told, fails_at: int = SHARDS) -> None:
    """A run of one stage, told of as flows.watch does."""
    url = str(folder / "made")
    display = Several([SilentDisplay(), told])
    items = [Item(str(number), number) for number in range(SHARDS)]
    with display, InlineRunner() as runner:
        told.tell("run_begin", target="test", store=str(folder))
        try:
            draft = Draft(url, Spec("dataset", "test"))
            run_stage("cut", {"": draft}, items, Work(url, fails_at), runner, display)
        except SluiceError as error:
            told.tell("run_end", state="failed", error=str(error))
            return
        told.tell("run_end", state="completed", error=None)


def test_every_shard_is_an_event_that_balances(tmp_path: Path) -> None:
    events: list[Event] = []
    run(tmp_path, Told("r1", [events.append]))
    kinds = [event["event"] for event in events]
    assert kinds == ["run_begin", "stage_begin", *["shard"] * SHARDS, "stage_end", "run_end"]
    shards = [event for event in events if event["event"] == "shard"]
    assert [event["name"] for event in shards] == ["0", "1", "2", "3"]
    for event in shards:
        assert event["rows"] == event["kept"] + sum(event["dropped"].values())
        assert event["bytes"] == 100 and event["begin"] <= event["at"] + 0.001
        assert event["worker"].rpartition(":")[2].isdigit()
    assert {event["run"] for event in events} == {"r1"}


def test_a_log_of_events_is_lines_of_json_and_gives_the_state_again(tmp_path: Path) -> None:
    file, live = io.StringIO(), RunState()
    file.close = lambda: None  # type: ignore[method-assign]
    run(tmp_path, Told("r1", [JsonLines(file), live]), fails_at=2)
    again = RunState()
    for line in file.getvalue().splitlines():
        again(json.loads(line))
    assert again == live
    stage = live.stages["cut"]
    assert (live.state, stage.done, stage.rows, stage.dropped) == ("failed", 2, 20, 1)
    assert any("shard 2 is broken" in worry for worry in live.worries())


def test_a_resumed_stage_counts_what_was_done_before(tmp_path: Path) -> None:
    run(tmp_path, Told("r1", []), fails_at=2)
    state = RunState()
    run(tmp_path, Told("r2", [state]))
    stage = state.stages["cut"]
    assert (stage.resumed, stage.done, stage.rows, stage.share) == (2, 4, 20, 1.0)


def test_a_listener_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(event: Event) -> None:
        raise OSError("the disk is full")

    events: list[Event] = []
    run(tmp_path, Told("r1", [full, events.append]))
    assert events[-1]["state"] == "completed"
    assert capsys.readouterr().err.count("the disk is full") == 1


def test_a_run_elsewhere_is_shown_as_if_it_were_here(tmp_path: Path) -> None:
    file, here, there = io.StringIO(), RunState(), RunState()
    file.close = lambda: None  # type: ignore[method-assign]
    run(tmp_path, Told("r", [JsonLines(file), there]), fails_at=2)
    said: list[str] = []
    relay = Relay(Several([PlainDisplay(said.append), Told("r", [here])]))
    for line in ["Ray says something", *file.getvalue().splitlines(), '{"event": cut']:
        relay(line)
    assert here.stages["cut"].outcomes == there.stages["cut"].outcomes
    assert here.stages["cut"].done == there.stages["cut"].done == 2
    assert said == ["Ray says something", "cut: 4 shards to do", '{"event": cut']


def test_what_hangs_and_what_is_slow_is_told() -> None:
    state = RunState()
    told = Told("r", [state])
    told.tell("run_begin", target="t", store="s")
    line = told.stage("slow", 100)
    begin = state.stages["slow"].begin
    facts = {"stage": "slow", "rows": 1, "kept": 1, "dropped": {}, "bytes": 1, "begin": begin}
    facts |= {"retries": 0}
    for seconds in (2.0, 2.0, 2.0, 11.0):
        told.tell("shard", name="x", seconds=seconds, cpu_seconds=1.0, worker="h:1", **facts)
    (worry,) = state.worries(begin + 1)
    assert worry == "slow: the last shard took 11 s, usually 2 s"
    assert any("nothing has ended for 60 minutes" in each for each in state.worries(begin + 3600))
    line.finish()
    assert state.stages["slow"].quiet_for(begin + 3600) is None


def test_a_gpu_that_starves_is_told() -> None:
    state = RunState()
    told = Told("r1", [state])
    told.tell("run_begin", target="t", store="s")
    line = told.stage("embed", 9)
    shard = Done("0", 1, 1, {}, 0, time.time(), 1.0, 1.0, "h:1", waiting=0.8)
    line.advance(1, done=shard)
    assert state.worries() == []  # a network on processors has them to itself, or shares them
    for _ in range(3):
        line.advance(1, done=replace(shard, gpu_memory=10**9))
    (worry,) = state.worries()
    assert worry.startswith("embed: its GPU waits for data 60% of the time")
    training = told.stage("pretrain clip", 9, "steps")
    line.finish()
    training.advance(1, pulse=Pulse("loss 3.2", 0.6, 0.4, 10**9))
    assert state.worries() == [worry.replace("embed", "pretrain clip")]
    training.advance(1, pulse=Pulse("loss 3.2", 0.1, 0.9, 10**9))
    assert state.worries() == []


def test_prometheus_reads_what_was_done(tmp_path: Path) -> None:
    metrics = Metrics()
    url = metrics.serve("127.0.0.1:0")
    run(tmp_path, Told("r1", [metrics.__call__]))
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    wanted = [
        'sluice_shards_total{stage="cut"} 4.0',
        'sluice_rows_total{outcome="kept",stage="cut"} 34.0',
        'sluice_rows_total{outcome="too_small",stage="cut"} 6.0',
        'sluice_written_bytes_total{stage="cut"} 400.0',
        'sluice_shard_seconds_count{stage="cut"} 4.0',
        'sluice_store_retries_total{stage="cut"} 0.0',
        "sluice_run_running 0.0",
    ]
    assert [line for line in wanted if line not in text] == []
    metrics.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=2)


@pytest.mark.parametrize("address", ["9464", "127.0.0.1:port", ""])
def test_a_wrong_address_of_metrics_is_told(address: str) -> None:
    with pytest.raises(SluiceError, match="HOST:PORT"):
        Metrics().serve(address)


def test_a_port_that_is_taken_is_told() -> None:
    first, second = Metrics(), Metrics()
    port = first.serve("127.0.0.1:0").rpartition(":")[2].partition("/")[0]
    with pytest.raises(SluiceError, match="another run may have this port"):
        second.serve(f"127.0.0.1:{port}")
    first.close()


# ---- traces, to a collector that speaks OTLP ----


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes what exporters send; the bodies as they came."""
    bodies: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            bodies.append(gzip.decompress(body) if packed else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_traces_go_from_the_run_through_the_stage_to_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    from infra.telemetry.traces import Traces

    with collector() as (url, bodies):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        traces = Traces()
        run(tmp_path, Told("r1", [traces.__call__]), fails_at=3)
        traces.close()
    spans = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    by_id = {span.span_id: span for span in spans}
    assert len({span.trace_id for span in spans}) == 1
    shards = [span for span in spans if span.name == "shard"]
    assert len(shards) == 3
    for span in shards:
        stage = by_id[span.parent_span_id]
        assert stage.name == "cut"
        assert by_id[stage.parent_span_id].name == "test"
        told = {pair.key: pair.value for pair in span.attributes}
        assert told["sluice.rows"].int_value == 10
        assert span.start_time_unix_nano < span.end_time_unix_nano
    (root,) = [span for span in spans if not span.parent_span_id]
    assert root.status.code == 2 and "shard 3 is broken" in root.status.message


def test_the_pulse_of_a_training_goes_all_the_way() -> None:
    """From where it runs, as a line of a log, to the metrics of who waits for it."""
    metrics, log = Metrics(), io.StringIO()
    line = Told("there", [JsonLines(log)]).stage("pretrain clip", 10, "steps")
    line.advance(1, "first")
    line.advance(2, "loss 3.2", pulse=Pulse("loss 3.2", 0.25, 0.75, 10**9))
    relay = Relay(Told("here", [metrics]))
    for each in log.getvalue().splitlines():
        relay(each)
    stage = {"stage": "pretrain clip"}
    told = {
        name: metrics.registry.get_sample_value(f"sluice_{name}", stage)
        for name in (
            "steps_total",
            "waiting_share",
            "gpu_use_share",
            "gpu_memory_bytes",
        )
    }
    assert [*told.values()] == [3, 0.25, 0.75, 1e9]


class Feeding:
    """Three batches in each shard: 20 ms to wait for each, and 60 ms of work, on `device`."""

    def __init__(self, url: str, device: str) -> None:
        self.url, self.device = url, device

    def __call__(self, value: int, todo: list[str]) -> dict[str, Part]:
        import torch

        for batch in feeding.fed(self._batches()):
            torch.ones(batch, device=self.device).sum().item()
            time.sleep(0.06)
        return {"": Part(str(value), (), 3, 3)}

    def _batches(self) -> Iterator[int]:
        for _ in range(3):
            time.sleep(0.02)
            yield 1000


def told_of_feeding(folder: Path, device: str) -> dict[str, float | None]:
    """The metrics of a stage of `Feeding`."""
    metrics, url = Metrics(), str(folder / "made")
    items = [Item(str(number), number) for number in range(2)]
    with InlineRunner() as runner:
        draft = Draft(url, Spec("scores", "test"))
        work, shown = Feeding(url, device), Told("r", [metrics])
        run_stage("embed", {"": draft}, items, work, runner, shown, gpu=True)
    names = ("waiting_share", "gpu_use_share", "gpu_memory_bytes")
    return {n: metrics.registry.get_sample_value(f"sluice_{n}", {"stage": "embed"}) for n in names}


def test_a_stage_tells_how_long_its_network_waits(tmp_path: Path) -> None:
    told = told_of_feeding(tmp_path, "cpu")
    assert told.pop("waiting_share") == pytest.approx(0.25, abs=0.2)
    assert told == {"gpu_use_share": 0, "gpu_memory_bytes": 0}


def test_a_stage_tells_how_long_its_gpu_works(tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    told = told_of_feeding(tmp_path, "cuda")
    assert told["gpu_use_share"] == pytest.approx(0.75, abs=0.25)
    assert (told["gpu_memory_bytes"] or 0) >= 4000


def test_what_a_network_makes_is_worked_on_while_it_is_waited_for() -> None:
    feeding.forget()
    start = time.perf_counter()
    for _ in feeding.produced(map(time.sleep, [0.06] * 3)):
        time.sleep(0.02)
    assert feeding.told(time.perf_counter() - start, True).waiting == pytest.approx(0.25, abs=0.2)
    feeding.forget()
    assert feeding.told(1.0, True) == feeding.Fed()
