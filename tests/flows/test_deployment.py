"""The deployments of prefect.yaml, on a real server, with a real worker."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from flows import environment
from infra.dataset import open_dataset

ROOT = Path(__file__).parents[2]
PREFECT = Path(sys.executable).with_name("prefect")
PATIENCE = 240.0  # seconds; two slow cores need 15 for the first start of a server
TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def deployments() -> dict[str, dict[str, Any]]:
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    return {deployment["name"]: deployment for deployment in described["deployments"]}


def test_both_deployments_are_scheduled_on_the_work_pool() -> None:
    found = deployments()
    assert {name: each["entrypoint"].partition(":")[2] for name, each in found.items()} == {
        "nightly": "curate_and_pretrain",
        "hourly": "ingest",
    }
    crons = [schedule["cron"] for each in found.values() for schedule in each["schedules"]]
    assert len(set(crons)) == 2
    assert {each["work_pool"]["name"] for each in found.values()} == {"sluice"}


@dataclass
class Server:
    """A Prefect server on loopback, and the commands that talk to it."""

    api: str
    environment: Mapping[str, str] = field(repr=False)
    logs: Path = field(repr=False)

    def call(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self.api}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def command(self, *arguments: str) -> str:
        run = subprocess.run(
            [str(PREFECT), "--no-prompt", *arguments],
            cwd=ROOT,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout


@contextmanager
def process(log: Path, values: Mapping[str, str], *command: str) -> Iterator[Callable[[], str]]:
    """A process group that is ended with the block; yields its output so far."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(values),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log.read_text
    finally:
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(started.pid, kind)
                started.wait(timeout=20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        started.wait()


def until(what: str, ready: Callable[[], Any], log: Callable[[], str]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if answer := ready():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{what} took longer than {PATIENCE:.0f} s:\n{log()}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    api = f"http://127.0.0.1:{port}/api"
    values = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        **environment.PRIVATE,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    made = Server(api, values, tmp_path)

    def healthy() -> bool:
        try:
            return made.call("GET", "health") is True
        except (urllib.error.URLError, OSError):
            return False

    start = (str(PREFECT), "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui")
    with process(tmp_path / "server.log", values, *start) as log:
        until("the server's start", healthy, log)
        yield made


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe for data of one's own, on six pictures, in this process alone."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48), (number * 40, 90, 120)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"colour number {number}")
    described = yaml.safe_load((ROOT / "flows" / "recipes" / "your-shards.yaml").read_text())
    described["data"] = {"pool": [{"folder": str(pictures)}], "rows_per_shard": 4}
    described["run"] = {"executor": "inline"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


@pytest.mark.prefect
@pytest.mark.slow
def test_a_deployed_run_completes(server: Server, recipe: Path, tmp_path: Path) -> None:
    server.command("work-pool", "create", "sluice", "--type", "process")
    server.command("deploy", "--all")
    deployed = {each["name"]: each for each in server.call("POST", "deployments/filter", {})}
    assert set(deployed) == {"nightly", "hourly"}
    for name, each in deployed.items():
        (schedule,) = each["schedules"]
        assert schedule["active"]
        assert schedule["schedule"]["cron"] == deployments()[name]["schedules"][0]["cron"]
        assert each["work_pool_name"] == "sluice"
        # From here on nothing but what the test asks for may run.
        server.call("POST", f"deployments/{each['id']}/pause_deployment")

    store = tmp_path / "store"
    run = server.call(
        "POST",
        f"deployments/{deployed['hourly']['id']}/create_flow_run",
        {"parameters": {"recipe": str(recipe), "overrides": ["seed=1"], "store": str(store)}},
    )

    def finished() -> str | None:
        state = server.call("GET", f"flow_runs/{run['id']}")["state_type"]
        return state if state in TERMINAL else None

    def told() -> bool:
        wanted = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200}
        records = server.call("POST", "logs/filter", wanted)
        return any("ingest pool: 2 shards" in record["message"] for record in records)

    worker = (str(PREFECT), "worker", "start", "--pool", "sluice")
    with process(tmp_path / "worker.log", server.environment, *worker) as log:
        assert until("the run", finished, log) == "COMPLETED", log()
        until("the run's log", told, log)  # records travel in batches, a little behind

    tasks = server.call("POST", "task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert [(task["name"].rpartition("-")[0], task["state_type"]) for task in tasks] == [
        ("ingest pool", "COMPLETED")
    ]
    dataset = open_dataset(str(store), "pool")
    assert dataset.artifact.totals["rows"] == dataset.artifact.totals["kept"] == 6
