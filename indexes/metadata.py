"""The facts about each indexed row: what `where` asks and what hits show.

metadata/00000.arrow    one file a shard, rows by ascending id: indexes.metadata_files
columns.arrow           beside a merged index: the columns of all shards together, no rows

Which rows there are the index's ids tell, so that of a thousand shards only those files are mapped
whose rows are asked for; what is not looked at is not read.
"""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from indexes import conditions
from indexes.conditions import Facets, Histogram, Source
from indexes.embeddings import Embedding, score_columns
from indexes.metadata_files import (
    AGAIN,
    Batch,
    check_batches,
    map_batches,
    read_schema,
    uid_keys,
    united,
    write_batches,
    write_schema,
)
from infra.artifacts import Artifact, Part
from infra.dataset import ROW_BITS, Dataset, index_id, part_name, read_table
from infra.digests import digest
from infra.errors import SluiceError
from infra.filesystem import FilePart, join

if TYPE_CHECKING:
    from indexes.metadata_rows import Columns, Piece

FOLDER = "metadata"
COLUMNS = "columns.arrow"
ROW_COLUMNS = ["uid", "caption", "url", "width", "height", "format", "bytes", "sha256"]
SHARDS_OPEN = 4096  # whose maps are held; a process may have some 65,000
CHOICES = 64  # of columns, whose types are held

EMPTY = pa.schema([("id", pa.int64()), ("uid", pa.string())])

Ids = npt.NDArray[np.int64]


def shard_metadata(
    dataset: Dataset, embedding: Embedding, shard: int, rows: npt.NDArray[np.integer]
) -> pa.Table:
    """One row for each row number of the shard, which ascend.

    Columns: id, the facts of rows/, "concept" where the shard is labelled, and every score of
    the version as SCORER_COLUMN, such as clip_similarity; those that rows/ already tells
    (width, height) are left out.
    """
    scores = score_columns(dataset) or {embedding.scorer: embedding.scores}
    chosen = pa.array(rows, pa.int64())
    facts = dataset.rows(shard, [*ROW_COLUMNS, "meta"]).take(chosen)
    columns: dict[str, Any] = {"id": pa.array(index_id(shard, 0) + np.asarray(rows, np.int64))}
    columns.update({name: facts.column(name) for name in ROW_COLUMNS})
    concepts = pa.array(_concepts(facts.column("meta").to_pylist()), pa.string())
    if concepts.null_count < len(concepts):
        columns["concept"] = concepts
    for name, artifact in scores.items():
        _add_scores(columns, name, artifact, shard, chosen)
    return pa.table(columns)


def _concepts(meta: list[str | None]) -> list[str | None]:
    found: list[str | None] = []
    for text in meta:
        value: Any = json.loads(text) if text else None
        concept = value.get("concept") if isinstance(value, dict) else None
        found.append(concept if isinstance(concept, str) else None)
    return found


def _add_scores(
    columns: dict[str, Any], name: str, scores: Artifact, shard: int, rows: pa.Array
) -> None:
    table = read_table(scores.path("columns", f"{part_name(shard)}.parquet")).take(rows)
    for column in table.column_names:
        if column not in ROW_COLUMNS:
            values = table.column(column)
            if pa.types.is_dictionary(values.type):  # of each shard another dictionary
                values = values.cast(values.type.value_type)
            columns[f"{name}_{column}"] = values


def metadata_path(shard: int) -> str:
    return f"{FOLDER}/{part_name(shard)}.arrow"


def write_metadata(folder: str, shard: int, table: pa.Table) -> FilePart:
    """Write the metadata of a shard, as `shard_metadata` gives it; the same table, same bytes."""
    return write_batches(folder, metadata_path(shard), table)


def columns_digest(table: pa.Table) -> str:
    """The same for two shards' metadata when, and only when, their columns are the same."""
    return digest([[field.name, str(field.type)] for field in table.schema])


def write_columns(folder: str, codes_url: str, parts: Iterable[Part]) -> FilePart:
    """Write the columns of the shards of codes together; one that some lack is null there.

    Of shards with the same columns, by the `columns_digest` that each part keeps, one is read.
    """
    paths: dict[str, str] = {}
    for part in parts:
        if part.kept:
            paths.setdefault(part.extra["columns"], metadata_path(int(part.name)))
    urls = [join(codes_url, path) for path in paths.values()]
    return write_schema(folder, COLUMNS, _union(urls))


def _union(urls: Iterable[str]) -> pa.Schema:
    mapped = ((url, map_batches(url)) for url in urls)
    return united({url: batches[0].rows.schema for url, batches in mapped if batches}, EMPTY)


