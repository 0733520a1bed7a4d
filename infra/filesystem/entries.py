"""What lies in a folder, with sizes and times: for whoever looks through a whole store."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.errors import SluiceError
from infra.filesystem.folders import remove_tree
from infra.filesystem.reading import exists
from infra.filesystem.retries import ask
from infra.filesystem.urls import join, resolve

_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class Entry:
    """A file or a folder in a folder. changed: seconds since 1970, of a file; 0 if unknown."""

    url: str
    folder: bool
    bytes: int
    changed: float

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def entries(url: str) -> list[Entry]:
    """What lies directly in a folder, sorted; nothing where there is none.

    An object store is asked once for each 1,000 of them.
    """
    try:
        found = ask(url, "list", lambda fs, path: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return []
    own = resolve(url)[1].rstrip("/")
    names = {each["name"].rstrip("/"): each for each in found}  # a folder marker names itself
    return [_entry(join(url, name[len(own) :].strip("/")), names[name])
            for name in sorted(names) if name != own]  # fmt: skip


def files_under(url: str) -> Iterator[Entry]:
    """Every file in a folder and in those in it."""
    found = ask(url, "list", lambda fs, path: fs.find(path, detail=True))
    own = resolve(url)[1].rstrip("/")
    for name, known in sorted(found.items()):
        yield _entry(join(url, name[len(own) :].strip("/")), known)


def _entry(url: str, known: dict[str, Any]) -> Entry:
    return Entry(url, known["type"] == "directory", int(known.get("size") or 0), _changed(known))


def _changed(known: dict[str, Any]) -> float:
    value = next((known[name] for name in _TIMES if known.get(name)), 0.0)
    if isinstance(value, str):  # GCS
        value = datetime.fromisoformat(value)
    return value.timestamp() if isinstance(value, datetime) else float(value)


def remove_folder(url: str) -> None:
    """Remove a folder and all in it; SluiceError where something stays."""
    remove_tree(url)
    if exists(url):
        raise SluiceError(
            f"cannot remove {url}, or not all of it",
            "check the permissions of the store, then run the same command again",
        )
