import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from curation.fetch import robots
from curation.fetch.robots import UNKNOWN, RobotsCache, Rules, parse, policy_of
from curation.fetch.urls import Target
from curation.fetch.urls import parse as target_of

AGENT = "sluice"


def target(path: str = "/", host: str = "example.com") -> Target:
    found = target_of(f"https://{host}{path}")
    assert found is not None
    return found


def permitted(text: str, path: str) -> bool:
    return parse(text.encode(), AGENT).permits(target(path))


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("", "/a", True),
        ("User-agent: *\nDisallow:", "/a", True),
        ("User-agent: *\nDisallow: /", "/a", False),
        ("User-agent: *\nDisallow: /a", "/ab", False),
        ("User-agent: *\nDisallow: /a/", "/a", True),
        ("User-agent: *\nDisallow: /a\nAllow: /a/b", "/a/b/c", True),
        ("User-agent: *\nDisallow: /a/b\nAllow: /a", "/a/b", False),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif", False),
        ("User-agent: *\nDisallow: /*.gif$", "/x/y.gif?z", True),
        ("User-agent: *\nDisallow: /*?*size=", "/x?a=1&size=2", False),
        ("User-agent: *\nDisallow: /*?*size=", "/x?a=1", True),
        ("User-agent: *\nDisallow: /%7Ejoe", "/~joe/x", False),
        ("User-agent: *\nDisallow: /~joe", "/%7ejoe/x", False),
        ("User-agent: *\nDisallow: /ü", "/%C3%BC", False),
        ("User-agent: *\nDisallow: /a%3Db", "/a=b", False),
        ("User-agent: *\nDisallow: /*%3Dbb", "/a=bb", False),
        ("User-agent: *\nDisallow: /a b", "/a%20b", False),
        ("User-agent: *\nDisallow: /a$b", "/a$b", False),
        ("User-agent: *\nDisallow: /\nAllow: /robots.txt", "/robots.txt", True),
        # groups
        ("User-agent: Sluice\nDisallow: /a\n\nUser-agent: *\nDisallow: /", "/b", True),
        ("User-agent: *\nDisallow: /\n\nUser-agent: SLUICE\nDisallow:", "/b", True),
        ("User-agent: sluice/1.0 (+x)\nDisallow: /a", "/a", False),
        ("User-agent: slu\nDisallow: /", "/a", True),
        ("User-agent: sluicebot\nDisallow: /", "/a", True),
        ("User-agent: other\nDisallow: /", "/a", True),
        ("User-agent: other\nUser-agent: sluice\nUser-agent: more\nDisallow: /", "/a", False),
        ("User-agent: sluice\nSitemap: /s\nUser-agent: other\nDisallow: /", "/a", False),
        ("User-agent: sluice\nCrawl-delay: 1\nUser-agent: other\nDisallow: /", "/a", True),
        ("User-agent: *\nAllow: /\nUser-agent: b\nUser-agent: *\nDisallow: /b", "/b", False),
        # as it is written in the wild
        ("\ufeffUser-agent: *\r\nDisallow: /a # all of it\r\n", "/a", False),
        ("user agent *\ndisalow /a", "/a", False),
        ("  USER-AGENT:*\n  DISALLOW:/a", "/a", False),
        ("Disallow: /\nUser-agent: other", "/a", True),
        ("<html><body>Disallow: /</body></html>", "/a", True),
    ],
)  # fmt: skip
def test_rules(text: str, path: str, expected: bool) -> None:
    assert permitted(text, path) == expected


def test_a_crawl_delay_is_told() -> None:
    text = "User-agent: *\nCrawl-delay: 9\n\nUser-agent: sluice\nCrawl-delay: 2.5"
    assert parse(text.encode(), AGENT).crawl_delay == 2.5
    assert parse(text.encode(), "other").crawl_delay == 9
    assert parse(b"User-agent: *\nDisallow: /a\nCrawl-delay: inf", AGENT).crawl_delay is None


