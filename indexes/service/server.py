"""A service as a process: opened, listening, ended with what is under way."""

import contextlib
import functools
import logging
import os
import resource
import signal
import socket
import sys
from typing import Any

import uvicorn

from indexes.service.app import create_app
from indexes.service.asking import Fetch
from indexes.service.connections import Connection, Door
from indexes.service.middleware import REFUSED
from indexes.service.service import Service, open_service
from indexes.service.settings import ServiceSettings
from infra.errors import SluiceError

BACKLOG = 2048  # connections that wait to be taken
KEEP_ALIVE = 75  # seconds an idle connection stays open
UNREAD = 60  # seconds a client may leave an answer where it is; then its connection ends
SHUTDOWN = 30  # seconds for requests under way when the process is told to end


def serve(settings: ServiceSettings, fetch: Fetch | None = None) -> None:
    """Serve until SIGTERM or SIGINT; raises SluiceError for what cannot be opened or bound."""
    # Threads of faiss that wait for work must leave the cores to requests; read when it loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("sluice").setLevel(logging.INFO)
    service = open_service(settings, fetch)
    _allow_many_files()
    with _listening(settings) as listener:
        for live in service.registry.every:
            count = f"{len(live.index):,} vectors of {live.index.dimension} dimensions"
            print(f"{live.name}: {count}", file=sys.stderr)
        print(f"serving {_address(settings, listener)}", flush=True)
        signal.signal(signal.SIGTERM, _end)  # which uvicorn gives back its signal to
        signal.signal(signal.SIGINT, _end)
        config = uvicorn.Config(
            create_app(service),
            http=_protocol(service),
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            loop="asyncio",
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=SHUTDOWN,
        )
        uvicorn.Server(config).run([listener])


def _protocol(service: Service) -> Any:
    """What uvicorn makes of each connection; it takes a class, and calls it."""
    settings = service.settings
    refused = service.metrics.requests.labels(REFUSED, "503").inc
    door = Door(settings.connections, settings.deadline, refused)
    return functools.partial(Connection, door=door)


def _end(number: int, frame: Any) -> None:
    raise SystemExit(0)


def _listening(settings: ServiceSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=BACKLOG
        )
    except OSError as error:
        raise SluiceError(
            f"cannot listen at {settings.host}:{settings.port}: {error.strerror or error}",
            "choose another --port or --host",
        ) from error
    # Head and body of an answer are two packets: together they must not wait for each other.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux alone has it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNREAD)
    listener.setblocking(False)
    return listener


def _address(settings: ServiceSettings, listener: socket.socket) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


def _allow_many_files() -> None:
    """A connection is a file: as many as the system lets this process have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