class Metadata:
    """The facts about each row of an index, mapped from a file for each shard.

    A shard's file is mapped when one of its rows is first asked for; a condition, a histogram and
    a uid ask all shards. A remote store's files are read whole, each once.

    >>> facts = Metadata.open(index.url, codes.url, ids)
    >>> facts.take(facts.matching("width >= 256 and clip.similarity > 0.2"))
    """

    def __init__(
        self, folder: str, ids: Ids, schema: pa.Schema, removed: Ids | None = None
    ) -> None:
        """folder: where metadata/ lies. ids: of every row, ascending; they tell the shards.

        schema: of all shards together. removed: ids that are left out, ascending.
        """
        self.schema = schema
        self._every = ids
        self._removed = np.empty(0, np.int64) if removed is None else removed
        self._gone = np.searchsorted(ids, self._removed)[self._holds(self._removed)]
        self._asked = lru_cache(CHOICES)(lambda names: _columns(schema, names))
        self._checked = lru_cache(SHARDS_OPEN)(
            lambda shard: check_batches(map_batches(join(folder, metadata_path(shard)), schema))
        )

    @staticmethod
    def open(index_url: str, codes_url: str, ids: Ids, removed: Ids | None = None) -> "Metadata":
        """Of a merged index and the codes that it was merged from; no shard is read."""
        return Metadata(codes_url, ids, read_schema(join(index_url, COLUMNS)), removed)

    def __len__(self) -> int:
        return len(self._every) - len(self._gone)

    @property
    def columns(self) -> list[str]:
        """What `where` can ask about."""
        return list(self.schema.names)

    @property
    def ids(self) -> Ids:
        """Every id, ascending; where some are removed 8 bytes a row, made at each call."""
        return np.delete(self._every, self._gone) if len(self._gone) else self._every

    def at(self, places: npt.NDArray[np.integer]) -> Ids:
        """The ids at places among all ids, of which 0 is the first."""
        before = self._gone - np.arange(len(self._gone))  # ids that stay before each removed one
        return self._every[places + np.searchsorted(before, places, side="right")]

    def _holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which of these ids there are, removed ones included."""
        places = np.searchsorted(self._every, ids)
        held = places < len(self._every)
        held[held] = self._every[places[held]] == ids[held]
        return held

    def take(self, ids: Ids, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of ids, in the order asked; all columns or some of them.

        SluiceError for an id that is not here.
        """
        from indexes.metadata_rows import found, gathered  # numba, which not everyone needs

        asked = self._asked(None if columns is None else tuple(columns))
        if not len(ids):
            return asked.schema.empty_table()
        order = np.argsort(ids, kind="stable")
        ascending = np.asarray(ids, np.int64)[order]
        held = self._holds(ascending)
        if not held.all():
            raise SluiceError(f"there are no metadata of the id {ascending[~held][0]}", AGAIN)
        shards = ascending >> np.int64(ROW_BITS)
        bounds = [0, *(np.flatnonzero(shards[1:] != shards[:-1]) + 1).tolist(), len(ids)]
        if len(bounds) - 1 > SHARDS_OPEN:  # a part of them at a time, so that few maps are held
            ends = [*bounds[:-1:SHARDS_OPEN], len(ids)]
            parts = [self.take(ascending[low:high], columns) for low, high in pairwise(ends)]
            return pa.concat_tables(parts).combine_chunks().take(pa.array(np.argsort(order)))
        pieces: list[Piece] = []
        for start, stop in pairwise(bounds):
            batches = self._checked(int(shards[start]))
            pieces += found(batches, ascending[start:stop], order[start:stop])
        return gathered(pieces, asked)

    def matching(self, where: str) -> Ids:
        """The ids of the rows for which a SQL condition over `columns` is true, ascending."""
        return conditions.matching_ids(self._source(), where)

    def histogram(self, column: str, where: str | None = None, bins: int = 40) -> Histogram:
        """How the finite numbers of a column spread among the rows that meet a condition."""
        return conditions.histogram(self._source(), column, where, bins)

    def facets(self, column: str, where: str | None = None, top: int = 20) -> Facets:
        """The most frequent values of a column among the rows that meet a condition."""
        return conditions.facets(self._source(), column, where, top)

    def find(self, uid: str) -> int | None:
        """The id of the first row with this uid; None where there is none."""
        (found,) = self.find_all([uid]).tolist()
        return None if found < 0 else found

    def find_all(self, uids: Sequence[str]) -> Ids:
        """The ids of many uids; -1 for one that is not here."""
        found = np.full(len(uids), -1, np.int64)
        keys = uid_keys(uids)
        for batch in self._batches():
            for asked, identifier in batch.find(uids, keys):
                if found[asked] < 0:
                    found[asked] = identifier
        found[np.isin(found, self._removed)] = -1
        return found

    def every(self, uids: Sequence[str]) -> pa.Table:
        """Id and uid of every row that has one of these uids."""
        wanted = pa.array(uids, pa.string())
        found = [each.filter(pc.field("uid").isin(wanted)) for each in self._kept_rows(EMPTY)]
        return pa.Table.from_batches(found, EMPTY)

    def table(self) -> pa.Table:
        """All rows by ascending id, as a table over the mapped files; every map stays open."""
        return pa.Table.from_batches(self._kept_rows(self.schema), self.schema)

    def _batches(self) -> Iterator[Batch]:
        """Those of each shard, which starts where the ids of the one before end."""
        place = 0
        while place < len(self._every):
            shard = int(self._every[place]) >> ROW_BITS
            yield from self._checked(shard)
            place = int(np.searchsorted(self._every, index_id(shard + 1, 0)))

    def _source(self) -> Source:
        return Source(self.schema, lambda: self._kept_rows(self.schema))

    def _kept_rows(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All rows but removed ones; nothing is copied but what has another type in `schema`."""
        for batch in self._batches():
            rows = batch.conformed(schema)
            gone = np.flatnonzero(np.isin(batch.ids, self._removed))
            for start, stop in pairwise([-1, *gone.tolist(), len(batch.ids)]):
                if stop - start > 1:
                    yield rows.slice(start + 1, stop - start - 1)


def _columns(schema: pa.Schema, names: Sequence[str] | None) -> "Columns":
    """Those of some names, or all; KeyError for one that is none."""
    from indexes.metadata_rows import Columns

    numbers = {name: number for number, name in enumerate(schema.names)}
    return Columns(schema, [numbers[name] for name in (numbers if names is None else names)])
