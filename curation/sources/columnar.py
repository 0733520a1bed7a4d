"""Parquet and Arrow files read piece by piece: only some columns, a few rows at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from infra import filesystem
from infra.errors import SluiceError

BATCH = 256  # rows in memory at once while images are read
BUFFER = 2**20  # bytes of a column in memory at once, not its whole chunk
ROWS_PER_BYTE = 2**16  # of a Parquet file, at most: pages of one repeated value hold no more
DAMAGED = "damaged_row_group"


class Groups(Protocol):
    """An open file: its columns, and the rows of its row groups (Arrow: record batches)."""

    schema: pa.Schema
    sizes: tuple[int, ...]

    def batches(self, names: list[str], group: int) -> Iterator[pa.RecordBatch]:
        """The rows of a group in order, a few at once where they can be cut."""
        ...


class ParquetGroups:
    """A Parquet file; SluiceError where it is none."""

    def __init__(self, raw: BinaryIO, url: str, batch: int = BATCH) -> None:
        self._batch = batch
        try:
            self._file = pq.ParquetFile(raw, pre_buffer=False, buffer_size=BUFFER)
            metadata = self._file.metadata
            self.schema = self._file.schema_arrow
            self.sizes = tuple(
                metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)
            )
            check_names(self.schema)
            if sum(self.sizes) != metadata.num_rows or min(self.sizes, default=0) < 0:
                raise ValueError("its footer contradicts itself")
            if metadata.num_rows > raw.seek(0, 2) * ROWS_PER_BYTE:
                raise ValueError("its footer claims more rows than it can hold")
        except (pa.ArrowException, OSError, ValueError) as error:
            raise not_whole(url, "Parquet", error) from error

    def batches(self, names: list[str], group: int) -> Iterator[pa.RecordBatch]:
        return self._file.iter_batches(
            self._batch, row_groups=[group], columns=names, use_threads=False
        )


def check_names(schema: pa.Schema) -> None:
    """Raises UnicodeDecodeError where a column's name is no UTF-8: nobody could ask for it."""
    tuple(schema.names)


class NotWholeError(SluiceError):
    """A file that can be read, but is not what its name says."""


def not_whole(url: str, kind: str, error: Exception) -> SluiceError:
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable(url, error)
    return NotWholeError(
        f"{url} is no whole {kind} file: {error}",
        "fetch or write it again, or take it out of the source: move it away, or name the "
        "others with a pattern",
    )


def unreadable(url: str, error: OSError) -> SluiceError:
    return SluiceError(
        f"cannot read {url}: {error.strerror or error}", "check the path and its permissions"
    )


def changed(url: str) -> SluiceError:
    return SluiceError(
        f"{url} has changed since the source was listed", "run again: the source is listed anew"
    )


def open_raw(url: str, in_order: bool = False) -> BinaryIO:
    """A file to be read from here and there, or in order; SluiceError where that cannot be."""
    try:
        # Arrow asks for what it needs, a column at a time: reading ahead would fetch it in vain.
        return filesystem.open_read(url, ahead=in_order)
    except OSError as error:
        raise unreadable(url, error) from error


def read_rows(
    groups: Groups, names: list[str], group: int, skip: int, count: int
) -> Iterator[list[dict[str, Any]]]:
    """Rows `skip` to `skip + count` of a group in pieces; stops early where it is damaged."""
    try:
        for batch in groups.batches(names, group):
            passed = min(skip, batch.num_rows)
            skip -= passed
            piece = batch.slice(passed, count)
            count -= piece.num_rows
            if piece.num_rows:
                yield plain_rows(piece)
            if not count:
                return
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network failed, not the file
        return


class Replaced(str):
    """Text whose bytes were no UTF-8."""


def plain_rows(piece: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch as plain Python.

    Parquet does not promise that text is UTF-8, nor that a date is one that Python knows: such
    a cell is `Replaced` or None.
    """
    try:
        return piece.to_pylist()
    except (ValueError, OverflowError):
        columns = [_plain_column(column) for column in piece.columns]
        names = piece.schema.names
        return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _plain_column(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except (ValueError, OverflowError):
        if is_text(column.type) and not pa.types.is_dictionary(column.type):
            return [_text(value) for value in column.cast(pa.large_binary()).to_pylist()]
        return [_plain_cell(cell) for cell in column]


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return Replaced(value.decode("utf-8", "replace"))


def _plain_cell(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError):
        return None


def is_text(kind: pa.DataType) -> bool:
    """Columns of strings, plain or by dictionary, and those of nothing but nulls."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether bytes stand anywhere in a type; Hugging Face's images are structs of bytes."""
    if is_binary(kind):
        return True
    return any(holds_bytes(kind.field(index).type) for index in range(kind.num_fields))


def riders(schema: pa.Schema, roles: Mapping[str, str]) -> list[str]:
    """The columns to read: those with a role, and all others that hold no bytes."""
    named = set(roles.values())
    return [field.name for field in schema if field.name in named or not holds_bytes(field.type)]


def runs(sizes: Sequence[int], rows: int) -> Iterator[tuple[tuple[int, ...], int, int, int]]:
    """Runs of whole groups of at most `rows` rows; a group larger than that is cut.

    Yields (groups, number of the first row, rows of the first group to skip, rows).
    """
    first = 0
    run: list[int] = []
    held = 0
    for group, size in enumerate(sizes):
        if run and held + size > rows:
            yield tuple(run), first, 0, held
            first, run, held = first + held, [], 0
        if size > rows:
            for skip in range(0, size, rows):
                yield (group,), first + skip, skip, min(rows, size - skip)
            first += size
        elif size:
            run.append(group)
            held += size
    if run:
        yield tuple(run), first, 0, held
