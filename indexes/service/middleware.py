"""What every request passes through: figures and headers, the key, the limits."""

import asyncio
import base64
import binascii
import hmac
import logging
import time
import traceback
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from indexes.service.errors import refusal
from indexes.service.metrics import Metrics
from indexes.service.settings import ServiceSettings

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
OPEN = ("/healthz",)  # needs no key and waits for nobody
LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))
REFUSED = "refused"  # the route of requests that reached none

log = logging.getLogger("sluice.service")


class Observed:
    """Outermost: counts, times, adds headers; a fault of ours is told as 500, without a trace.

    The log gets the place of a fault and its kind, not its words: these may hold what was asked.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 0, time.perf_counter()

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                ours = [pair for pair in RAW_HEADERS if pair[0] not in given]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception as error:
            _log_fault(error)
            if not status:
                answer = refusal(500, "this service failed at the request", "its log says where")
                await answer(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", REFUSED)
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)


def _log_fault(error: BaseException) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    way = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames[:-6:-1])
    log.error("%s at %s", type(error).__name__, way)


class Guard:
    """Lets in who shows the key; without one, only what names this machine as its host.

    The latter keeps out web pages whose name was made to point at this machine. The page of the
    explorer and its files hold no data and are open to all.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        key = settings.api_key
        self._key = None if key is None else key.get_secret_value().encode()
        self._origins = frozenset(settings.allow_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self._key is None:
            allowed, status = self._is_local(headers), 403
            told = "this service answers this machine alone", "ask it by localhost"
        else:
            allowed, status = _shows(self._key, headers), 401
            told = "the API key is missing or wrong", "send Authorization: Bearer KEY"
        answer = self.app if allowed else refusal(status, *told)
        await answer(scope, receive, send)

    def _is_local(self, headers: Headers) -> bool:
        if headers.get("sec-fetch-site") == "cross-site":
            return headers.get("origin") in self._origins
        host = headers.get("host", "").rpartition("@")[2]
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        return name in LOCAL


def _is_open(path: str) -> bool:
    return path == "/" or path in OPEN or path.startswith("/static/")


def _shows(key: bytes, headers: Headers) -> bool:
    """Whether a request shows the key: as bearer, in X-API-Key, or as the password of Basic."""
    given = [headers.get("x-api-key", "")]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given.append(value.strip())
    if scheme.lower() == "basic":
        try:
            given.append(base64.b64decode(value, validate=True).decode().partition(":")[2])
        except (binascii.Error, ValueError):
            return False
    return any(hmac.compare_digest(each.encode(), key) for each in given)


class Limits:
    """At most `in_flight` requests are worked on and `queue` wait; each has a deadline.

    A body is not read before its turn, and not beyond `max_body`.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self.app, self._settings, self._metrics = app, settings, metrics
        self._turn = asyncio.Semaphore(settings.in_flight)
        self._most = settings.in_flight + settings.queue
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self._settings.max_body:
            await self._too_large()(scope, receive, send)
            return
        if self._inside >= self._most:
            await refusal(503, "too many requests at once", "ask again in a moment")(
                scope, receive, send
            )
            return
        self._inside += 1
        try:
            await self._within_deadline(scope, receive, send)
        finally:
            self._inside -= 1

    async def _within_deadline(self, scope: Scope, receive: Receive, send: Send) -> None:
        saving = scope["path"].endswith("/subsets")
        seconds = self._settings.save_deadline if saving else self._settings.deadline
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(seconds):
                with self._metrics.waiting.track_inprogress():
                    await self._turn.acquire()
                try:
                    with self._metrics.in_flight.track_inprogress():
                        await self.app(scope, self._counted(receive), sent)
                finally:
                    self._turn.release()
        except TimeoutError:
            if not begun:
                told = f"there was no answer within {seconds:g} s", "ask for less, or again later"
                await refusal(503, *told)(scope, receive, send)

    def _counted(self, receive: Receive) -> Receive:
        """As `receive`, up to `max_body` bytes."""
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._settings.max_body:
                raise HTTPException(413, f"the request is larger than {self._settings.max_body} B")
            return message

        return counted

    def _too_large(self) -> ASGIApp:
        return refusal(
            413,
            f"the request is larger than {self._settings.max_body} bytes, or its length is none",
            "send a smaller picture, or fewer uids",
        )