PATTERN = st.text("/ab*$%3Dü?=.~ 7E", max_size=9).map(lambda text: "/" + text) | st.text(
    "/ab*$:ht p", max_size=6
)
LINES = st.lists(
    st.tuples(st.sampled_from(["Disallow: ", "Allow: ", "disallow:", "Dissallow "]), PATTERN).map(
        "".join
    ),
    max_size=6,
)


@given(LINES, st.text("/ab$%3Dü?=.~ 7E", max_size=12))
def test_shortcuts_never_change_an_answer(lines: list[str], path: str) -> None:
    text = "\n".join(["User-agent: *", *lines])
    asked = target(f"/{path}")
    expected = Protego.parse(text).can_fetch(asked.url, AGENT)
    assert parse(text.encode(), AGENT).permits(asked) == expected


@given(LINES, LINES, st.text("/ab", max_size=6))
def test_groups_of_others_change_nothing(ours: list[str], theirs: list[str], path: str) -> None:
    alone = "\n".join(["User-agent: *", "Disallow: /b", *ours])
    crowd = "\n".join(["User-agent: a", "User-agent: b", *theirs, alone, "User-agent: c", *theirs])
    assert permitted(alone, f"/{path}") == permitted(crowd, f"/{path}")


@given(st.binary() | st.text().map(lambda text: f"User-agent: *\nDisallow: {text}".encode()))
def test_any_bytes_are_read(body: bytes) -> None:
    rules = parse(body, AGENT)
    assert rules.permits(target("/a?b=%C3%BC")) in (True, False)
    assert rules.crawl_delay is None or rules.crawl_delay >= 0


@pytest.mark.parametrize(
    "body",
    [
        b"".join(b"User-agent: a%d\n" % index for index in range(30_000))
        + b"Disallow: /x\n" * 9000,
        b"User-agent: sluice\n" * 20_000 + b"Disallow: /x\n" * 9000,
        b"User-agent: *\nDisallow: /" + b"*a" * 250_000,
        b"User-agent: *\n" + b"Disallow: /*a*\n" * 34_000,
    ],
    ids=["agents", "one agent", "stars", "patterns"],
)
def test_hostile_files_cost_little(body: bytes) -> None:
    rules = parse(body, AGENT)
    assert rules.size <= robots.MAX_BYTES
    assert rules.permits(target("/" + "b" * 2000))


def test_what_lies_beyond_the_limit_is_not_read() -> None:
    start = b"User-agent: *\nDisallow: /a\n"
    body = start + b"#" * (robots.MAX_BYTES - len(start) - 1) + b"\nDisallow: /b"
    rules = parse(body, AGENT)
    assert not rules.permits(target("/a"))
    assert rules.permits(target("/b"))


@pytest.mark.parametrize("status", [200, 203, 299])
def test_an_answer_is_read(status: int) -> None:
    rules = policy_of(status, b"User-agent: *\nDisallow: /a", AGENT)
    assert rules is not None and not rules.permits(target("/a"))


@pytest.mark.parametrize("status", [301, 304, 400, 401, 403, 404, 410, 451])
def test_no_file_allows_everything(status: int) -> None:
    rules = policy_of(status, b"User-agent: *\nDisallow: /", AGENT)
    assert rules is not None and rules.permits(target("/a"))


@pytest.mark.parametrize("status", [None, 0, 100, 429, 500, 503, 599, 999])
def test_no_answer_is_no_permission_and_no_refusal(status: int | None) -> None:
    assert policy_of(status, b"User-agent: *\nAllow: /", AGENT) is UNKNOWN


