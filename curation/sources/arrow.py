"""Arrow IPC files, streams or with a footer, read record batch by record batch.

Format: Arrow columnar specification, "Serialization and Interprocess Communication". The batches
are found by the lengths in the messages' heads, so that listing a file reads no image.
"""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from curation.sources.columnar import BATCH, check_names, not_whole

MAGIC = b"ARROW1\0\0"
FEATHER_1 = b"FEA1"
CONTINUATION = 0xFFFFFFFF
HEAD_LIMIT = 64 * 2**20  # bytes of a message without its body
SCHEMA, DICTIONARY, RECORDS = 1, 2, 3  # kinds of message


class ArrowGroups:
    """An Arrow IPC file; its groups are the record batches. SluiceError where it is none."""

    def __init__(self, raw: BinaryIO, url: str) -> None:
        self._raw = raw
        try:
            messages = list(_messages(raw))
            if not messages or messages[0].kind != SCHEMA:
                raise ValueError("it does not begin with a schema")
            self._shared = [message for message in messages if message.kind != RECORDS]
            self._records = [message for message in messages if message.kind == RECORDS]
            self.schema = pa.ipc.open_stream(_Ranges(raw, self._shared)).schema
            check_names(self.schema)
        except (pa.ArrowException, OSError, ValueError, IndexError, struct.error) as error:
            raise not_whole(url, "Arrow", error) from error
        self.sizes = tuple(message.rows for message in self._records)

    def batches(self, names: list[str], group: int) -> Iterator[pa.RecordBatch]:
        wanted = self._records[group]
        before = [message for message in self._shared if message.start < wanted.start]
        options = pa.ipc.IpcReadOptions(
            included_fields=[self.schema.get_field_index(name) for name in names],
            use_threads=False,
        )
        reader = pa.ipc.open_stream(_Ranges(self._raw, [*before, wanted]), options=options)
        batch = reader.read_next_batch()
        _check(batch, wanted)
        for start in range(0, batch.num_rows, BATCH):
            yield batch.slice(start, BATCH)


class _Message:
    """Where a message stands (bytes), what it is, and the rows it holds."""

    def __init__(self, start: int, head: bytes, prefix: int) -> None:
        message = struct.unpack_from("<I", head)[0]
        body = _field(head, message, 3)
        kind = _field(head, message, 1)
        self.start = start
        self.kind = head[kind] if kind else 0
        self.length = prefix + len(head) + (struct.unpack_from("<q", head, body)[0] if body else 0)
        self.rows = 0
        if self.kind == RECORDS:
            header = _field(head, message, 2)
            header += struct.unpack_from("<I", head, header)[0]
            rows = _field(head, header, 0)
            self.rows = struct.unpack_from("<q", head, rows)[0] if rows else 0
        held = self.length - prefix - len(head)
        # An image, or the offset of none, is more than a byte.
        if held < 0 or not 0 <= self.rows <= held:
            raise ValueError("a message that cannot hold the rows it claims")


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table stands, 0 where it is left out."""
    entries = table - struct.unpack_from("<i", data, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", data, entries)[0]:
        return 0
    offset = struct.unpack_from("<H", data, entries + place)[0]
    return table + offset if offset else 0


def _messages(raw: BinaryIO) -> Iterator[_Message]:
    end = raw.seek(0, 2)
    raw.seek(0)
    magic = raw.read(len(MAGIC))
    if magic.startswith(FEATHER_1):
        raise ValueError("it is Feather version 1, which came before Arrow's format")
    place = len(MAGIC) if magic == MAGIC else 0
    while place < end:
        raw.seek(place)
        mark = raw.read(8)
        if len(mark) < 8:
            break
        prefix, size = 8, int.from_bytes(mark[4:], "little")
        if int.from_bytes(mark[:4], "little") != CONTINUATION:  # before Arrow 0.15
            prefix, size = 4, int.from_bytes(mark[:4], "little")
        if not size:
            return
        if size > min(HEAD_LIMIT, end - place):
            raise ValueError("a message is longer than the file")
        raw.seek(place + prefix)
        message = _Message(place, raw.read(size), prefix)
        place += message.length
        if place > end:
            raise ValueError("it ends inside a message")
        yield message


class _Ranges(io.RawIOBase):
    """Some messages of a file as if they were all of it."""

    def __init__(self, raw: BinaryIO, messages: list[_Message]) -> None:
        self._raw = raw
        self._left = [(message.start, message.length) for message in reversed(messages)]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        pieces: list[bytes] = []
        while self._left and size:
            start, length = self._left.pop()
            wanted = length if size < 0 else min(size, length)
            self._raw.seek(start)
            piece = self._raw.read(wanted)
            pieces.append(piece)
            size -= len(piece) if size > 0 else 0
            if not piece:
                break
            if len(piece) < length:
                self._left.append((start + len(piece), length - len(piece)))
        return b"".join(pieces)


def _check(batch: pa.RecordBatch, message: _Message) -> None:
    """Arrow trusts the offsets in a file; these come from anywhere. Raises pa.ArrowInvalid."""
    if batch.num_rows != message.rows:
        raise pa.ArrowInvalid("not the rows its head promised")
    for column in batch.columns:
        text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        # As bytes: text that is no UTF-8 costs its row, not the batch.
        (column.cast(pa.large_binary()) if text else column).validate(full=True)
