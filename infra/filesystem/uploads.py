"""A remote file of any size, written in parts with bounded memory.

Stores take 10,000 parts of an object (Azure 50,000), so that parts grow as more is written: 16 MiB
for the first 16 GB, twice that for the next 31 GB, and so on, to the 5 TiB that S3 allows. Parts
of equal size but for the last are what some stores (R2) ask for; files of ours stay below 16 GB.
"""

import contextlib
from typing import Any

from fsspec.spec import AbstractBufferedFile

from infra.errors import SluiceError
from infra.filesystem.reading import holds
from infra.filesystem.retries import ask
from infra.filesystem.urls import resolve

PART = 16 * 2**20  # bytes of the first parts
PARTS_PER_SIZE = 1000


def part_size(number: int) -> int:
    """The bytes of a part, by its number from 0."""
    return PART << number // PARTS_PER_SIZE


class Upload:
    """An object being written: nothing is to be seen of it before `commit`.

    What fits into one part is one request. Any failure is a SluiceError; `discard` then removes
    what the store keeps of it. A killed process leaves an unfinished upload.
    """

    def __init__(self, url: str) -> None:
        resolve(url)  # an unknown scheme is told now
        self.url = url
        self.closed = False
        self._part = bytearray()  # what is to go next
        self._sent = 0  # parts
        self._raw: Any = None  # the library's file, once there is a part

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        rest = view
        while rest:
            room = part_size(self._sent) - len(self._part)
            self._part += rest[:room]
            rest = rest[room:]
            if len(self._part) == part_size(self._sent):
                self._send()
        return len(view)

    def flush(self) -> None:
        """Nothing: a part goes when it is full."""

    def _send(self) -> None:
        """Send the part; the library's file keeps what it could not send, and tries again."""
        part, held = bytes(self._part), False
        self._part.clear()

        def send(fs: Any, path: str) -> None:
            nonlocal held
            if self._raw is None or self._raw.closed:  # as one is that could not even begin
                # Not `open`, which would keep the file for a transaction that never ends.
                self._raw = fs._open(path, "wb", block_size=len(part), autocommit=False)
                held = False
            self._raw.blocksize = len(part)
            if held:
                self._raw.flush()
            else:
                held = True
                self._raw.write(part)

        ask(self.url, "upload part", send, verb="write", passes=())
        self._sent += 1

    def commit(self, sha256: str) -> None:
        """Make the object of what was written, whose SHA-256 this is."""
        self.closed = True
        if self._raw is None:
            part = bytes(self._part)
            ask(
                self.url,
                "write",
                lambda fs, path: fs.pipe_file(path, part),
                verb="write",
                passes=(),
            )
            return
        if self._part:
            self._send()  # not with the end: adlfs would send it twice where the end is tried again
        try:
            ask(self.url, "complete", lambda fs, path: self._complete(), verb="write", passes=())
        except SluiceError:
            # Perhaps it was done, and only the answer was lost: then there is no such upload now.
            if not holds(self.url, sha256):
                raise
        finally:
            with contextlib.suppress(AttributeError):
                self._raw.closed = True

    def _complete(self) -> None:
        """Azure makes the object by the last flush, the others by `commit`."""
        if isinstance(self._raw, AbstractBufferedFile):
            self._raw.forced = False  # so that it may be tried again
            self._raw.flush(force=True)
        self._raw.commit()

    def discard(self) -> None:
        """Give up: the store forgets the parts, if it can be reached; nobody waits for that."""
        self.closed = True
        self._part.clear()
        raw, self._raw = self._raw, None
        if isinstance(raw, AbstractBufferedFile):
            with contextlib.suppress(Exception):
                raw.discard()
            raw.closed = True  # else it would end the upload when it is collected
