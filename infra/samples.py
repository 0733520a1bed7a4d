"""Where the images of a shard lie, and how they are read there.

A row with an image has `tar`, the number of a tar, and `offset`, the byte of that tar at which
the image starts. <version>/tars/00000.json lists the tars of a shard and their sizes; without it
there is one, the shard's own: shards/00000.tar. Tars of others are used where they are, so the
list is no part of a version's content: moved data is the same data.
"""

import contextlib
import json
import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa

from infra import cache, filesystem
from infra.digests import canonical_json
from infra.errors import SluiceError
from infra.filesystem import join
from infra.shards import is_member
from infra.tar import BLOCK

FOLDER = "tars"  # of a version: the lists of tars of its shards
COLUMNS = ["row", "status", "key", "caption", "bytes", "format", "tar", "offset"]


@dataclass(frozen=True)
class Sample:
    """A sample of a shard: its row number, its image bytes as stored, their format, its caption."""

    row: int
    image: bytes
    extension: str
    caption: str


@dataclass(frozen=True)
class Tar:
    """A tar by URL, relative to the version's folder where it lies in the same store.

    bytes: its size, by which a change is told; None for the shard's own.
    """

    url: str
    bytes: int | None = None


def own_tar(name: str) -> Tar:
    """The tar that a shard, by name, has for itself."""
    return Tar(f"shards/{name}.tar")


def _list_path(name: str) -> str:
    return f"{FOLDER}/{name}.json"


def write_tars(folder: str, name: str, tars: Sequence[Tar]) -> None:
    """Note the tars of a shard of the version at `folder`, where they are not just its own."""
    if list(tars) not in ([], [own_tar(name)]):
        entries = [{"url": tar.url, "bytes": tar.bytes} for tar in tars]
        filesystem.write_bytes(folder, _list_path(name), canonical_json(entries))


def read_tars(folder: str, name: str) -> list[Tar]:
    """The tars of a shard, in the order that `tar` counts them."""
    try:
        return parse_tars(filesystem.read_bytes(join(folder, _list_path(name))))
    except FileNotFoundError:
        return [own_tar(name)]


def read_lists(urls: Sequence[str]) -> list[list[Tar]]:
    """The tars that many lists name, read at once."""
    return [parse_tars(data or b"[]") for data in filesystem.read_many(urls)]


def parse_tars(data: bytes) -> list[Tar]:
    """The tars of a shard, from the list of them as it is kept."""
    return [Tar(entry["url"], entry["bytes"]) for entry in json.loads(data)]


def shorten(folder: str, url: str) -> str:
    """A tar's URL as the version at `folder`, <store>/<dataset>/<version>, is to keep it."""
    fs, base = filesystem.resolve(folder)
    other, path = filesystem.resolve(url)
    store = posixpath.dirname(posixpath.dirname(base.rstrip("/")))
    if fs is other and store.strip("/") and path.startswith(f"{store}/"):
        return posixpath.relpath(path, base)
    return path if filesystem.is_local(url) else url


def locate(folder: str, url: str) -> str:
    """The whole URL of what `shorten` made."""
    if "://" in url or posixpath.isabs(url):
        return url
    folder = folder.rstrip("/")
    while url.startswith("../"):
        folder, url = posixpath.dirname(folder), url.removeprefix("../")
    return join(folder, url)


def seen_from(folder: str, source: str, tar: Tar) -> Tar:
    """A tar of a shard of the version at `source` as the version at `folder` is to name it."""
    place = locate(source, tar.url)
    size = filesystem.size(place) if tar.bytes is None else tar.bytes
    return Tar(shorten(folder, place), size)


def read_stored(folder: str, name: str, rows: pa.Table) -> Iterator[Sample]:
    """The samples among `rows` (COLUMNS) of a shard, in their order.

    Rows of one tar come in the order of its bytes, so that it is read once, from start to end.
    Raises SluiceError for a tar that is gone, damaged, or not what it was.
    """
    tars = _Tars(folder, name)
    with contextlib.ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for entry in _entries(rows):
            number = entry["tar"]
            if number not in files:
                files[number] = stack.enter_context(tars.open(number))
            file = files[number]
            with tars.named(number):
                file.seek(entry["offset"] - BLOCK)
                header, image = file.read(BLOCK), file.read(entry["bytes"])
            tars.check(entry, header, image)
            yield Sample(entry["row"], image, entry["format"], entry["caption"] or "")


