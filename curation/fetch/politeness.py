"""How often, and how soon again, a host is asked."""

import asyncio
from collections import deque
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType

from infra.digests import digest

MAX_DIGITS = 9  # of Retry-After: thirty years; more is no answer


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110, 10.2.3): a number or an HTTP date.

    now: with a time zone. None where the header is missing or makes no sense; never negative.
    """
    text = (value or "").strip()
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit():
        return None if len(digits) > MAX_DIGITS else max(0.0, float(text))
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - now).total_seconds()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0.0, seconds) if seconds < 10**MAX_DIGITS else None


def backoff(attempt: int, base: float, cap: float, key: str) -> float:
    """Seconds before try `attempt` + 1 (attempt from 0): exponential with full jitter.

    Uniform in [0, min(cap, base 2^attempt)); the same for the same key and attempt. After
    Brooker 2015, "Exponential Backoff And Jitter".
    """
    fraction = (int(digest([key, attempt]), 16) >> 11) / 2**53
    return fraction * min(cap, base * 2.0 ** min(attempt, 63))


class _Host:
    """What one host's requests wait for."""

    __slots__ = ("active", "interval", "next_start", "timer", "waiting")

    def __init__(self) -> None:
        self.active = 0
        self.interval = 0.0  # seconds between two starts
        self.next_start = 0.0  # on the loop's clock
        self.waiting: deque[asyncio.Future[None]] = deque()
        self.timer: asyncio.TimerHandle | None = None


class HostLimits:
    """At most `per_host` requests at once to a host, and at most `rate` starts a second (0: any).

    For one event loop. A host is forgotten once nothing runs, waits or holds it back.
    """

    def __init__(self, per_host: int, rate: float = 0.0) -> None:
        self._per_host = per_host
        self._interval = 1 / rate if rate else 0.0
        self._hosts: dict[str, _Host] = {}

    def __len__(self) -> int:
        """Hosts that something is known of."""
        return len(self._hosts)

    def turn(self, host: str, interval: float = 0.0) -> "_Turn":
        """`async with limits.turn(host):` around a request; first come, first served.

        interval: seconds between two starts that this host asks for (crawl-delay); the longer of
        it and what `rate` gives holds.
        """
        return _Turn(self, host, max(interval, self._interval))

    def wait(self, host: str) -> float:
        """Seconds until this host may be asked again, were nobody else waiting."""
        state = self._hosts.get(host)
        if state is None:
            return 0.0
        return max(0.0, state.next_start - asyncio.get_running_loop().time())

    def cool_down(self, host: str, seconds: float) -> None:
        """No request to this host starts in the next `seconds`; the longest such wish holds."""
        state = self._hosts.setdefault(host, _Host())
        until = asyncio.get_running_loop().time() + seconds
        state.next_start = max(state.next_start, until)
        self._pump(host, state)

    async def acquire(self, host: str, interval: float) -> None:
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _Host()
        state.interval = interval
        if not state.waiting and state.active < self._per_host:
            now = asyncio.get_running_loop().time()
            if now >= state.next_start:
                state.active += 1
                state.next_start = now + interval
                return
        start: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        state.waiting.append(start)
        self._pump(host, state)
        try:
            await start
        except asyncio.CancelledError:
            if not start.cancelled():  # it was this one's turn just now
                self.release(host)
            raise

    def release(self, host: str) -> None:
        state = self._hosts[host]
        state.active -= 1
        if state.waiting or not state.active:
            self._pump(host, state)

    def _pump(self, host: str, state: _Host) -> None:
        """Start what may start; come back when the next may, or forget the host."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while state.waiting and state.waiting[0].done():  # given up
            state.waiting.popleft()
        while state.waiting and state.active < self._per_host and now >= state.next_start:
            start = state.waiting.popleft()
            if not start.done():
                state.active += 1
                state.next_start = now + state.interval
                start.set_result(None)
        idle = not state.active and not state.waiting
        if now < state.next_start:
            if state.timer is None and (idle or state.waiting):
                state.timer = loop.call_at(state.next_start, self._woken, host, state)
        elif idle:
            if state.timer is not None:
                state.timer.cancel()
            del self._hosts[host]

    def _woken(self, host: str, state: _Host) -> None:
        state.timer = None
        self._pump(host, state)


class _Turn:
    """One request's turn at its host."""

    __slots__ = ("_host", "_interval", "_limits")

    def __init__(self, limits: HostLimits, host: str, interval: float) -> None:
        self._limits = limits
        self._host = host
        self._interval = interval

    async def __aenter__(self) -> None:
        await self._limits.acquire(self._host, self._interval)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._limits.release(self._host)
