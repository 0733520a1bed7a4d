import asyncio
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch.politeness import HostLimits, backoff, retry_after

NOW = datetime(1994, 11, 6, 8, 49, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("-5", 0),
        ("999999999", 999999999),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 30),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 30),
        ("Sun Nov  6 08:49:37 1994", 30),
        ("Sun, 06 Nov 1994 08:48:37 GMT", 0),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 30),
        (None, None),
        ("", None),
        ("-", None),
        ("--5", None),
        ("soon", None),
        ("1.5", None),
        ("1e9", None),
        ("٣", None),
        ("1" * 400, None),
        ("Sun, 06 Nov 9999 08:49:37 GMT", None),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 99:49:37 GMT", None),
        ("0 0 0 0 0", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text() | st.text("0123456789 :-+,SunNovGMT"))
def test_any_retry_after_is_read(value: str) -> None:
    seconds = retry_after(value, NOW)
    assert seconds is None or 0 <= seconds < 10**9


@given(st.integers(0, 10**8))
def test_a_date_and_its_seconds_say_the_same(seconds: int) -> None:
    moment = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert retry_after(moment, NOW) == retry_after(str(seconds), NOW) == seconds


@given(st.integers(0, 10**6), st.floats(0.01, 10), st.floats(0.01, 1000), st.text())
def test_backoff_stays_below_its_ceiling_and_is_the_same_again(
    attempt: int, base: float, cap: float, key: str
) -> None:
    pause = backoff(attempt, base, cap, key)
    assert 0 <= pause < cap
    assert pause <= base * 2.0 ** min(attempt, 99)
    assert pause == backoff(attempt, base, cap, key)


def test_backoff_is_spread_evenly_and_differs_between_attempts() -> None:
    pauses = [backoff(3, 1.0, 60.0, f"http://example.com/{number}") for number in range(2000)]
    assert len(set(pauses)) == 2000
    assert sum(pauses) / 2000 == pytest.approx(4.0, abs=0.2)
    for quarter in range(4):
        share = sum(2 * quarter <= pause < 2 * quarter + 2 for pause in pauses) / 2000
        assert share == pytest.approx(0.25, abs=0.04)
    assert backoff(10, 1.0, 60.0, "a") / 60 != backoff(11, 1.0, 60.0, "a") / 60