def read_places(folder: str, name: str, rows: pa.Table) -> dict[int, bytes]:
    """The images of a few `rows` (COLUMNS) of a shard, by row, and nothing else of its tars."""
    tars, found = _Tars(folder, name), dict[int, bytes]()
    by_tar: dict[int, list[Mapping[str, Any]]] = {}
    for entry in _entries(rows):
        by_tar.setdefault(entry["tar"], []).append(entry)
    for number, entries in by_tar.items():
        ranges = [(entry["offset"] - BLOCK, entry["offset"] + entry["bytes"]) for entry in entries]
        with tars.named(number):
            pieces = tars.read_ranges(number, ranges)
        for entry, piece in zip(entries, pieces, strict=True):
            tars.check(entry, piece[:BLOCK], piece[BLOCK:])
            found[entry["row"]] = piece[BLOCK:]
    return found


def _entries(rows: pa.Table) -> Iterator[dict[str, Any]]:
    columns = [rows[name].to_pylist() for name in COLUMNS]
    for values in zip(*columns, strict=True):
        entry = dict(zip(COLUMNS, values, strict=True))
        if entry["status"] == "ok":
            yield entry


class _Tars:
    """The tars of one shard, and what is said where one of them is not as it was."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder = folder
        self._tars = read_tars(folder, name)
        self._own = own = own_tar(name).url
        self._ways_out = [
            "remove its version's folder and run again; the store rebuilds it"
            if tar.url == own
            else f"put it back as it was; or remove {folder} and run again, from what there is now"
            for tar in self._tars
        ]

    def url(self, number: int) -> str:
        return locate(self._folder, self._tars[number].url)

    def _is_own(self, number: int) -> bool:
        return self._tars[number].url == self._own

    def open(self, number: int) -> BinaryIO:
        with self.named(number):
            if self._is_own(number):
                file = cache.open_cached(self._folder, self._tars[number].url)
            else:
                file = cache.open_url(self.url(number))
            size, expected = file.seek(0, 2), self._tars[number].bytes
        if expected is not None and size != expected:
            file.close()
            raise SluiceError(
                f"{self.url(number)} has changed since it was ingested: it has {size} bytes, "
                f"not {expected}",
                self._ways_out[number],
            )
        return file

    def read_ranges(self, number: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes from the first up to the second of each pair; less at the end."""
        own = self._is_own(number)
        kept = cache.open_kept(self._folder, self._tars[number].url) if own else None
        if kept is None:
            return filesystem.read_ranges(self.url(number), ranges)
        with kept:
            return [os.pread(kept.fileno(), stop - start, start) for start, stop in ranges]

    @contextlib.contextmanager
    def named(self, number: int) -> Iterator[None]:
        """What reading a tar raises becomes a SluiceError that names it."""
        try:
            yield
        except FileNotFoundError as error:
            raise SluiceError(
                f"{self.url(number)} is gone, and samples of {self._folder} lie in it",
                self._ways_out[number],
            ) from error
        except OSError as error:
            raise SluiceError(
                f"cannot read {self.url(number)}: {error.strerror or error}",
                "check its permissions and its disk or connection, then run again",
            ) from error

    def check(self, entry: Mapping[str, Any], header: bytes, image: bytes) -> None:
        """Raise SluiceError unless these are the header and the bytes of the sample's image."""
        if len(image) == entry["bytes"] and is_member(header, entry["key"], len(image)):
            return
        raise SluiceError(
            f"{self.url(entry['tar'])} is damaged or has changed since it was ingested: the image "
            f"of row {entry['row']} (key {entry['key']!r}) is not at byte {entry['offset']}",
            self._ways_out[entry["tar"]],
        )
