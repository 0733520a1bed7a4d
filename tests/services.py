"""Real services in processes of their own, on loopback: PostgreSQL, a Prefect server, a worker.

with postgres() as database, prefect_server(folder, database) as server:
    server.command("deploy", "--all")
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import environment
from tests.s3 import free_port

ROOT = Path(__file__).parents[1]
PREFECT = Path(sys.executable).with_name("prefect")
PATIENCE = 240.0  # seconds; two slow cores need 15 for the first start of a server
FAREWELL = 20.0  # seconds a process may take to end
NOBODY = "postgres"  # PostgreSQL refuses to run as root


def end(process: subprocess.Popen[bytes], *kinds: signal.Signals) -> None:
    """End a process and its group, politely and then not."""
    for kind in kinds or (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(timeout=FAREWELL)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait()


@contextmanager
def started(
    log: Path, values: Mapping[str, str], *command: str, **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process group that is ended with the block; `log` takes what it says."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=dict(values),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    try:
        yield process
    finally:
        end(process)


def until(what: str, ready: Callable[[], Any], log: Path, patience: float = PATIENCE) -> Any:
    """The first true answer; AssertionError with the log where none comes in time."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if answer := ready():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{what} took longer than {patience:.0f} s:\n{log.read_text()}")


# ---- PostgreSQL ----


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's own programs; None where it is not installed."""
    places = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists()), None)


@contextmanager
def postgres() -> Iterator[str]:
    """A database with a password, and its URL for Prefect."""
    programs = postgres_programs()
    assert programs is not None, "PostgreSQL is not installed"
    port, password = free_port(), secrets.token_hex(16)
    user: dict[str, Any] = {"user": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="sluice-postgres-") as folder:
        home, given = Path(folder, "data"), Path(folder, "password")
        home.mkdir()
        given.write_text(password)
        if user:
            for path in (folder, home, given):
                shutil.chown(path, NOBODY)
        make = [str(programs / "initdb"), "-D", str(home), "-U", "prefect", f"--pwfile={given}"]
        make += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, cwd=home, **user)
        start = [str(programs / "postgres"), "-D", str(home), "-p", str(port)]
        start += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        start += ["-c", "fsync=off"]
        log = Path(folder, "log")
        with started(log, dict(os.environ), *start, **user):
            until("PostgreSQL's start", lambda: accepts(port), log)
            yield f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/postgres"


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ---- Prefect ----


@dataclass
class Server:
    """A Prefect server on loopback, and the commands that talk to it."""

    api: str
    environment: dict[str, str] = field(repr=False)
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
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def state(self, run: str) -> str:
        return self.call("GET", f"flow_runs/{run}")["state_type"]

    def messages(self, run: str) -> list[str]:
        wanted = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return [record["message"] for record in self.call("POST", "logs/filter", wanted)]

    @contextmanager
    def worker(self, name: str = "worker") -> Iterator[subprocess.Popen[bytes]]:
        """A worker of the pool `sluice`, in the checkout."""
        command = (str(PREFECT), "worker", "start", "--pool", "sluice", "--name", name)
        with started(self.logs / f"{name}.log", self.environment, *command) as process:
            yield process


@contextmanager
def prefect_server(folder: Path, database: str | None = None) -> Iterator[Server]:
    """A server with its services, on SQLite where no database is given."""
    port = str(free_port())
    values = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        **environment.PRIVATE,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    }
    if database:
        values["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
    made = Server(values["PREFECT_API_URL"], values, folder)

    def healthy() -> bool:
        try:
            return made.call("GET", "health") is True
        except (urllib.error.URLError, OSError):
            return False

    start = (str(PREFECT), "server", "start", "--host", "127.0.0.1", "--port", port, "--no-ui")
    log = folder / "server.log"
    with started(log, values, *start):
        until("the server's start", healthy, log)
        yield made
