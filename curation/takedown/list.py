"""The lists of takedowns that a store keeps: what went, as hashes, for ingest to refuse.

<store>/takedowns/<id>/list.json    {"number": 1, "entries": {"uids": [hex, ...], "urls": ...}}

URLs and domains are kept as block lists compare them, by 128 bits of their BLAKE2b, so that the
list does not itself say what was taken down. Copied to another store it is obeyed there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from curation.fetch.blocklists import EXACT, KINDS, Entries
from infra import filesystem
from infra.digests import canonical_json, digest
from infra.errors import SluiceError
from infra.filesystem import join

FOLDER = "takedowns"
LIST = "list.json"


@dataclass(frozen=True)
class TakedownList:
    """A list by URL. digest: of what it holds, the same wherever it lies."""

    url: str
    number: int
    digest: str


def takedown_lists(store: str) -> list[TakedownList]:
    """The lists of a store in the order of their takedowns."""
    found = [_load(url)[0] for url in filesystem.list_files(join(store, FOLDER, "*", LIST))]
    return sorted(found, key=lambda each: (each.number, each.digest))


def read_list(known: TakedownList) -> Entries:
    """The entries of a list."""
    return _load(known.url)[1]


def put_list(folder: str, number: int, entries: Entries) -> None:
    """Keep the entries of a takedown in its folder; the first writer's stay."""
    told = {"number": number, "entries": {name: members(name, entries) for name in entries}}
    filesystem.put_if_absent(folder, LIST, canonical_json(told))
    filesystem.remove_tree(join(folder, filesystem.TEMPORARY))


def members(name: str, entries: Entries) -> list[str]:
    """The entries of a kind in hex, sorted, each once."""
    width, data = KINDS[name].width, bytes(entries.get(name, b""))
    return sorted({data[at : at + width].hex() for at in range(0, len(data), width)})


def joined(*several: Entries) -> dict[str, bytearray]:
    """The entries of several lists together, by kind."""
    found: dict[str, bytearray] = {}
    for each in several:
        for name, data in each.items():
            found.setdefault(name, bytearray()).extend(data)
    return found


@lru_cache(maxsize=64)
def _load(url: str) -> tuple[TakedownList, Mapping[str, bytes]]:
    """The list at `url`, and its entries; a list never changes."""
    try:
        told = filesystem.read_json(url)
        entries = {
            name: b"".join(bytes.fromhex(each) for each in hexes)
            for name, hexes in told["entries"].items()
        }
        wrong = [n for n in entries if n not in EXACT or len(entries[n]) % KINDS[n].width]
        if wrong:
            raise ValueError(f"{wrong[0]} is no kind of entry, or holds what is none")
        return TakedownList(url, int(told["number"]), digest(told["entries"])), entries
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SluiceError(
            f"the takedown list {url} is damaged: {error}",
            "bring it back from a copy: without it ingest might take again what was taken down",
        ) from error
