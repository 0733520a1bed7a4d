"""A proxy before an HTTP server that spoils some of its answers: real sockets, real clients.

    with Proxy(s3.endpoint) as proxy, environment(AWS_ENDPOINT_URL=proxy.endpoint):
        with proxy.spoilt({"busy": 0.1, "lost": 0.1}, seed=1): ...

Which requests are spoilt follows from the seed, the request, and how often it came, whatever the
order of the others. The faults:

    busy    503 SlowDown, and the server never hears of it
    error   500 InternalError, likewise
    torn    the connection ends in the middle of the answer's body
    cut     the connection ends in the middle of the request's body
    lost    the request is done, and the connection ends before the answer
    slow    the answer comes in drops
    stale   a list of files as it was when it was last asked for, or empty
"""

import contextlib
import hashlib
import http.client
import os
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("busy", "error", "torn", "cut", "lost", "slow", "stale")
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>spoilt</Message></Error>"
_NOTHING = (
    b"<?xml version='1.0'?><ListBucketResult><Name>b</Name><KeyCount>0</KeyCount>"
    b"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated></ListBucketResult>"
)


@dataclass
class Seen:
    """A request, and how many bytes of body went each way. fault: "" where it was not spoilt."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    sent: int
    fault: str
    answered: int = 0


class Proxy:
    """The proxy; `seen` holds the requests since the last `spoilt` began."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.rates: dict[str, float] = {}
        self.seed = 0
        self.drop: frozenset[str] = frozenset()
        self.seen: list[Seen] = []
        self.lists: dict[str, bytes] = {}
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.asking: dict[object, socket.socket] = {}  # whose requests are not answered yet
        self.down_until = 0.0

    @contextmanager
    def spoilt(
        self, rates: Mapping[str, float] | None = None, seed: int = 0, drop: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """rates: how often each fault comes where it can, 0 to 1. drop: headers left out."""
        self.rates, self.seed, self.drop = dict(rates or {}), seed, frozenset(drop)
        self.seen, self.lists, self._times = [], {}, Counter()
        try:
            yield
        finally:
            self.rates, self.drop = {}, frozenset()

    def __enter__(self) -> "Proxy":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # it hung up
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sever(self, seconds: float, patience: float = 0.0) -> int:
        """End the connections whose requests wait for an answer, and all new ones for a while.

        patience: seconds to wait for such a request. Returns how many that hits; without one
        nothing happens.
        """
        deadline = time.monotonic() + patience
        while not self.asking:
            if time.monotonic() > deadline:
                return 0
            time.sleep(0.001)
        self.down_until = time.monotonic() + seconds
        hit = list(self.asking.values())
        for connection in hit:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return len(hit)

    def faults(self) -> Counter[str]:
        """How often each fault came."""
        return Counter(seen.fault for seen in self.seen if seen.fault)

    def choose(self, method: str, path: str, query: str, body: int) -> str:
        """The fault of the next such request, or ""."""
        asked = "&".join(each for each in query.split("&") if "uploadid" not in each.lower())
        name = f"{method} {path}?{asked}"
        with self._lock:
            self._times[name] += 1
            count = self._times[name]
        drawn = hashlib.sha256(f"{self.seed} {count} {name}".encode()).digest()
        left = int.from_bytes(drawn[:8], "big") / 2**64
        listing = method == "GET" and "list-type" in query
        able = {"torn": method == "GET", "cut": body > 1, "stale": listing}
        for fault, rate in self.rates.items():
            if able.get(fault, True):
                left -= rate
                if left < 0:
                    return fault
        return ""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 2**16  # head and body go together

        def log_message(self, *_: Any) -> None:
            pass

        def handle_expect_100(self) -> bool:
            going_on = super().handle_expect_100()
            self.wfile.flush()
            return going_on

        def _reset(self) -> None:
            """End the connection as a lost network does: no goodbye."""
            self.close_connection = True
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            # The buffers hold copies of the socket, which has to be closed for good.
            self.connection.shutdown(socket.SHUT_RD)
            self.wfile.flush = lambda: None  # type: ignore[method-assign]
            os.close(self.connection.detach())

        def _handle(self) -> None:
            if time.monotonic() < proxy.down_until:
                self._reset()
                return
            proxy.asking[self] = self.connection
            try:
                self._take()
            except OSError:  # severed
                self.close_connection = True
            finally:
                proxy.asking.pop(self, None)

        def _take(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            fault = proxy.choose(self.command, path, query, length)
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._seen = Seen(self.command, path, query, headers, length, fault)
            proxy.seen.append(self._seen)
            self._serve(fault, query, length)

        def _serve(self, fault: str, query: str, length: int) -> None:
            if fault == "cut":
                self.rfile.read(length // 2)
                self._reset()
                return
            body = self.rfile.read(length)
            if fault in ("busy", "error"):
                status, code = (503, "SlowDown") if fault == "busy" else (500, "InternalError")
                self._answer(status, {}, _ERROR.format(code).encode())
                return
            if fault == "stale":
                kind = {"Content-Type": "application/xml"}
                self._answer(200, kind, proxy.lists.get(self.path, _NOTHING))
                return
            status, headers, data = self._forward(body)
            if "list-type" in query and status == 200:
                proxy.lists[self.path] = data
            if fault == "lost":
                self._reset()
                return
            self._answer(status, headers, data, fault)

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            unsent = _HOP | proxy.drop
            headers = {k: v for k, v in self.headers.items() if k.lower() not in unsent}
            server = http.client.HTTPConnection(proxy.upstream, timeout=60)
            try:
                server.request(self.command, self.path, body or None, headers)
                answer = server.getresponse()
                data = answer.read()
                kept = {k: v for k, v in answer.getheaders() if k.lower() not in _HOP}
                return answer.status, kept, data
            finally:
                server.close()

        def _answer(
            self, status: int, headers: Mapping[str, str], data: bytes, fault: str = ""
        ) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                self.wfile.flush()
                return
            if fault == "torn":
                data = data[: len(data) // 2]
            self._seen.answered = len(data)
            if fault == "slow":
                for start in range(0, len(data), max(len(data) // 5, 1)):
                    self.wfile.write(data[start : start + max(len(data) // 5, 1)])
                    self.wfile.flush()
                    time.sleep(0.01)
            else:
                self.wfile.write(data)
            self.wfile.flush()
            if fault == "torn":
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

    return Handler
