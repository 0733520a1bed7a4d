"""A service as a process of its own on loopback, and what clients send it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SECONDS = 60


@dataclass
class Server:
    """url: where it listens. process: to be ended by `stop`."""

    url: str
    process: subprocess.Popen[str]

    def ask(
        self, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of an answer; a body makes it a POST."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers or {})
        request.add_header("content-type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status and what it logged."""
        self.process.send_signal(number)
        _, logged = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, logged


@contextlib.contextmanager
def running(store: str, *tokens: str, key: str | None = None) -> Iterator[Server]:
    """`python -m indexes serve` at a free port, ended if the test has not."""
    command = [
        sys.executable,
        "-m",
        "indexes",
        "serve",
        "curated",
        "--store",
        store,
        "--port",
        "0",
        *tokens,
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("SLUICE_API_KEY", None)
    if key is not None:
        env["SLUICE_API_KEY"] = key
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("serving http://"), process.stderr.read()
        yield Server(line.split()[1].replace("0.0.0.0", "127.0.0.1"), process)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