class Server:
    """robots.txt of all hosts; counts who asked. Each answer waits for `gate`, if there is one."""

    def __init__(self, *answers: tuple[int | None, bytes]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, origin: str) -> tuple[int | None, bytes]:
        self.asked.append(origin)
        if self.gate:
            await self.gate.wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_an_origin_is_asked_once_a_day() -> None:
    clock, server = Clock(), Server((200, b"User-agent: *\nDisallow: /a"))

    async def test() -> None:
        cache = RobotsCache(AGENT, clock=clock)
        for _ in range(3):
            assert await cache.permits(target("/a"), server) is False
            assert await cache.permits(target("/b"), server) is True
        assert server.asked == ["https://example.com:443"]
        clock.now += robots.DAY - 1
        await cache.permits(target("/a"), server)
        assert len(server.asked) == 1
        clock.now += 1
        await cache.permits(target("/a"), server)
        assert len(server.asked) == 2

    run(test)


def test_all_who_ask_at_once_wait_for_one_answer() -> None:
    server = Server((200, b"User-agent: *\nDisallow: /a"))

    async def test() -> None:
        server.gate = asyncio.Event()
        cache = RobotsCache(AGENT)
        askers = [asyncio.create_task(cache.permits(target("/a"), server)) for _ in range(50)]
        await asyncio.sleep(0)
        askers[0].cancel()  # the first one, who set it going
        await asyncio.sleep(0)
        server.gate.set()
        answers = await asyncio.gather(*askers, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [False] * 49
        assert len(server.asked) == 1

    run(test)


def test_an_error_reaches_all_who_wait_and_is_not_kept() -> None:
    async def broken(origin: str) -> tuple[int | None, bytes]:
        await asyncio.sleep(0)
        raise RuntimeError(origin)

    async def test() -> None:
        cache = RobotsCache(AGENT)
        both = await asyncio.gather(
            *(cache.permits(target(), broken) for _ in range(2)), return_exceptions=True
        )
        assert [str(error) for error in both] == ["https://example.com:443"] * 2
        assert await cache.permits(target(), Server((404, b""))) is True

    run(test)


def test_a_server_without_an_answer_is_asked_again_soon_then_ever_less() -> None:
    clock, server = Clock(), Server((503, b""))

    async def test() -> None:
        cache = RobotsCache(AGENT, clock=clock)
        for asked in (1, 2, 3, 3, 3):
            assert await cache.permits(target(), server) is UNKNOWN
            assert len(server.asked) == asked
        times = []
        for _ in range(200):
            clock.now += 1
            before = len(server.asked)
            await cache.permits(target(), server)
            if len(server.asked) > before:
                times.append(clock.now - 1000)
        assert times == [1, 3, 7, 15, 31, 63, 123, 183]
        server.answers = [(404, b""), (503, b"")]
        clock.now += robots.SOON
        assert await cache.permits(target(), server) is True

    run(test)


def test_the_longest_unused_origins_go_first() -> None:
    server = Server((404, b""))

    async def test() -> None:
        cache = RobotsCache(AGENT, entries=2)
        for host in ("a", "b", "a", "c", "a", "b"):
            await cache.permits(target(host=f"{host}.example"), server)
        assert [origin[8] for origin in server.asked] == ["a", "b", "c", "b"]

    run(test)


def test_the_memory_of_rules_is_bounded() -> None:
    body = b"User-agent: *\n" + b"Disallow: /aaaaaaaa\n" * 50

    async def test() -> None:
        cache, server = RobotsCache(AGENT, characters=10_000), Server((200, body))
        for number in range(100):
            await cache.permits(target(host=f"{number}.a.example"), server)
        await cache.permits(target(host="99.a.example"), server)
        assert len(server.asked) == 100
        await cache.permits(target(host="0.a.example"), server)
        assert len(server.asked) == 101

    run(test)


def test_rules_that_forbid_nothing_take_no_room() -> None:
    assert parse(b"User-agent: *\nAllow: /\nDisallow:", AGENT).permits(target())
    assert parse(b"User-agent: *\nAllow: /a", AGENT) == Rules(AGENT)
