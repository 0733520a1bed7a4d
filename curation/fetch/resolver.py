"""Names to addresses: one question for each host, remembered, failures included.

Only addresses that may be connected to are given out, so that a name that points into the
private network ends here, also when it did so only after a redirect.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from curation.fetch.addresses import Allowed, host_address
from curation.outcomes import ADDRESS_REFUSED, DNS

TTL = 300.0  # seconds an answer of the system is kept, which does not say for how long it holds
TTL_RANGE = 30.0, 3600.0  # seconds an answer of resolvers of one's own is kept, as it asks
FAILURE_TTL = 30.0  # seconds a failure is kept: time for a resolver to come back
CACHED = 100_000  # hosts
THREADS = 32  # questions to the system's resolver at once
QUESTION_TIMEOUT, TRIES = 3.0, 3  # of one question to resolvers of one's own


@dataclass(frozen=True)
class Answer:
    """Where a host may be connected to; `outcome` says why nowhere."""

    addresses: tuple[str, ...] = ()
    outcome: str | None = None


class Resolver:
    """The DNS cache of one worker; use it from one event loop."""

    def __init__(self, allowed: Allowed, servers: Sequence[str] = ()) -> None:
        self._allowed = allowed
        self._servers = list(servers)
        self._ares = None
        self._threads: ThreadPoolExecutor | None = None
        self._known: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Answer]] = {}

    async def resolve(self, host: str) -> Answer:
        """The addresses of a host; never raises."""
        known = self._known.get(host)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        literal = host_address(host)
        if literal is not None:
            answer = self._permitted([literal])
            self._keep(host, answer, TTL)
            return answer
        asked = self._asked.get(host)
        if asked is None:
            asked = self._asked[host] = asyncio.ensure_future(self._ask(host))
        return await asyncio.shield(asked)

    async def _ask(self, host: str) -> Answer:
        try:
            addresses, kept = await self._lookup(host)
        except OSError:
            addresses, kept = [], FAILURE_TTL
        finally:
            del self._asked[host]
        answer = self._permitted(addresses)
        self._keep(host, answer, kept)
        return answer

    def _keep(self, host: str, answer: Answer, seconds: float) -> None:
        self._known[host] = time.monotonic() + seconds, answer
        self._known.move_to_end(host)
        if len(self._known) > CACHED:
            self._known.popitem(last=False)

    def forget_failures(self) -> None:
        """Ask again for what could not be resolved: the resolver may be back."""
        failed = [host for host, (_, answer) in self._known.items() if answer.outcome == DNS]
        for host in failed:
            del self._known[host]

    def _permitted(self, addresses: Sequence[str]) -> Answer:
        good = tuple(address for address in addresses if self._allowed.permits(address))
        return Answer(good) if good else Answer(outcome=ADDRESS_REFUSED if addresses else DNS)

    async def _lookup(self, host: str) -> tuple[list[str], float]:
        """The addresses of a host, and for how many seconds they hold."""
        if self._servers:
            return await self._ask_servers(host)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "dns")
        try:
            found = await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            )
        except UnicodeError as error:  # a label Python will not encode
            raise OSError(str(error)) from error
        return list(dict.fromkeys(str(entry[4][0]) for entry in found)), TTL

    async def _ask_servers(self, host: str) -> tuple[list[str], float]:
        import aiodns

        if self._ares is None:
            self._ares = aiodns.DNSResolver(
                self._servers, timeout=QUESTION_TIMEOUT, tries=TRIES, rotate=True
            )
        try:
            found = await self._ares.getaddrinfo(host, family=socket.AF_UNSPEC)
        except aiodns.error.DNSError as error:
            raise OSError(str(error)) from error
        addresses = dict.fromkeys(_text(node.addr[0]) for node in found.nodes)
        shortest, longest = TTL_RANGE
        asked = min((node.ttl for node in found.nodes), default=0)
        return list(addresses), min(max(asked, shortest), longest)

    async def close(self) -> None:
        if self._ares is not None:
            await self._ares.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _text(address: bytes | str) -> str:
    return address.decode() if isinstance(address, bytes) else address
