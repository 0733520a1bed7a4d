"""One HTTP request: libcurl speaks the protocol, this says what is asked for and what came.

Redirects are not followed here, because every target must be resolved, checked and asked for
its consent again. The connection goes to an address of `addresses`: libcurl is told them, and
each socket is checked once more when it is opened.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import certifi
import pycurl
from pycurl.async_multi import AsyncCurlMulti

from curation import outcomes
from curation.fetch.addresses import Allowed
from curation.fetch.settings import FetchSettings
from curation.fetch.urls import Target

HEADER_LIMIT = 64 * 2**10  # bytes of all header lines; more is no answer
DRAINED = 64 * 2**10  # bytes read of a body nobody wants, so that its connection can be kept
IDLE = 256  # connections kept open for later

_TLS = frozenset(
    getattr(pycurl, name)
    for name in (
        "E_SSL_CONNECT_ERROR", "E_PEER_FAILED_VERIFICATION", "E_SSL_CERTPROBLEM", "E_SSL_CIPHER",
        "E_SSL_CACERT", "E_SSL_CACERT_BADFILE", "E_SSL_ISSUER_ERROR", "E_SSL_CRL_BADFILE",
        "E_SSL_INVALIDCERTSTATUS", "E_SSL_PINNEDPUBKEYNOTMATCH", "E_SSL_SHUTDOWN_FAILED",
    )
    if hasattr(pycurl, name)
)  # fmt: skip
_CONNECT = frozenset(
    (pycurl.E_COULDNT_CONNECT, pycurl.E_GOT_NOTHING, pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR)
)


@dataclass(slots=True)
class Response:
    """What came: an HTTP status and a body, or the outcome that stands for their absence.

    headers: the lines of the last answer as they came. body: of status 200 alone.
    """

    status: int | None = None
    outcome: str | None = None
    headers: list[bytes] = field(default_factory=list[bytes])
    body: bytes = b""

    def values(self, name: str) -> list[str]:
        """The values of all headers of that name (in lower case), in their order."""
        start = name.encode() + b":"
        size = len(start)
        return [_text(line[size:]) for line in self.headers if line[:size].lower() == start]

    def header(self, name: str) -> str | None:
        """The value of the first header of that name (in lower case)."""
        return next(iter(self.values(name)), None)


def _text(value: bytes) -> str:
    """Header values are UTF-8, if they are not ASCII; Latin-1 says something of all others."""
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


Refuse = Callable[[Response], str | None]


class _Exchange:
    """The callbacks of one request: collect, count, and stop as soon as it is known how it ends."""

    def __init__(self, limit: int, refuse: Refuse | None, cut: bool) -> None:
        self.response = Response()
        self.begun: asyncio.TimerHandle | None = None
        self._limit, self._refuse, self._cut = limit, refuse, cut
        self._pieces: list[bytes] = []
        self._bytes = self._header_bytes = 0

    def header(self, line: bytes) -> int | None:
        self._header_bytes += len(line)
        if self._header_bytes > HEADER_LIMIT:
            self.response.outcome = outcomes.BAD_RESPONSE
            return -1
        if line[:5] == b"HTTP/":  # also after a 1xx
            self.response.headers.clear()
            self.response.status = _status(line)
            if self.begun is not None:
                self.begun.cancel()
                self.begun = None
        elif len(line) > 2:
            self.response.headers.append(line)
        elif self.response.status == 200:
            return self._judge()
        return None

    def _judge(self) -> int | None:
        """At the end of the header: is the body wanted?"""
        response = self.response
        if self._refuse and (outcome := self._refuse(response)):
            response.outcome = outcome
            return -1
        length = response.header("content-length")
        if not self._cut and length and length.isdecimal() and int(length) > self._limit:
            response.outcome = outcomes.TOO_LARGE
            return -1
        return None

    def write(self, data: bytes) -> int | None:
        self._bytes += len(data)
        if self.response.status != 200:
            return None if self._bytes <= DRAINED else -1
        if self._bytes > self._limit and not self._cut:
            self.response.outcome = outcomes.TOO_LARGE
            self._pieces.clear()
            return -1
        self._pieces.append(data)
        return None if self._bytes <= self._limit else -1

    def finish(self, error: int | None) -> Response:
        """The response, given libcurl's error code."""
        response = self.response
        stopped = error == pycurl.E_WRITE_ERROR  # by `write`, which then has what it wants
        failed = error is not None and not stopped and response.status in (None, 200)
        if failed and response.outcome is None:
            response.outcome = _outcome(error, response.status is not None)
        if response.outcome is None and response.status is None:
            response.outcome = outcomes.BAD_RESPONSE
        if response.outcome is None:
            response.body = b"".join(self._pieces)
        return response


def _status(line: bytes) -> int | None:
    """The three digits of a status line; what has others is no answer (RFC 9112, section 4)."""
    words = line.split(None, 2)
    return int(words[1]) if len(words) > 1 and re.fullmatch(rb"[0-9]{3}", words[1]) else None


