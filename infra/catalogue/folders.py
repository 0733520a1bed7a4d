"""The folders of a store in which artifacts may lie; which do is told by the files in them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from infra.artifacts import MANIFEST
from infra.catalogue.nodes import COMMITTED, UNFINISHED, WITHDRAWN
from infra.filesystem import join
from infra.filesystem.entries import Entry, entries
from infra.withdrawn import WITHDRAWN_FILE

AT_ONCE = 16  # folders asked about, and manifests held, at a time


@dataclass(frozen=True)
class Folder:
    """A folder, by its place within the store, and what lies directly in it."""

    store: str
    place: str
    listed: Sequence[Entry]

    @property
    def url(self) -> str:
        return join(self.store, self.place)

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2]

    @cached_property
    def files(self) -> Mapping[str, Entry]:
        return {entry.name: entry for entry in self.listed if not entry.folder}

    @property
    def folders(self) -> list[str]:
        return [entry.name for entry in self.listed if entry.folder]

    @property
    def state(self) -> str:
        """Of the artifact that lies in it, if it is one."""
        if MANIFEST in self.files:
            return COMMITTED
        return WITHDRAWN if WITHDRAWN_FILE in self.files else UNFINISHED


def look(store: str, place: str) -> Folder:
    return Folder(store, place, entries(join(store, place)))


def inner(listed: Sequence[Entry]) -> list[str]:
    """The names of the folders to look into."""
    return [each.name for each in listed if each.folder and not each.name.startswith("_")]


def version_folders(store: str) -> list[Folder]:
    """`<store>/<name>/<version>`, whatever these are called; only their own files are listed."""
    names = inner(entries(store))
    with ThreadPoolExecutor(AT_ONCE) as threads:
        groups = threads.map(lambda name: look(store, name), names)
        places = [f"{group.place}/{name}" for group in groups for name in inner(group.listed)]
        return list(threads.map(lambda place: look(store, place), places))
