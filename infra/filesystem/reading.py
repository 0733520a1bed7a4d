"""Reading files: what is known of them, whole, in ranges, as streams."""

import contextlib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

from infra.errors import SluiceError
from infra.filesystem.failures import REMOTE, TornError, answer
from infra.filesystem.retries import ask, told
from infra.filesystem.urls import AZURE, GCS, S3, is_local, resolve

TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation")  # of S3, HTTP, GCS, Azure
TIMES = ("mtime", "ino", "LastModified", "updated", "last_modified", "created")
RANGED = (*S3, *GCS, *AZURE)  # schemes of stores that serve ranges
NOT_SATISFIABLE = 416
SMALL = 2**22  # bytes of a file that is asked for without asking for its size
SMALLEST = 2**18  # bytes: a connection that breaks is asked for less and less, down to this


def exists(url: str) -> bool:
    return ask(url, "exists", lambda fs, path: bool(fs.exists(path)))


def info(url: str) -> dict[str, Any]:
    """What the file system knows of a file: size, and, on object stores, its entity tag."""
    return ask(url, "info", lambda fs, path: fs.info(path))


def infos(urls: Sequence[str]) -> list[dict[str, Any]]:
    """What `info` says of many files: an object store is asked once for each of their folders."""
    folders = Counter(url.rpartition("/")[0] for url in urls)
    held: dict[str, dict[str, Any]] = {}
    for folder in (folder for folder, count in folders.items() if count > 1):
        # No web server has to list files, nor does every key allow it.
        with contextlib.suppress(OSError, SluiceError):
            listed = ask(folder, "list", lambda fs, path: fs.ls(path, detail=True))
            held |= {known["name"]: known for known in listed}
    return [held.get(resolve(url)[1]) or info(url) for url in urls]


def state(url: str) -> tuple[Any, ...]:
    """What changes when a file does: size, and entity tag, time of change and the like."""
    known = info(url)
    return int(known.get("size") or 0), *(known.get(name) for name in (*TAGS, *TIMES))


def size(url: str) -> int:
    return int(info(url).get("size") or 0)


def read_bytes(url: str) -> bytes:
    return ask(url, "read", _read_whole if url.partition("://")[0] in RANGED else _read_plain)


def _read_plain(fs: Any, path: str) -> bytes:
    return fs.cat_file(path)


def _read_whole(fs: Any, path: str) -> bytes:
    """A small file by one request; s3fs would ask first how long it is, and list where it is not.

    A longer one the library reads in pieces at once.
    """
    try:
        data = fs.cat_file(path, start=0, end=SMALL)
    except Exception as error:
        if answer(error)[0] == NOT_SATISFIABLE:
            return b""  # an empty file has no byte 0
        raise
    return data if len(data) < SMALL else fs.cat_file(path)


def read_many(urls: Sequence[str]) -> list[bytes | None]:
    """Files of one store, none of them empty, asked for at once; None for one that is gone."""
    if not urls:
        return []
    fs, _ = resolve(urls[0])
    paths = [str(fs._strip_protocol(url)) for url in urls]  # `resolve` is slow for 100,000
    # From byte 0 on, which spares S3 the question of how long each is.
    found = fs.cat_ranges(paths, [0] * len(paths), [None] * len(paths), on_error="return")
    return [_read(url, data) for url, data in zip(urls, found, strict=True)]


def _read(url: str, data: bytes | Exception) -> bytes | None:
    """What the first try brought; after a failure that may pass, what the next ones bring."""
    first = [data]

    def read(fs: Any, path: str) -> bytes:
        found = first.pop() if first else fs.cat_file(path)
        if isinstance(found, Exception):
            raise found
        return found

    try:
        return ask(url, "read", read)
    except FileNotFoundError:
        return None


def read_ranges(url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Bytes from the first up to the second of each pair, asked for at once; less at the end."""
    starts, stops = [start for start, _ in ranges], [stop for _, stop in ranges]
    return ask(
        url,
        "read",
        lambda fs, path: fs.cat_ranges([path] * len(ranges), starts, stops, on_error="raise"),
    )


def read_json(url: str) -> Any:
    return json.loads(read_bytes(url))


def open_read(url: str, ahead: bool = True) -> BinaryIO:
    """A file to read; ahead: a remote one is read on beyond what is asked for."""
    if is_local(url):
        fs, path = resolve(url)
        return fs.open(path, "rb")
    options = {} if ahead else {"cache_type": "none"}
    if ahead and url.partition("://")[0] in GCS:
        options = {"cache_type": "readahead"}  # its own way ahead gives up at the first failure
    return cast(BinaryIO, _Remote(url, options))


def holds(url: str, sha256: str) -> bool:
    """Whether there is a file of this SHA-256."""
    found = hashlib.sha256()
    try:
        with open_read(url) as file:
            while block := file.read(2**20):
                found.update(block)
    except FileNotFoundError:
        return False
    return found.hexdigest() == sha256


class _Remote(io.RawIOBase):
    """A remote file: its failures name it, and reading goes on at the byte where it broke."""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._url = url
        self._raw = ask(url, "open", lambda fs, path: fs.open(path, "rb", **options))
        cache: Any = getattr(self._raw, "cache", None)
        if cache is not None and hasattr(cache, "fetcher"):
            self._fetch_once = cache.fetcher
            cache.fetcher = self._fetch

    def _fetch(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`; what has come before a failure is kept."""
        end = end if self._raw.size is None else min(end, self._raw.size)
        pieces, length = list[bytes](), end - start  # of the next piece

        def more(fs: Any, path: str) -> None:
            nonlocal start
            piece = self._fetch_once(start, min(start + length, end))
            if not piece:
                raise TornError(f"nothing came of bytes {start} to {end}")
            pieces.append(piece)
            start += len(piece)

        def failed(error: Exception) -> None:
            nonlocal length
            length = max(length // 4, SMALLEST)
            self._check_unchanged()

        while start < end:
            ask(self._url, "read", more, passes=(), failed=failed)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_unchanged(self) -> None:
        """S3 is asked for the same entity tag each time; others are, where a read is resumed."""
        known, now = self._raw.details, info(self._url)
        changed = [name for name in ("size", *TAGS) if known.get(name) != now.get(name)]
        if changed:
            raise SluiceError(f"cannot read {self._url}: it changed while it was read", REMOTE)

    def read(self, size: int = -1) -> bytes:
        try:
            return self._raw.read(size)
        except SluiceError:
            raise
        except Exception as error:  # of a file that is not fetched in ranges
            raise told(error, self._url) from error

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.seekable()

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
