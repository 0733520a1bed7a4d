"""What is asked for, and which takedown of the store that is: a new one, or one to be finished."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from curation.fetch.blocklist_settings import BlocklistSettings
from curation.fetch.blocklists import Entries, read_entries, read_hashes
from curation.takedown.list import FOLDER, TakedownList, members, takedown_lists
from infra import filesystem
from infra.digests import canonical_json, digest
from infra.errors import SluiceError
from infra.filesystem import join

REQUEST, RECORD = "request.json", "record.json"


@dataclass(frozen=True)
class TakedownOptions:
    """What a user may ask for: files of entries, as block lists have them, and why."""

    uids: str | None = None
    urls: str | None = None
    domains: str | None = None
    hashes: str | None = None
    reason: str = ""

    def entries(self) -> dict[str, bytearray]:
        """The entries by kind of list; SluiceError where there are none, or one is none."""
        given = {"uids": self.uids, "urls": self.urls, "domains": self.domains}
        if not any((*given.values(), self.hashes)):
            raise SluiceError(
                "nothing is named that is to be taken down",
                "give --uids, --urls, --domains or --hashes with a file, one entry a line",
            )
        found = read_entries(BlocklistSettings.model_validate(given))
        return found | (read_hashes(self.hashes) if self.hashes else {})


@dataclass(frozen=True)
class Takedown:
    """One takedown of a store. number: from 1 on. previous: SHA-256 of the record before it."""

    store: str
    id: str
    number: int
    previous: str | None
    reason: str
    request: Mapping[str, Mapping[str, object]] = field(repr=False)

    @property
    def url(self) -> str:
        return join(self.store, FOLDER, self.id)


def finished_takedowns(store: str) -> list[str]:
    """The URLs of the records of a store, the oldest first."""
    urls = filesystem.list_files(join(store, FOLDER, "*", RECORD))
    return sorted(urls, key=lambda url: int(filesystem.read_json(url)["record"]["number"]))


def takedown_of(store: str, entries: Entries, reason: str) -> Takedown:
    """The takedown that a request is: the same one until it is finished.

    SluiceError where another one was begun and not finished: its end comes first.
    """
    done = finished_takedowns(store)
    previous = hashlib.sha256(filesystem.read_bytes(done[-1])).hexdigest() if done else None
    asked = {name: _told(name, entries) for name in sorted(entries)}
    found = Takedown(store, digest([asked, previous]), len(done) + 1, previous, reason, asked)
    for url in filesystem.list_files(join(store, FOLDER, "*", REQUEST)):
        folder = url.rpartition("/")[0]
        if folder != found.url and not filesystem.exists(join(folder, RECORD)):
            raise SluiceError(
                f"the takedown at {folder} was begun and is not finished",
                "run that command again, with the same files, until it ends; then this one",
            )
    return found


def asked_before(takedown: Takedown) -> bool:
    """Whether an earlier takedown had the same request."""
    told = [filesystem.read_json(url)["record"] for url in finished_takedowns(takedown.store)]
    return any(record["request"] == takedown.request for record in told)


def list_of(takedown: Takedown) -> TakedownList:
    """The list that a takedown which has begun keeps."""
    (known,) = [each for each in takedown_lists(takedown.store) if each.number == takedown.number]
    return known


def begin(takedown: Takedown) -> None:
    """Note that a takedown has begun."""
    told = {
        "id": takedown.id, "number": takedown.number, "previous": takedown.previous,
        "reason": takedown.reason, "request": takedown.request,
    }  # fmt: skip
    filesystem.put_if_absent(takedown.url, REQUEST, canonical_json(told))
    filesystem.remove_tree(join(takedown.url, filesystem.TEMPORARY))


def _told(name: str, entries: Entries) -> dict[str, object]:
    """A list as the record names it: by its number of entries and their hash, not by content."""
    hexes = members(name, entries)
    return {"count": len(hexes), "sha256": hashlib.sha256("".join(hexes).encode()).hexdigest()}
