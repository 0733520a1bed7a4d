"""robots.txt (RFC 9309): what a server allows, asked once a day."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego

from curation.fetch.urls import Target

MAX_BYTES = 500 * 1024  # what a crawler must read; the rest is not looked at
DAY = 86_400.0  # seconds an answer holds
UNKNOWN = None  # no answer for now: come back later
PATIENCE, SOON = 2, 60.0  # failures in a row asked again at once; then after 1, 2, 4 ... 60 s

Fetch = Callable[[str], Awaitable[tuple[int | None, bytes]]]

_AGENT_LINE = re.compile(r"user[- ]?agent\s*[:\s]\s*(.*)", re.IGNORECASE)
_RULE_LINE = re.compile(r"allow|di[as]|crawl", re.IGNORECASE)  # and common misspellings
_FORBIDS = re.compile(r"\w+\s*[:\s]\s*(.+)")
_PLAIN = re.compile(r"[A-Za-z0-9_.~/=-]+")  # what is spelled in one way only
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
_TOKEN = re.compile(r"[a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Rules:
    """What one robots.txt says to one agent; `parsed` is None where it forbids nothing.

    Every rule that forbids something has its beginning in `prefixes` or a piece of it in
    `pieces`: a path with none of them is allowed without asking the parser, which costs more.
    """

    agent: str
    parsed: Protego | None = None
    crawl_delay: float | None = None  # seconds between two requests
    prefixes: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()
    size: int = 0  # characters of robots.txt behind it

    def permits(self, target: Target) -> bool:
        """Whether the agent may ask for this URL."""
        if self.parsed is None:
            return True
        path = target.path
        if (
            "%" not in path  # which may be another spelling of what a rule says
            and not path.startswith(self.prefixes)
            and not any(piece in path for piece in self.pieces)
        ):
            return True
        return self.parsed.can_fetch(target.url, self.agent)


def parse(body: bytes, agent: str) -> Rules:
    """The rules for `agent` (a product token: "sluice"). Any bytes do; what is no rule is none."""
    text = body[:MAX_BYTES].decode("utf-8-sig", "replace")
    lines = _groups(text, agent.lower())
    if not lines:
        return Rules(agent)
    parsed = Protego.parse("\n".join(lines))
    delay = parsed.crawl_delay(agent)
    forbidding = [line for line in lines if line[:2].lower() == "di"]
    if not forbidding:
        return Rules(agent, crawl_delay=delay)
    prefixes: list[str] = []
    pieces: list[str] = []
    for line in forbidding:
        found = _FORBIDS.match(line)
        pattern = found[1] if found else "/"
        if "*" in pattern:
            pieces.append(max(_PLAIN.findall(_ENCODED.sub(" ", pattern)), key=len, default="/"))
        else:
            prefixes.append(_PLAIN.match(pattern)[0] if pattern[:1] == "/" else "/")  # type: ignore[index]
    size = sum(map(len, lines))
    return Rules(agent, parsed, delay, tuple(prefixes), tuple(pieces), size)


def _groups(text: str, agent: str) -> list[str]:
    """The lines of the groups for `agent` and for everyone, less all that is no rule.

    Only these are parsed: a file that names thousands of agents for thousands of rules would
    otherwise take their product in time and memory.
    """
    kept: list[str] = []
    in_names = ours = False
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        if not line:
            continue
        named = _AGENT_LINE.match(line)
        if named:
            if not in_names:
                in_names, ours = True, False
            value = named[1].lower()
            name = "*" if value == "*" else _TOKEN.match(value.lstrip("*"))[0]  # type: ignore[index]
            if name in (agent, "*"):
                kept.append(f"User-agent: {name}")
                ours = True
        elif _RULE_LINE.match(line):
            in_names = False
            if ours:
                kept.append(line)
    return kept


def policy_of(status: int | None, body: bytes, agent: str) -> Rules | None:
    """What an answer for robots.txt means (RFC 9309, 2.3.1); UNKNOWN where it says nothing.

    2xx is read; 3xx left over (too many) and 4xx mean that there is none, so that all is allowed.
    5xx and no answer at all (no status) say nothing, and neither does 429, too many requests.
    """
    if status is None or status == 429 or not 200 <= status < 500:
        return UNKNOWN
    return parse(body, agent) if status < 300 else Rules(agent)


@dataclass(slots=True)
class _Entry:
    rules: Rules | None
    expires: float
    failures: int = 0  # in a row


class RobotsCache:
    """The rules of each origin for one agent; asks for them once, whoever waits.

    Holds at most `entries` origins with `characters` of rules in all (their parsed form takes
    some 25 times that); the longest unused go first. For one event loop.
    """

    def __init__(
        self,
        agent: str,
        entries: int = 50_000,
        characters: int = 4_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agent = agent
        self._limits = entries, characters
        self._clock = clock
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._characters = 0
        self._asked: dict[str, asyncio.Task[Rules | None]] = {}

    async def permits(self, target: Target, fetch: Fetch) -> bool | None:
        """Whether the target may be asked for, or UNKNOWN.

        fetch: gives status and body of `origin`/robots.txt, redirects followed; no status where
        there is no answer. What it raises, all who wait for it get, and the next asks again.
        """
        rules = await self.rules(target.origin, fetch)
        return UNKNOWN if rules is None else rules.permits(target)

    async def rules(self, origin: str, fetch: Fetch) -> Rules | None:
        """The rules of an origin, as for `permits`."""
        entry = self._known.get(origin)
        if entry is not None and self._clock() < entry.expires:
            self._known.move_to_end(origin)
            return entry.rules
        task = self._asked.get(origin)
        if task is None:
            task = self._asked[origin] = asyncio.ensure_future(self._ask(origin, fetch))
            task.add_done_callback(_look_at)
        return await asyncio.shield(task)  # who gives up does not take it from the others

    async def _ask(self, origin: str, fetch: Fetch) -> Rules | None:
        try:
            status, body = await fetch(origin)
            rules = policy_of(status, body, self._agent)
            self._keep(origin, rules)
            return rules
        finally:
            del self._asked[origin]

    def _keep(self, origin: str, rules: Rules | None) -> None:
        before = self._known.pop(origin, None)
        self._forget(before)
        failures, ttl = 0, DAY
        if rules is None:
            failures = 1 + (before.failures if before else 0)
            ttl = 0.0 if failures <= PATIENCE else min(SOON, 2.0 ** min(failures - PATIENCE - 1, 9))
        self._known[origin] = _Entry(rules, self._clock() + ttl, failures)
        self._characters += rules.size if rules else 0
        entries, characters = self._limits
        while len(self._known) > entries or self._characters > characters:
            self._forget(self._known.popitem(last=False)[1])

    def _forget(self, entry: _Entry | None) -> None:
        if entry is not None and entry.rules is not None:
            self._characters -= entry.rules.size


def _look_at(task: asyncio.Task[Rules | None]) -> None:
    """So that an error nobody waits for any more is no "never retrieved" on the terminal."""
    if not task.cancelled():
        task.exception()
