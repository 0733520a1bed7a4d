"""Rows by place, gathered from the mapped files of several shards into one table.

Numbers, flags and texts are copied from the bytes of a file to where they were asked for, because
pyarrow takes some 10 us a column and shard. Columns of other types go by pyarrow.
"""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexes.metadata_files import AGAIN, Batch, damaged
from indexes.metadata_kernels import BITS, TEXT, copy_texts, find_rows, gather, lay_texts
from indexes.metadata_layout import plain_kind
from infra.errors import SluiceError

ALIGNED = 16  # bytes of the widest value
MOST_TEXT = 2**31 - 1  # bytes of a column whose offsets have 32 bits

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]


class Piece(NamedTuple):
    """Rows [n] of a batch, and their places [n] in the result."""

    batch: Batch
    rows: Ids
    places: Ids


@dataclass(frozen=True)
class Columns:
    """Which columns are asked for: the numbers of some of `every`, those of all shards together."""

    every: pa.Schema
    numbers: list[int]

    @cached_property
    def schema(self) -> pa.Schema:
        """Of the columns asked for."""
        return pa.schema(self.fields)

    @cached_property
    def fields(self) -> list[pa.Field]:
        """In the order asked."""
        return [self.every.field(number) for number in self.numbers]

    @cached_property
    def kinds(self) -> list[int]:
        """As indexes.metadata_kernels calls them."""
        return [plain_kind(field.type) for field in self.fields]

    def but(self, left_out: frozenset[int]) -> "Columns":
        """Without the columns of some numbers."""
        if left_out.isdisjoint(self.numbers):
            return self
        return Columns(self.every, [each for each in self.numbers if each not in left_out])


class Values(NamedTuple):
    """Plain columns in the making: indexes.metadata_kernels.gather tells of the arrays."""

    starts: list[int]
    values: Bytes
    valid: npt.NDArray[np.bool_]
    nulls: Ids
    begins: Ids
    sizes: Ids


def found(batches: Sequence[Batch], ids: Ids, places: Ids) -> Iterator[Piece]:
    """Where the rows of ids, which ascend, are in the batches of a shard.

    SluiceError for an id that is in none.
    """
    rows = np.empty(len(ids), np.int64)
    start = 0
    for batch in batches:
        if start < len(ids) and ids[start] <= batch.ids[-1]:
            end = start + find_rows(batch.ids, ids[start:], rows[start:])
            yield Piece(batch, rows[start:end], places[start:end])
            start = end
    if start < len(ids):
        told = f"{batches[0].url} has" if batches else "there are"
        raise SluiceError(f"{told} no metadata of the id {ids[start]}", AGAIN)


def gathered(pieces: Sequence[Piece], asked: Columns) -> pa.Table:
    """The rows of pieces (one or more), whose places are those of a table of as many rows.

    SluiceError, which names the file, for what is damaged.
    """
    unlaid = frozenset[int]().union(*(piece.batch.unlaid for piece in pieces))
    made = dict(_plain(pieces, asked.but(unlaid)))
    if len(made) < len(asked.numbers):
        made |= _others(pieces, asked.but(frozenset(made)))
    return pa.Table.from_arrays([made[number] for number in asked.numbers], schema=asked.schema)


def _others(pieces: Sequence[Piece], asked: Columns) -> dict[int, Any]:
    """Columns of any type, by number."""
    taken = [piece.batch.take(piece.rows, asked.schema) for piece in pieces]
    back = np.argsort(np.concatenate([piece.places for piece in pieces]))
    table = pa.Table.from_batches(taken, asked.schema).combine_chunks().take(pa.array(back))
    return dict(zip(asked.numbers, table.columns, strict=True))


def _plain(pieces: Sequence[Piece], asked: Columns) -> Iterator[tuple[int, pa.Array]]:
    """Columns by number, of all of which there are layouts; not those of too much text."""
    new = _values(pieces, asked)
    count = new.valid.shape[1]
    nulls = new.nulls.tolist()
    buffers = _buffers(pieces, asked, new)
    for place, (number, field) in enumerate(zip(asked.numbers, asked.fields, strict=True)):
        if not buffers[place]:
            continue
        column = pa.Array.from_buffers(field.type, count, buffers[place], nulls[place])
        if pa.types.is_string(field.type):
            _check_text(column, field, pieces)
        yield number, column


def _values(pieces: Sequence[Piece], asked: Columns) -> Values:
    """The values of columns, and where their texts are."""
    new = _room(asked.kinds, sum(len(piece.rows) for piece in pieces))
    numbers, starts = (np.array(each, np.int64) for each in (asked.numbers, new.starts))
    for batch, rows, places in pieces:
        if not gather(batch.file, batch.layout, numbers, rows, places, starts, *new[1:]):
            raise damaged(batch.url, "text lies outside of its column")
    return new


def _room(kinds: Sequence[int], count: int) -> Values:
    """Columns of `count` rows whose values are 0, and texts empty."""
    starts: list[int] = []
    texts = size = 0
    for kind in kinds:
        starts.append(texts if kind == TEXT else size)
        if kind == TEXT:
            texts += 1
        else:
            width = 1 if kind == BITS else kind
            size += -(-count * width // ALIGNED) * ALIGNED
    values = np.zeros(size, np.uint8)
    valid = np.empty((len(kinds), count), np.bool_)
    begins, sizes = np.zeros((2, texts, count), np.int64)
    return Values(starts, values, valid, np.zeros(len(kinds), np.int64), begins, sizes)


def _buffers(pieces: Sequence[Piece], asked: Columns, new: Values) -> list[list[Any]]:
    """What Arrow makes each column of; nothing for one of too much text."""
    count = new.valid.shape[1]
    texts, values = _texts(pieces, new), pa.py_buffer(new.values)
    valid = [_bitmap(new.valid[place]) if nulls else None for place, nulls in enumerate(new.nulls)]
    buffers: list[list[Any]] = []
    for present, kind, start in zip(valid, asked.kinds, new.starts, strict=True):
        if kind == TEXT:
            buffers.append([present, *texts[start]] if texts[start] else [])
        elif kind == BITS:
            buffers.append([present, _bitmap(new.values[start : start + count])])
        else:
            buffers.append([present, values.slice(start, kind * count)])
    return buffers


def _bitmap(flags: npt.NDArray[Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _texts(pieces: Sequence[Piece], new: Values) -> list[list[pa.Buffer]]:
    """Offsets and bytes of each column of text; nothing for one that 32 bits are too few for."""
    columns, count = new.sizes.shape
    offsets = np.empty((columns, count + 1), np.int32)
    targets = np.empty((columns, count), np.int64)
    texts = np.empty(lay_texts(new.sizes, offsets, targets, MOST_TEXT), np.uint8)
    for batch, _, places in pieces:
        copy_texts(batch.file, new.begins, new.sizes, targets, places, texts)
    offset_buffer, text_buffer = pa.py_buffer(offsets), pa.py_buffer(texts)
    buffers: list[list[pa.Buffer]] = []
    start = 0
    for column, size in enumerate(offsets[:, -1].tolist()):
        own = offset_buffer.slice(column * offsets.strides[0], offsets.strides[0])
        buffers.append([] if size < 0 else [own, text_buffer.slice(start, size)])
        start += max(size, 0)
    return buffers


def _check_text(column: pa.Array, field: pa.Field, pieces: Sequence[Piece]) -> None:
    """SluiceError, which names the file, for text that is no UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        for batch, rows, _ in pieces:
            batch.take(rows, pa.schema([field]))
        raise
