"""Connections: how many there are at once, and how long a client may take to say what it asks."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from indexes.service.errors import refusal
from indexes.service.middleware import HEADERS

LINGER = 1.0  # seconds a refused client has to hear why: one that is cut off while it sends may not
LINGERING = 256  # refused clients that hear why at a time; more are cut off
LONGEST_HEAD = 2**16  # bytes of a request's first line and headers; the parser would take any


@dataclass
class Door:
    """most: connections at once. patience: seconds for the head of a request.

    on_refused: called for each connection beyond. refused: how many of these hear why just now.
    """

    most: int
    patience: float
    on_refused: Callable[[], None]
    refused: int = 0


class Connection(HttpToolsProtocol):
    """As uvicorn has it, within the limits of a door.

    uvicorn's own `limit_concurrency` would refuse requests of connections that exist, and count
    nothing that sends no request; and it waits for the head of a request for ever, of any length.
    """

    def __init__(self, *given: Any, door: Door, **named: Any) -> None:
        super().__init__(*given, **named)
        self._door = door
        self._head: asyncio.TimerHandle | None = None  # runs while a head is waited for
        self._read = 0  # bytes of that head so far

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self._door.most:
            refused = _Refused(self._door)
            transport.set_protocol(refused)
            refused.connection_made(transport)
            return
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        before: Any = self.cycle
        super().data_received(data)
        self._watch()
        waits = self._head is not None and self.cycle is before
        self._read = self._read + len(data) if waits else 0
        if self._read > LONGEST_HEAD and not self.transport.is_closing():
            if before is None or not before.more_body:  # else it is a body that nobody wants
                told = "the head of this request is too long", "send less in it"
                self.transport.write(_answer(431, *told))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Let the time run from a head's first byte, or from the connection's start, to its end.

        Between requests nothing is sent, and uvicorn's time for idle connections runs.
        """
        request: Any = self.cycle  # None before the first one
        if request is not None and not request.response_complete:
            self._unwatch()
        elif self._head is None:
            # It is what uvicorn does with an idle connection: closed, if it is not already.
            self._head = self.loop.call_later(self._door.patience, self.timeout_keep_alive_handler)

    def _unwatch(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class _Refused(asyncio.Protocol):
    """Tells a client to come again, and drops what it sends until it has heard that."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._door.refused += 1
        self._door.on_refused()
        if self._door.refused > LINGERING:
            transport.abort()
            return
        told = "too many connections at once", "ask again in a moment"
        transport.write(_answer(503, *told))
        with contextlib.suppress(OSError):  # who was refused may have hung up by now
            transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.refused -= 1


def _answer(status: int, what: str, way_out: str) -> bytes:
    """An answer to any request, which may not even have come."""
    answer = refusal(status, what, way_out, {"Connection": "close", **HEADERS})
    headers = b"".join(b"%b: %b\r\n" % pair for pair in answer.raw_headers)
    line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}".encode()
    return b"%b\r\n%b\r\n%b" % (line, headers, bytes(answer.body))
