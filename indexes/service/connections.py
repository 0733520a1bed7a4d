"""Connections: how many there are at once, and how long a client may take to say what it asks."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from indexes.service.errors import refusal
from indexes.service.middleware import HEADERS

LINGER = 1.0  # seconds a refused client has to hear why: one that is cut off while it sends may not
LINGERING = 256  # refused clients that hear why at a time; more are cut off


@dataclass
class Door:
    """most: connections at once. patience: seconds for the head of a request.

    on_refused: called for each connection beyond. refused: how many of these hear why just now.
    """

    most: int
    patience: float
    on_refused: Callable[[], None]
    refused: int = 0


class Connection(H11Protocol):
    """As uvicorn has it, within the limits of a door.

    uvicorn's own `limit_concurrency` would refuse requests of connections that exist, and count
    nothing that sends no request; and it waits for the head of a request for ever.
    """

    def __init__(self, *given: Any, door: Door, **named: Any) -> None:
        super().__init__(*given, **named)
        self._door = door
        self._head: asyncio.TimerHandle | None = None  # runs while a head is waited for

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self._door.most:
            refused = _Refused(self._door)
            transport.set_protocol(refused)
            refused.connection_made(transport)
            return
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

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
        transport.write(_refusal())
        transport.write_eof()
        asyncio.get_running_loop().call_later(LINGER, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.refused -= 1


def _refusal() -> bytes:
    """An answer to any request, which may not even have come."""
    more = {"Connection": "close", **HEADERS}
    answer = refusal(503, "too many connections at once", "ask again in a moment", more)
    headers = b"".join(b"%b: %b\r\n" % pair for pair in answer.raw_headers)
    return b"HTTP/1.1 503 Service Unavailable\r\n%b\r\n%b" % (headers, bytes(answer.body))