def _outcome(error: int | None, answered: bool) -> str:
    if error == pycurl.E_OPERATION_TIMEDOUT:
        return outcomes.TIMEOUT
    if error in _TLS:
        return outcomes.TLS
    if error == pycurl.E_PARTIAL_FILE or (answered and error == pycurl.E_RECV_ERROR):
        return outcomes.TRUNCATED
    if error in (pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY):
        return outcomes.DNS
    return outcomes.CONNECT if error in _CONNECT else outcomes.BAD_RESPONSE


class Client:
    """The connections of one worker; use it from one event loop."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self._allowed = Allowed(settings.allow_networks)
        self._multi = AsyncCurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max(settings.connections, IDLE))
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_NOTHING)
        self._free: list[_Handle] = []
        self._options: list[tuple[int, Any]] = [
            (pycurl.NOSIGNAL, 1),
            (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
            (pycurl.PROXY, settings.proxy or ""),  # never the environment's
            (pycurl.NETRC, pycurl.NETRC_IGNORED),
            (pycurl.USERAGENT, settings.user_agent),
            # Not asked for; but what comes compressed all the same is unpacked piece by piece.
            (pycurl.ACCEPT_ENCODING, "gzip, deflate"),
            (pycurl.HTTPHEADER, ["Accept: image/*,*/*;q=0.8", "Accept-Encoding: identity"]),
            (pycurl.CONNECTTIMEOUT_MS, round(settings.connect_timeout * 1000)),
            (pycurl.TIMEOUT_MS, round(settings.timeout * 1000)),
            (pycurl.CAINFO, settings.ca_file or _authorities()),
        ]

    async def get(
        self,
        target: Target,
        addresses: Sequence[str],
        limit: int,
        refuse: Refuse | None = None,
        cut: bool = False,
    ) -> Response:
        """Ask for `target` at one of `addresses`; never raises what a server can bring about.

        limit: bytes of the body, unpacked; more is TOO_LARGE or, where it may be `cut`, left.
        refuse: of what the header says, the outcome to stop with.
        """
        exchange, handle = _Exchange(limit, refuse, cut), self._handle()
        curl = handle.curl
        curl.setopt(pycurl.URL, target.url)
        curl.setopt(pycurl.HEADERFUNCTION, exchange.header)
        curl.setopt(pycurl.WRITEFUNCTION, exchange.write)
        if self._settings.proxy is None and target.host not in addresses:
            curl.setopt(pycurl.RESOLVE, [_resolved(target, addresses)])
        error = await self._perform(handle, exchange)
        response = exchange.finish(error)
        if handle.refused and error == pycurl.E_COULDNT_CONNECT:
            response.outcome = outcomes.ADDRESS_REFUSED
        return response

    async def _perform(self, handle: "_Handle", exchange: _Exchange) -> int | None:
        """libcurl's error code, None for none; a handle that was broken off is not used again."""
        future = self._multi.add_handle(handle.curl)
        patience = self._settings.connect_timeout + self._settings.first_byte_timeout
        timer = asyncio.get_running_loop().call_later(patience, future.cancel)
        exchange.begun = timer
        error: int | None = None
        try:
            await future
        except pycurl.error as raised:
            error = int(raised.args[0])
        except asyncio.CancelledError:
            if asyncio.get_running_loop().time() < timer.when():
                raise  # somebody else's wish
            return pycurl.E_OPERATION_TIMEDOUT
        finally:
            timer.cancel()
        self._free.append(handle)
        return error

    def _handle(self) -> "_Handle":
        handle = self._free.pop() if self._free else _Handle(self._allowed, self._options)
        handle.refused = False
        return handle

    async def close(self) -> None:
        await self._multi.aclose()


def _authorities() -> str:
    """The certificate authorities of the system, else those of certifi."""
    return ssl.get_default_verify_paths().cafile or certifi.where()


def _resolved(target: Target, addresses: Sequence[str]) -> str:
    written = (f"[{address}]" if ":" in address else address for address in addresses)
    return f"+{target.host.strip('[]')}:{target.port}:{','.join(written)}"


class _Handle:
    """One of libcurl's handles: what a request needs that the next one may use again."""

    def __init__(self, allowed: Allowed, options: Sequence[tuple[int, Any]]) -> None:
        self.refused = False  # whether an address was, of the request under way
        self._allowed = allowed
        self.curl = pycurl.Curl()
        for option, value in options:
            self.curl.setopt(option, value)
        if (pycurl.PROXY, "") in options:
            self.curl.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)

    def _open_socket(self, purpose: int, address: Any) -> Any:
        """libcurl asks this for the socket to an address: the last look before a connection."""
        family, kind, protocol, place = address
        if self._allowed.permits(str(place[0])):
            return socket.socket(family, kind, protocol)
        self.refused = True
        return pycurl.SOCKET_BAD
