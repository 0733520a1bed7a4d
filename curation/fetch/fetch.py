"""Records with URLs in, the same records with images or reasons out, in the same order.

    record -> URL, block lists -> [address -> robots.txt -> request -> redirect]* -> checks
                                  `-- again, after a pause, while the outcome is transient

Everything waits on one event loop per worker process; connections, addresses and robots.txt
are kept from one shard to the next.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from curation import outcomes
from curation.fetch import consent, politeness, urls
from curation.fetch.addresses import Allowed
from curation.fetch.blocklists import Blocklists
from curation.fetch.breaker import Breaker
from curation.fetch.client import Client, Refuse, Response
from curation.fetch.observed import Observed
from curation.fetch.order import InOrder
from curation.fetch.resolver import Resolver
from curation.fetch.robots import MAX_BYTES, RobotsCache
from curation.fetch.settings import FetchSettings
from curation.fetch.urls import Target
from curation.headers import FORMATS, has_end, read_header
from curation.sources.base import Record
from infra.errors import PauseError
from infra.memory import keep_freed_memory

REDIRECTS = frozenset((301, 302, 303, 307, 308))
SILENT = 50_000  # origins whose failure is remembered
ROBOTS_REDIRECTS = 5  # RFC 9309, section 2.3.1.2
WAITING = 4  # records under way for each connection: one that waits for its host holds up none


class Fetcher:
    """The web as one worker sees it."""

    def __init__(self, settings: FetchSettings, lists: Blocklists) -> None:
        self._settings, self._lists = settings, lists
        self._loop = asyncio.new_event_loop()
        self._resolver = Resolver(Allowed(settings.allow_networks), settings.resolvers)
        self._robots = RobotsCache(settings.agent)
        self._silent: OrderedDict[str, str] = OrderedDict()  # origins without a robots.txt answer
        self._limits = politeness.HostLimits(settings.per_host, settings.rate)
        self._connections = asyncio.Semaphore(settings.connections)
        self._client = Client(settings)
        self._breaker = Breaker()
        keep_freed_memory()

    def fetched(self, records: Iterator[Record], observed: Observed) -> Iterator[Record]:
        """Each record that is still to be fetched with its image, or its reason; in order.

        Raises PauseError where failures say that the network here is broken.
        """
        ordered, progress = InOrder(), asyncio.Event()
        whole = self._loop.run_until_complete(self._start(records, observed, ordered, progress))
        try:
            while not whole.done():
                self._loop.run_until_complete(progress.wait())
                progress.clear()
                if whole.done():
                    whole.result()
                yield from ordered.take()
        except PauseError:
            self._loop.run_until_complete(_cancel_all())
            self._forget()  # only now: what was under way has failed as well
            raise
        finally:
            self._loop.run_until_complete(_cancel_all())
            ordered.close()

    def _forget(self) -> None:
        """Forget all failures: when the network is back, each is asked for again."""
        self._breaker.forget()
        self._resolver.forget_failures()
        self._robots = RobotsCache(self._settings.agent)
        self._silent.clear()

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._resolver.close())
        self._loop.close()

    async def _start(
        self,
        records: Iterator[Record],
        observed: Observed,
        ordered: InOrder,
        progress: asyncio.Event,
    ) -> asyncio.Future[list[None]]:
        """Set to work on the records; `progress` is set when one is ready, and at the end."""
        numbered = enumerate(records)

        async def work() -> None:
            for number, record in numbered:
                if record.reason is None and record.image is None:
                    record = await self._record(record, observed)
                ordered.add(number, record)
                if ordered.ready:
                    progress.set()

        workers = range(self._settings.connections * WAITING)
        whole = asyncio.gather(*(asyncio.create_task(work()) for _ in workers))
        whole.add_done_callback(lambda _: progress.set())
        return whole

    # ---- one record ----

    async def _record(self, record: Record, observed: Observed) -> Record:
        """The record with its image or its reason; transient failures are tried again."""
        target = urls.parse(record.url or "")
        if target is None:
            return replace(record, reason=outcomes.BAD_URL)
        start, attempt = time.monotonic(), 0
        while True:
            response = await self._image(target, record, observed)
            wait = self._wait(record.url or "", attempt, response)
            if wait is None:
                break
            attempt += 1
            observed.retries += 1
            await asyncio.sleep(wait)
        observed.note(target.host, response.outcome, len(response.body), time.monotonic() - start)
        self._watch(target.host, response.outcome)
        return Record(  # and not `replace`, which takes ten times as long
            record.source,
            response.body if response.outcome is None else None,
            record.caption,
            record.url,
            record.uid,
            record.meta,
            response.outcome,
            record.expected,
            response.status,
        )

    def _wait(self, url: str, attempt: int, response: Response) -> float | None:
        """Seconds until the next attempt; None where there is to be none."""
        if response.outcome not in outcomes.TRANSIENT or attempt == self._settings.retries:
            return None
        asked = None
        if response.outcome in (outcomes.TOO_MANY_REQUESTS, outcomes.SERVER_ERROR):
            asked = politeness.retry_after(response.header("retry-after"), datetime.now(UTC))
        if asked is not None and asked > self._settings.max_wait:
            return None
        own = politeness.backoff(attempt, self._settings.backoff, self._settings.max_wait, url)
        return max(asked or 0.0, own)

    async def _image(self, target: Target, record: Record, observed: Observed) -> Response:
        """One attempt: the response behind all redirects, judged as an image."""
        response = await self._follow(target, observed)
        if response.outcome is None:
            response.outcome = self._judge(response.body, record.expected)
        return response

    def _judge(self, body: bytes, expected: str | None) -> str | None:
        if self._lists.lists_bytes(body):
            return outcomes.BLOCKLISTED
        header = read_header(body)
        if header.format is None:
            return outcomes.NOT_AN_IMAGE
        if header.format in FORMATS and not has_end(body):
            return outcomes.TRUNCATED
        if expected and not _matches(body, expected):
            return outcomes.HASH_MISMATCH
        return None

    async def _follow(self, target: Target, observed: Observed) -> Response:
        seen, response = {target.url}, Response()
        for _ in range(self._settings.max_redirects + 1):
            if self._lists.lists_url(target):
                return Response(outcome=outcomes.BLOCKLISTED)
            if self._settings.robots_txt and (outcome := await self._forbidden(target)):
                return Response(outcome=outcome)
            response = await self._ask(target, self._settings.max_bytes, self._refused)
            observed.requests += 1
            if response.outcome or response.status not in REDIRECTS:
                if response.outcome is None and response.status is not None:
                    response.outcome = outcomes.of_status(response.status)
                return response
            observed.redirects += 1
            location = response.header("location")
            moved = urls.join(target, location) if location else None
            if moved is None or moved.url in seen:
                break
            target = moved
            seen.add(target.url)
        return Response(response.status, outcomes.REDIRECT_REFUSED)

    def _refused(self, response: Response) -> str | None:
        tags = response.values("x-robots-tag")
        if tags and consent.refused(tags, self._settings.agent, self._settings.disallow):
            return outcomes.DISALLOWED_BY_HEADER
        return None

    async def _ask(
        self, target: Target, limit: int, refuse: Refuse | None = None, cut: bool = False
    ) -> Response:
        """One request, when host and connections allow it; see Client.get."""
        addresses: Sequence[str] = ()
        if self._settings.proxy is None:
            answer = await self._resolver.resolve(target.host)
            if answer.outcome:
                return Response(outcome=answer.outcome)
            addresses = answer.addresses
        async with self._limits.turn(target.host), self._connections:
            response = await self._client.get(target, addresses, limit, refuse, cut)
        if response.status in (429, 503):
            asked = politeness.retry_after(response.header("retry-after"), datetime.now(UTC))
            if asked is not None and asked <= self._settings.max_wait:
                self._limits.cool_down(target.host, asked)
        return response

    # ---- robots.txt ----

    async def _forbidden(self, target: Target) -> str | None:
        """The outcome for a URL that robots.txt does not give free; None where it does."""
        permitted = await self._robots.permits(target, self._robots_txt)
        if permitted is None:
            return self._silent.get(target.origin, outcomes.SERVER_ERROR)
        return None if permitted else outcomes.DISALLOWED_BY_ROBOTS

    async def _robots_txt(self, origin: str) -> tuple[int, bytes]:
        """Status and body of an origin's robots.txt, behind its redirects; 0: no answer."""
        target = urls.parse(f"{origin}/robots.txt")
        response = Response()
        for _ in range(ROBOTS_REDIRECTS + 1):
            if target is None:
                break
            response = await self._ask(target, MAX_BYTES, cut=True)
            location = response.header("location")
            if response.status not in REDIRECTS or location is None:
                break
            target = urls.join(target, location)
        if response.outcome is None:
            return response.status or 0, response.body
        self._silent[origin] = response.outcome
        if len(self._silent) > SILENT:
            self._silent.popitem(last=False)
        return 0, b""

    # ---- the network as a whole ----

    def _watch(self, host: str, outcome: str | None) -> None:
        if not self._settings.breaker:
            return
        broken = self._breaker.note(host, outcome)
        if broken is not None:
            what, way_out = self._breaker.describe(broken)
            raise PauseError(f"{what} hosts", way_out)


def _matches(body: bytes, expected: str) -> bool:
    name = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(expected))
    return name is not None and hashlib.new(name, body).hexdigest() == expected.lower()


async def _cancel_all() -> None:
    """End all that is under way on this loop, without a word about how it ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