class Timeline:
    """Runs requests against limits on a loop whose clock jumps to the next timer: no waiting."""

    def __init__(self, limits: HostLimits) -> None:
        self.limits = limits
        self.starts: list[tuple[str, float]] = []
        self.active: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def request(self, host: str, seconds: float = 1.0, interval: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        async with self.limits.turn(host, interval):
            self.starts.append((host, loop.time()))
            self.active[host] = self.active.get(host, 0) + 1
            self.most[host] = max(self.most.get(host, 0), self.active[host])
            try:
                await asyncio.sleep(seconds)
            finally:
                self.active[host] -= 1

    def times(self, host: str = "a") -> list[float]:
        return [round(time, 6) for name, time in self.starts if name == host]


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock starts at 0 and jumps to the next timer when nothing else is to do."""

    _now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        if not self._ready:  # type: ignore[attr-defined]
            due = min((timer.when() for timer in timers if not timer.cancelled()), default=0.0)
            self._now = max(self._now, due)
        super()._run_once()  # type: ignore[misc]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(test())


def test_so_many_at_once_for_each_host() -> None:
    line = Timeline(HostLimits(2))

    async def test() -> None:
        await asyncio.gather(*(line.request(host) for host in "aaaaabbb"))
        assert line.times("a") == [0, 0, 1, 1, 2]
        assert line.times("b") == [0, 0, 1]
        assert line.most == {"a": 2, "b": 2}
        assert len(line.limits) == 0

    run(test)


def test_starts_keep_their_distance() -> None:
    line = Timeline(HostLimits(8, rate=4))

    async def test() -> None:
        await asyncio.gather(*(line.request("a", 0.1) for _ in range(5)))
        assert line.times() == [0, 0.25, 0.5, 0.75, 1.0]
        await line.request("a", 0.0)
        assert line.times()[-1] == 1.25
        assert len(line.limits) == 1  # still to keep its distance from the last
        await asyncio.sleep(0.3)
        assert len(line.limits) == 0

    run(test)


def test_a_crawl_delay_is_kept() -> None:
    line = Timeline(HostLimits(8, rate=4))

    async def test() -> None:
        await asyncio.gather(*(line.request("a", 0.1, interval=2.0) for _ in range(3)))
        assert line.times() == [0, 2, 4]

    run(test)


def test_nobody_asks_while_a_host_cools_down() -> None:
    line = Timeline(HostLimits(2))

    async def test() -> None:
        line.limits.cool_down("a", 5)
        line.limits.cool_down("a", 3)  # the longer one holds
        assert line.limits.wait("a") == 5
        assert line.limits.wait("b") == 0
        await asyncio.gather(*(line.request(host) for host in "aaab"))
        assert line.times("a") == [5, 5, 6]
        assert line.times("b") == [0]
        assert len(line.limits) == 0

    run(test)


def test_a_cool_down_while_others_wait_holds_them_back() -> None:
    line = Timeline(HostLimits(1))

    async def test() -> None:
        requests = asyncio.gather(*(line.request("a") for _ in range(3)))
        await asyncio.sleep(0.5)
        line.limits.cool_down("a", 10)
        await requests
        assert line.times() == [0, 10.5, 11.5]
        line.limits.cool_down("c", 1)
        await asyncio.sleep(2)
        assert len(line.limits) == 0

    run(test)


def test_first_come_first_served() -> None:
    limits = HostLimits(1)
    order: list[int] = []

    async def one(number: int) -> None:
        async with limits.turn("a"):
            order.append(number)
            await asyncio.sleep(0.1)

    async def test() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))
        assert order == list(range(20))

    run(test)


def test_a_turn_that_comes_as_its_owner_gives_up_goes_back() -> None:
    limits = HostLimits(1)

    async def test() -> None:
        first, second = limits.turn("a"), limits.turn("a")
        await first.__aenter__()
        waiting = asyncio.create_task(second.__aenter__())
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() and len(limits) == 0

    run(test)


def test_a_timer_left_over_does_not_forget_a_host_in_use() -> None:
    line = Timeline(HostLimits(1, rate=1))

    async def test() -> None:
        loop = asyncio.get_running_loop()
        first = line.limits.turn("a")
        await first.__aenter__()
        waiting = asyncio.create_task(line.request("a"))
        await asyncio.sleep(0)
        waiting.cancel()
        assert isinstance(loop, JumpingLoop)
        loop._now += 5  # busy for so long that the timer is overdue
        await first.__aexit__(None, None, None)
        await line.request("a", 3)
        await asyncio.sleep(5)
        assert len(line.limits) == 0

    run(test)


def test_nobody_overtakes_when_the_loop_was_busy() -> None:
    limits = HostLimits(1)
    order: list[str] = []

    async def one(name: str) -> None:
        async with limits.turn("a"):
            order.append(name)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, JumpingLoop)
        limits.cool_down("a", 5)
        first = asyncio.create_task(one("first"))
        await asyncio.sleep(0)
        loop._now += 6
        await asyncio.gather(first, one("second"))
        assert order == ["first", "second"]

    run(test)


def test_an_error_within_gives_the_turn_back() -> None:
    limits = HostLimits(1)

    async def test() -> None:
        for _ in range(3):
            with pytest.raises(ValueError, match="x"):
                async with limits.turn("a"):
                    raise ValueError("x")
        assert len(limits) == 0

    run(test)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.floats(0, 3),  # when it comes
            st.floats(0, 2),  # how long it takes
            st.none() | st.floats(0, 3),  # when it gives up
        ),
        max_size=20,
    ),
    st.integers(1, 3),
    st.sampled_from([0.0, 2.0]),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3), st.floats(0, 2)), max_size=3),
)
def test_limits_hold_whoever_comes_and_gives_up(
    requests: list[tuple[str, float, float, float | None]],
    per_host: int,
    rate: float,
    pauses: list[tuple[str, float, float]],
) -> None:
    line = Timeline(HostLimits(per_host, rate))
    pauses_seen: list[tuple[str, float, float]] = []

    async def one(host: str, after: float, seconds: float, patience: float | None) -> None:
        await asyncio.sleep(after)
        try:
            async with asyncio.timeout(patience):
                await line.request(host, seconds)
        except TimeoutError:
            pass

    async def pause(host: str, after: float, seconds: float) -> None:
        await asyncio.sleep(after)
        now = asyncio.get_running_loop().time()
        line.limits.cool_down(host, seconds)
        pauses_seen.append((host, now, now + seconds))

    async def test() -> None:
        work = [one(*request) for request in requests] + [pause(*given) for given in pauses]
        await asyncio.gather(*work)
        await asyncio.sleep(10)
        assert len(line.limits) == 0
        assert not any(line.active.values())

    run(test)
    assert all(most <= per_host for most in line.most.values())
    for host in "ab":
        times = [time for name, time in line.starts if name == host]
        if rate:
            gaps = [after - before for before, after in pairwise(times)]
            assert all(gap >= 1 / rate - 1e-6 for gap in gaps)
        for name, first, last in pauses_seen:
            assert name != host or not any(first + 1e-9 < time < last - 1e-6 for time in times)
    patient = sum(patience is None for *_, patience in requests)
    assert len(line.starts) >= patient


def test_a_turn_costs_little_and_forgets_its_host() -> None:
    async def test() -> None:
        limits = HostLimits(8, rate=1e9)
        start = time.perf_counter()
        for number in range(20_000):
            async with limits.turn(f"{number}.example"):
                pass
        assert (time.perf_counter() - start) / 20_000 < 100e-6  # some 3 in fact
        await asyncio.sleep(0.01)
        assert len(limits) == 0

    asyncio.run(test())
