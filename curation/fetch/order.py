"""Records that finish in any order, given out in the order in which they began.

One slow server holds up the order, not the work: what finishes behind it waits, beyond
`HELD` bytes in a temporary file, so that a worker's memory does not depend on it.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

from curation.sources.base import Record

HELD = 64 * 2**20  # bytes of images that wait in memory


class InOrder:
    """Numbered records go in, from 0; out they come by number, each once."""

    def __init__(self, held: int = HELD) -> None:
        self._limit, self._held, self._next = held, 0, 0
        # record, its bytes that count as held, and its place on disk
        self._waiting: dict[int, tuple[Record, int, tuple[int, int] | None]] = {}
        self._spilled: IO[bytes] | None = None

    @property
    def ready(self) -> bool:
        return self._next in self._waiting

    def add(self, number: int, record: Record) -> None:
        held, place = 0, None
        if record.image is not None and number != self._next:
            if self._held + len(record.image) > self._limit:
                record, place = replace(record, image=None), self._spill(record.image)
            else:
                held = len(record.image)
        self._held += held
        self._waiting[number] = record, held, place

    def take(self) -> Iterator[Record]:
        """All records whose turn has come."""
        while self.ready:
            record, held, place = self._waiting.pop(self._next)
            self._next += 1
            self._held -= held
            if place is not None and self._spilled is not None:
                self._spilled.seek(place[0])
                record = replace(record, image=self._spilled.read(place[1]))
            yield record

    def _spill(self, image: bytes) -> tuple[int, int]:
        if self._spilled is None:
            self._spilled = tempfile.TemporaryFile(prefix="sluice-")
        start = self._spilled.seek(0, 2)
        self._spilled.write(image)
        return start, len(image)

    def close(self) -> None:
        if self._spilled is not None:
            self._spilled.close()
