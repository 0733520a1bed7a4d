"""Files of metadata: uncompressed Arrow IPC, mapped, and found by id or by uid.

Each batch of at most BATCH rows has the caller's columns, among them "id" (ascending) and "uid",
and two more that tell where a uid is: the keys of its uids in order, and the row of each key.
A file of a schema alone has no rows.
"""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import FilePart

BATCH = 2**16  # rows: offsets of text stay within 32 bits
UID_KEY, UID_ROW = "_uid_key", "_uid_row"
LOOKUP = [pa.field(UID_KEY, pa.uint64()), pa.field(UID_ROW, pa.int32())]
MIXERS = np.array(  # odd: texts that differ in one word of 8 bytes have keys that differ
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64
)
AGAIN = "remove that index's folder and run `prefect run index` again"

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


def write_batches(folder: str, path: str, table: pa.Table) -> FilePart:
    """Write rows by ascending id; the same table gives the same bytes."""
    sink = pa.BufferOutputStream()
    schema = pa.schema([*table.schema.remove_metadata(), *LOOKUP])
    with pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, table.num_rows, BATCH):
            rows = table.slice(start, BATCH).combine_chunks()
            keys = uid_keys(rows.column("uid").to_pylist())
            order = np.argsort(keys, kind="stable").astype(np.int32)
            columns = [*rows.columns, pa.array(keys[order]), pa.array(order)]
            writer.write_table(pa.table(columns, schema=schema), BATCH)
    return filesystem.write_bytes(folder, path, sink.getvalue().to_pybytes())


