"""A Ray cluster of several nodes on this host: each node is processes of its own, with a token.

with cluster() as ray:
    ray.join(cpus=2)
    ray.dashboard, ray.address, ray.environment     what a driver or a job needs

A node is ended by killing its processes, never by `ray stop`, which ends every Ray of the host.
"""

import contextlib
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from infra.ray_jobs import Jobs

ROOT = Path(__file__).parents[1]
PATIENCE = 180.0  # seconds; a head with its dashboard takes 13 on two idle cores
STORE = 80 * 2**20  # bytes of a node's object store: the least Ray takes
HOST = "127.0.0.1"
PORTS = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")


_given: set[int] = set()  # ports that Ray was told to use, and may not have taken yet


def free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


@dataclass
class Node:
    """The processes of one node."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """At once and all of them, as when a machine loses its power."""
        tree = []
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            tree = [top, *top.children(recursive=True)]
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(tree, timeout=30)


@dataclass
class Cluster:
    """A head without processors for work, and the nodes that joined it."""

    folder: Path
    token: str
    environment: Mapping[str, str] = field(repr=False)
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    nodes: list[Node] = field(default_factory=list[Node])

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://{HOST}:{self.dashboard_port}"

    def _start(self, *options: str) -> Node:
        # One agent a node: their ports would else be the same on one host.
        ports = [f"--{name}={free_port()}" for name in PORTS]
        log = (self.folder / f"node-{len(self.nodes)}.log").open("wb")
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ray")), "start", "--block",
                f"--node-ip-address={HOST}", f"--object-store-memory={STORE}",
                "--include-log-monitor=false", "--disable-usage-stats", *ports, *options,
            ],
            cwd=self.folder, env=dict(self.environment), stdout=log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        log.close()
        self.nodes.append(Node(process))
        return self.nodes[-1]

    def start_head(self) -> Node:
        head = self._start(
            "--head", f"--port={self.port}", "--num-cpus=0", "--num-gpus=0",
            f"--dashboard-host={HOST}", f"--dashboard-port={self.dashboard_port}",
            f"--temp-dir={self.folder}",
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            if time.monotonic() > deadline or head.process.poll() is not None:
                raise AssertionError((self.folder / "node-0.log").read_text()[-2000:])
            time.sleep(0.2)
        return head

    def _answers(self) -> bool:
        request = urllib.request.Request(
            f"{self.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def join(self, cpus: int) -> Node:
        """A node more, once it has started: of two that start at once on a host one may abort."""
        node = self._start(f"--address={self.address}", f"--num-cpus={cpus}", "--num-gpus=0")
        log = self.folder / f"node-{len(self.nodes) - 1}.log"
        deadline = time.monotonic() + PATIENCE
        while b"Ray runtime started" not in (said := log.read_bytes()):
            assert time.monotonic() < deadline and node.process.poll() is None, said[-2000:]
            time.sleep(0.1)
        return node

    def workers(self) -> list[psutil.Process]:
        """The processes in which the cluster does work for us."""
        found = []
        for node in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += psutil.Process(node.process.pid).children(recursive=True)
        return [each for each in found if "ray::Worker" in _command(each)]

    def jobs(self) -> Jobs:
        """What talks to its dashboard, with its token."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
                patch.setenv(name, self.environment[name])
            return Jobs(self.dashboard)

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@contextlib.contextmanager
def cluster(*cpus: int) -> Iterator[Cluster]:
    """A head, and a node of so many processors each. Nobody comes in without the token."""
    token = secrets.token_hex(32)
    # A short path: sockets lie in it, whose names may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="sr", dir="/tmp"))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    made = Cluster(folder, token, environment)
    try:
        made.start_head()
        for count in cpus:
            made.join(count)
        yield made
    finally:
        made.close()
