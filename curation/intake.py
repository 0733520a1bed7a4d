"""Records made whole on their way in: listed ones refused, images fetched, resized, blurred.

    records -> block lists -> fetched -> resized -> rows

Each step takes records and gives the same records in the same order. What is costly to start (the
client with its connections, the block lists, the child process that decodes) is kept in the
worker process from one shard to the next.
"""

import base64
import functools
import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from curation import outcomes
from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.blocklists import Blocklists
from curation.fetch.breaker import Breaker
from curation.fetch.fetch import Fetcher
from curation.fetch.observed import Observed
from curation.fetch.settings import FetchSettings
from curation.prepare import Made, prepare
from curation.resize import CODE as RESIZE
from curation.resize import Transformed
from curation.resize_settings import ResizeSettings
from curation.sandbox import CrashedError, Sandbox
from curation.sources.base import Original, Record
from infra.errors import PauseError

AHEAD = 64  # images at the child process at once
# A grey JPEG of 8 x 8 pixels: where not even this can be decoded, it is not the images' fault.
SOUND = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4n"
    "ICIsIxwcKDcpLDAxNDQ0Hyc5PTgyPC4zNDL/wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/E"
    "ABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AP//Z"
)
USUAL, NO_LISTS = FetchSettings.model_validate({}), BlocklistSettings.model_validate({})


@dataclass(frozen=True)
class Intake:
    """What happens to records between their source and their shard."""

    fetch: FetchSettings = USUAL
    lists: BlocklistSettings = NO_LISTS
    resize: ResizeSettings | None = None

    def policy(self, fetches: bool) -> dict[str, Any]:
        """What of this decides what a version holds: goes into its digest. JSON-able."""
        settings: dict[str, Any] = {}
        if fetches:
            settings["fetch"] = self.fetch.policy()
        if self.lists != NO_LISTS:
            settings["blocklists"] = _lists(self).digest
        if self.resize is not None:
            settings["resize"] = {"code": RESIZE, **self.resize.model_dump(mode="json")}
        return settings

    @property
    def decodes(self) -> bool:
        return self.resize is not None or self.lists.phash is not None


PLAIN = Intake()


def whole(
    records: Iterator[Record], intake: Intake, observed: Observed | None = None
) -> Iterator[Record]:
    """The records with their images as they are to be stored, or with a reason why not.

    observed: takes down what fetching does; None where no record is to be fetched. Raises
    PauseError where the network, or an image library, is broken.
    """
    lists = _lists(intake)
    if observed is not None:
        records = _fetcher(intake).fetched(records, observed)
    elif not lists.empty:
        records = (_listed(record, lists) for record in records)
    return _prepared(records, intake, lists) if intake.decodes else records


@functools.lru_cache(maxsize=1)
def _lists(intake: Intake) -> Blocklists:
    return Blocklists.load(intake.lists)


@functools.lru_cache(maxsize=1)
def _fetcher(intake: Intake) -> Fetcher:
    return Fetcher(intake.fetch, _lists(intake))


@functools.lru_cache(maxsize=1)
def _sandbox(intake: Intake) -> Sandbox:
    hashed = intake.lists.phash is not None
    return Sandbox(functools.partial(prepare, settings=intake.resize, hashed=hashed))


def _listed(record: Record, lists: Blocklists) -> Record:
    by_url = record.url is not None and lists.lists_url(record.url)
    if by_url or (record.image is not None and lists.lists_bytes(record.image)):
        return replace(record, image=None, reason=outcomes.BLOCKLISTED)
    return record


def _prepared(records: Iterator[Record], intake: Intake, lists: Blocklists) -> Iterator[Record]:
    """Each image through the child process; records without one pass by, in their turn."""
    box = _sandbox(intake)
    column = intake.resize.blur if intake.resize else None
    waiting: deque[tuple[Record, Future[Made] | None]] = deque()
    breaker = Breaker()
    for number, record in enumerate(records):
        future = None
        if record.reason is None and record.image is not None:
            future = box.submit(record.image, record.meta.get(column) if column else None)
        waiting.append((record, future))
        while waiting and (len(waiting) > AHEAD or _done(waiting[0][1])):
            made = _taken(*waiting.popleft(), lists)
            if breaker.note(number, made.reason) == outcomes.DECODE_FAILED:
                _see_that_decoding_works(box, breaker)
            yield made
    while waiting:
        yield _taken(*waiting.popleft(), lists)


def _done(future: Future[Any] | None) -> bool:
    return future is None or future.done()


def _taken(record: Record, future: Future[Made] | None, lists: Blocklists) -> Record:
    """The record with what became of its image."""
    if future is None or record.image is None:
        return record
    try:
        fields, phash = future.result()
    except CrashedError:
        return replace(record, image=None, reason=outcomes.DECODE_FAILED)
    if phash is not None and lists.lists_phash(phash):
        return replace(record, image=None, reason=outcomes.BLOCKLISTED)
    made = Transformed(*fields) if fields else None
    if made is None or (made.reason is None and made.data is None):
        return record  # the bytes stay as they are
    size = made.original_width, made.original_height
    if made.data is None:
        return replace(record, image=None, reason=made.reason, original=Original(None, *size))
    original = Original(hashlib.sha256(record.image).hexdigest(), *size)
    return replace(record, image=made.data, tar=None, original=original)


def _see_that_decoding_works(box: Sandbox, breaker: Breaker) -> None:
    """Nearly all images fail: then a sound one is tried. PauseError where that fails too."""
    try:
        fields, _ = box.submit(SOUND, None).result()
        sound = fields is None or Transformed(*fields).reason != outcomes.DECODE_FAILED
    except CrashedError:
        sound = False
    if not sound:
        what, way_out = breaker.describe(outcomes.DECODE_FAILED)
        raise PauseError(f"{what} images", way_out)
    breaker.forget()
