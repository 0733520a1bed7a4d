"""Records made whole on their way in: listed ones refused, images fetched, resized, blurred.

    records -> block lists -> fetched -> resized -> rows

Each step takes records and gives the same records in the same order. What is costly to start (the
client with its connections, the block lists, the child process that decodes) is kept in the
worker process from one shard to the next.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from curation import outcomes
from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.blocklists import Blocklists
from curation.fetch.fetch import Fetcher
from curation.fetch.observed import Observed
from curation.fetch.settings import FetchSettings
from curation.images import Images
from curation.resize import CODE as RESIZE
from curation.resize_settings import ResizeSettings
from curation.sources.base import Record
from curation.takedown.list import TakedownList, read_list
from infra.dataset import make_uid

USUAL, NO_LISTS = FetchSettings.model_validate({}), BlocklistSettings.model_validate({})


@dataclass(frozen=True)
class Intake:
    """What happens to records between their source and their shard.

    takedowns: those that are obeyed besides the lists, the oldest first.
    """

    fetch: FetchSettings = USUAL
    lists: BlocklistSettings = NO_LISTS
    resize: ResizeSettings | None = None
    takedowns: tuple[TakedownList, ...] = ()

    def policy(self, fetches: bool) -> dict[str, Any]:
        """What of this decides what a version holds: goes into its digest. JSON-able."""
        settings: dict[str, Any] = {}
        if fetches:
            settings["fetch"] = self.fetch.policy()
        if self.lists != NO_LISTS:
            settings["blocklists"] = _tools(self).lists.digest
        if self.takedowns:
            settings["takedowns"] = [each.digest for each in self.takedowns]
        if fetches and (self.lists != NO_LISTS or self.takedowns):
            settings["listing"] = LISTING
        if self.resize is not None:
            settings["resize"] = {"code": RESIZE, **self.resize.model_dump(mode="json")}
        return settings

    @property
    def decodes(self) -> bool:
        return self.resize is not None or self.lists.phash is not None


PLAIN = Intake()
LISTING = 2  # raised when other rows of a table of URLs are found listed


def whole(
    records: Iterator[Record], intake: Intake, observed: Observed | None = None
) -> Iterator[Record]:
    """The records with their images as they are to be stored, or with a reason why not.

    observed: takes down what fetching does; None where no record is to be fetched. Raises
    PauseError where the network, or an image library, is broken.
    """
    tools = _tools(intake)
    if tools.lists.uids is not None:
        records = (_known(record, tools.lists) for record in records)
    if observed is not None:
        if not tools.lists.empty:  # the fetcher looks at what it asks for
            records = (_listed(record, tools.lists) if record.reason else record
                       for record in records)  # fmt: skip
        records = tools.fetcher.fetched(records, observed)
    elif not tools.lists.empty:
        records = (_listed(record, tools.lists) for record in records)
    return tools.images.prepared(records) if intake.decodes else records


class _Tools:
    """What is costly to start for one intake, started when it is first wanted."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake

    @functools.cached_property
    def lists(self) -> Blocklists:
        taken = [read_list(each) for each in self.intake.takedowns]
        return Blocklists.load(self.intake.lists, taken)

    @functools.cached_property
    def fetcher(self) -> Fetcher:
        return Fetcher(self.intake.fetch, self.lists)

    @functools.cached_property
    def images(self) -> Images:
        return Images(self.intake.resize, self.lists)

    def close(self) -> None:
        for name in ("fetcher", "images"):
            if name in self.__dict__:
                getattr(self, name).close()


_kept: list[_Tools] = []  # of this process, one at most


def _tools(intake: Intake) -> _Tools:
    """The tools of an intake; those of another one before it are put away."""
    if not (_kept and _kept[0].intake == intake):
        while _kept:
            _kept.pop().close()
        _kept.append(_Tools(intake))
    return _kept[0]


def uid_of(record: Record, sha256: str | None = None) -> str:
    """The uid of a record's row. sha256: of the original image bytes, where it is known."""
    # A record without content still needs an identity: then it is where it stood.
    content = record.image or record.caption or record.url
    image = record.image or (None if content else record.source.encode())
    return make_uid(record.url, record.caption, image, record.uid, sha256)


def _known(record: Record, lists: Blocklists) -> Record:
    """Refused where its uid is listed; before anything is fetched, which does not change it."""
    if lists.lists_uid(uid_of(record)):
        return replace(record, image=None, reason=outcomes.BLOCKLISTED)
    return record


def names_listed(record: Record, lists: Blocklists) -> bool:
    """Whether a record's URL is listed, or one in the line that it is where that is no row."""
    if record.url is not None:
        return lists.lists_url(record.url)
    return record.reason == outcomes.BAD_LINE and lists.lists_line(str(record.meta.get("line")))


def _listed(record: Record, lists: Blocklists) -> Record:
    if names_listed(record, lists) or (
        record.image is not None and lists.lists_bytes(record.image)
    ):
        return replace(record, image=None, reason=outcomes.BLOCKLISTED)
    return record
