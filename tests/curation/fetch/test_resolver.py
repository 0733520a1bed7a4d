"""Names to addresses, against real DNS servers on loopback."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from curation import outcomes
from curation.fetch import resolver as module
from curation.fetch.addresses import Allowed
from curation.fetch.resolver import Answer, Resolver
from tests.curation.fetch.names import SERVFAIL, NameServer

LOOPBACK = Allowed(["127.0.0.0/8"])


def ask(made: Callable[[], Resolver], body: Callable[[Resolver], Awaitable[None]]) -> None:
    async def run() -> None:
        resolver = made()
        try:
            await body(resolver)
        finally:
            await resolver.close()

    asyncio.run(run())


def test_each_host_is_asked_for_once() -> None:
    with NameServer({"a.example": "127.0.0.1"}) as names:

        async def body(resolver: Resolver) -> None:
            answers = await asyncio.gather(*(resolver.resolve("a.example") for _ in range(50)))
            assert set(answers) == {Answer(("127.0.0.1",))}
            assert await resolver.resolve("a.example") == Answer(("127.0.0.1",))

        ask(lambda: Resolver(LOOPBACK, [names.address]), body)
        assert names.asked == {"a.example": 1}


def test_failures_are_remembered_until_forgotten() -> None:
    with NameServer({"broken.example": SERVFAIL}) as names:

        async def body(resolver: Resolver) -> None:
            for host in ("gone.example", "broken.example"):
                assert await resolver.resolve(host) == Answer(outcome=outcomes.DNS)
            before = dict(names.asked)
            assert await resolver.resolve("gone.example") == Answer(outcome=outcomes.DNS)
            assert names.asked == before
            names.names["gone.example"] = "127.0.0.2"
            resolver.forget_failures()
            assert await resolver.resolve("gone.example") == Answer(("127.0.0.2",))

        ask(lambda: Resolver(LOOPBACK, [names.address]), body)


def test_another_resolver_answers_where_one_is_silent() -> None:
    with (
        NameServer({}, silent=True) as silent,
        NameServer({f"{n}.example": "127.0.0.1" for n in range(8)}) as good,
    ):

        async def body(resolver: Resolver) -> None:
            start = time.monotonic()
            answers = await asyncio.gather(*(resolver.resolve(f"{n}.example") for n in range(8)))
            assert all(answer.addresses == ("127.0.0.1",) for answer in answers)
            assert time.monotonic() - start < 3 * module.QUESTION_TIMEOUT

        ask(lambda: Resolver(LOOPBACK, [silent.address, good.address]), body)


def test_a_name_that_points_inside_is_refused() -> None:
    inside = {"metadata.example": "169.254.169.254", "home.example": "192.168.0.1"}
    with NameServer({**inside, "here.example": "127.0.0.1"}) as names:

        async def body(resolver: Resolver) -> None:
            for host in (*inside, "here.example"):
                assert await resolver.resolve(host) == Answer(outcome=outcomes.ADDRESS_REFUSED)

        ask(lambda: Resolver(Allowed([]), [names.address]), body)


def test_the_systems_resolver_and_addresses_as_they_are_written() -> None:
    async def body(resolver: Resolver) -> None:
        assert "127.0.0.1" in (await resolver.resolve("localhost")).addresses
        assert await resolver.resolve("127.0.0.1") == Answer(("127.0.0.1",))
        assert await resolver.resolve("10.0.0.1") == Answer(outcome=outcomes.ADDRESS_REFUSED)
        assert (await resolver.resolve("no such host.invalid")).outcome == outcomes.DNS
        assert (await resolver.resolve("x" * 80 + ".example")).outcome == outcomes.DNS

    ask(lambda: Resolver(LOOPBACK), body)