def write_schema(folder: str, path: str, schema: pa.Schema) -> FilePart:
    """Write a schema, without its metadata, as a file without rows."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema.remove_metadata()):
        pass
    return filesystem.write_bytes(folder, path, sink.getvalue().to_pybytes())


def read_schema(url: str) -> pa.Schema:
    """What `write_schema` wrote."""
    with _naming(url):
        return pa.ipc.open_file(pa.BufferReader(filesystem.read_bytes(url))).schema


def united(schemas: Mapping[str, pa.Schema], first: pa.Schema) -> pa.Schema:
    """The columns of all files by URL together, after those of `first`."""
    try:
        return pa.unify_schemas([first, *schemas.values()], promote_options="permissive")
    except pa.ArrowException as error:
        some = next(iter(schemas))
        raise SluiceError(f"{some} and others do not agree: {error}", AGAIN) from error


def uid_keys(uids: Sequence[str | None]) -> Keys:
    """A 64-bit key of each uid. Two uids may share one, so who looks up compares the uids too."""
    text = np.array([_encoded(uid or "") for uid in uids], f"S{8 * len(MIXERS)}")
    words = text.view("<u8").reshape(len(text), len(MIXERS))
    return (words * MIXERS).sum(axis=1, dtype=np.uint64)


def _encoded(uid: str) -> bytes:
    """What a user takes for a uid may be no text; then it is none of ours."""
    return uid.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Batch:
    """Mapped rows of one shard, their ids, and the rows by key of uid.

    file: all bytes of the shard's file. schema: the columns of all shards together.
    """

    url: str
    file: Bytes
    schema: pa.Schema
    rows: pa.RecordBatch
    ids: Ids
    keys: Keys
    places: npt.NDArray[np.int32]

    @cached_property
    def layout(self) -> Ids:
        """Where in the file each column of `schema` lies: indexes.metadata_kernels."""
        from indexes.metadata_layout import layout  # numba, which not everyone needs

        return layout(self.schema, self.rows, self.file)

    @cached_property
    def unlaid(self) -> frozenset[int]:
        """The columns of `schema` that the layout does not tell of."""
        from indexes.metadata_layout import unlaid

        return unlaid(self.layout)

    def take(self, places: Ids, schema: pa.Schema) -> pa.RecordBatch:
        """The rows at places, as `schema`; SluiceError for text that is no UTF-8."""
        there = self.rows.schema.names
        rows = self.rows.select([name for name in schema.names if name in there])
        taken = rows.take(pa.array(places))
        with _naming(self.url):
            taken.validate(full=True)
        return self._conformed(taken, schema)

    def conformed(self, schema: pa.Schema) -> pa.RecordBatch:
        """All rows with the columns of `schema`: null where it has none, cast where it must be."""
        return self._conformed(self.rows, schema)

    def _conformed(self, rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        if rows.schema.equals(schema):
            return rows
        with _naming(self.url):
            columns = [
                rows.column(field.name).cast(field.type)
                if field.name in rows.schema.names
                else pa.nulls(rows.num_rows, field.type)
                for field in schema
            ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def find(self, uids: Sequence[str], keys: Keys) -> Iterator[tuple[int, int]]:
        """Which of `uids` are here, and the id of the first row that each is the uid of."""
        low = np.searchsorted(self.keys, keys)
        low[low == len(self.keys)] = 0
        for asked in np.flatnonzero(self.keys[low] == keys).tolist():
            place = int(low[asked])
            while place < len(self.keys) and self.keys[place] == keys[asked]:
                row = int(self.places[place])
                stored: Any = self.rows.column("uid")[row].as_buffer()
                if stored is not None and stored.to_pybytes() == _encoded(uids[asked]):
                    yield asked, int(self.ids[row])
                    break
                place += 1


def map_batches(url: str, schema: pa.Schema | None = None) -> list[Batch]:
    """The batches of a file, of which nothing but their places is read; a remote one whole.

    schema: the columns of all shards together; without it those of this one.
    """
    with _naming(url):
        if not filesystem.is_local(url):
            return _batches(url, pa.py_buffer(filesystem.read_bytes(url)), schema)
        with pa.memory_map(filesystem.resolve(url)[1]) as source:  # the map outlives its file
            return _batches(url, source.read_buffer(), schema)


def _batches(url: str, file: pa.Buffer, schema: pa.Schema | None) -> list[Batch]:
    reader = pa.ipc.open_file(file)
    own: pa.Schema = reader.schema
    expected = {pa.field("id", pa.int64()), pa.field("uid", pa.string()), *LOOKUP}
    if len(set(own.names)) < len(own) or not expected <= set(own):
        raise SluiceError(f"{url} is not what an index knows of its rows", AGAIN)
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    content = np.frombuffer(file, np.uint8)
    return [_batch(url, content, batch, schema) for batch in batches if batch.num_rows]


def _batch(url: str, file: Bytes, batch: pa.RecordBatch, schema: pa.Schema | None) -> Batch:
    batch.validate()
    ids, keys, places = (batch.column(name).to_numpy() for name in ("id", UID_KEY, UID_ROW))
    rows = batch.drop_columns([UID_KEY, UID_ROW])
    return Batch(url, file, schema or rows.schema, rows, ids, keys, places)


def check_batches(batches: list[Batch]) -> list[Batch]:
    """The batches, once nothing in them points outside of them, which would end the process."""
    for batch in batches:
        with _naming(batch.url):
            for column in batch.rows.columns:
                column.validate(full=not _is_text(column.type))
                if _is_text(column.type) and _runs_backwards(_offsets(column)):
                    raise pa.ArrowInvalid("text runs backwards")
            if (batch.ids[1:] <= batch.ids[:-1]).any():
                raise pa.ArrowInvalid("ids do not ascend")
            if batch.places.min() < 0 or batch.places.max() >= len(batch.ids):
                raise pa.ArrowInvalid("uids have no rows")
    return batches


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)


def _runs_backwards(offsets: npt.NDArray[np.int32]) -> bool:
    return bool((offsets[1:] < offsets[:-1]).any())  # their differences may not fit 32 bits


def _offsets(column: pa.Array) -> npt.NDArray[np.int32]:
    data: Any = column.buffers()[1]
    return np.frombuffer(data, np.int32, len(column) + 1, 4 * column.offset)


@contextlib.contextmanager
def _naming(url: str) -> Generator[None]:
    """What pyarrow says of a file becomes a SluiceError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise SluiceError(f"{url} is missing", AGAIN) from error
    except PermissionError as error:
        raise SluiceError(f"{url} cannot be read", "let this user read it") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(url, str(error).splitlines()[0]) from error


def damaged(url: str, why: str) -> SluiceError:
    """What a file that is not as it was written is told as."""
    return SluiceError(f"{url} is damaged: {why}", AGAIN)
