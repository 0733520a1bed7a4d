"""The facts about each indexed row: what `where` asks and what hits show.

metadata/00000.arrow    one file a shard, rows by ascending id: indexes.metadata_files

Files are mapped: what is not looked at is not read, and opening many rows takes no time.
"""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

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
    conformed,
    map_batches,
    uid_keys,
    write_batches,
)
from infra.artifacts import Artifact
from infra.dataset import ROW_BITS, Dataset, index_id, of_shard, part_name, read_table
from infra.errors import SluiceError
from infra.filesystem import FilePart, join

FOLDER = "metadata"
ROW_COLUMNS = ["uid", "caption", "url", "width", "height", "format", "bytes", "sha256"]
SHARDS_OPEN = 4096  # whose maps are held; a process may have some 65,000

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


class Metadata:
    """The facts about each row of an index, mapped from a file for each shard.

    A remote store's files are read whole, each once, when they are first needed.

    >>> facts = Metadata.open("store/curated/VERSION/index/DIGEST", shards)
    >>> facts.take(facts.matching("width >= 256 and clip.similarity > 0.2"))
    """

    def __init__(self, files: Mapping[int, str], removed: Ids | None = None) -> None:
        """files: the URL of each shard's file; they need not lie in one folder.

        removed: ids that are left out, ascending.
        """
        files = dict(sorted(files.items()))
        self._removed = np.empty(0, np.int64) if removed is None else removed
        mapped = lru_cache(SHARDS_OPEN)(lambda shard: map_batches(files[shard]))
        self._files = files
        self._mapped = mapped
        self._checked = lru_cache(SHARDS_OPEN)(lambda shard: check_batches(mapped(shard)))

    @staticmethod
    def open(folder: str, shards: Iterable[int], removed: Ids | None = None) -> "Metadata":
        """The metadata in `<folder>/metadata/`; nothing is read yet."""
        return Metadata({shard: join(folder, metadata_path(shard)) for shard in shards}, removed)

    @staticmethod
    def of(artifact: Artifact, removed: Ids | None = None) -> "Metadata":
        """The metadata among the files of an artifact, without those of removed ids."""
        paths = [file.path for part in artifact.parts for file in part.files]
        return Metadata(
            {
                int(path.rpartition("/")[2].removesuffix(".arrow")): artifact.path(path)
                for path in paths
                if path.startswith(f"{FOLDER}/")
            },
            removed,
        )

    def __len__(self) -> int:
        return len(self.ids) if len(self._removed) else int(self._counts.sum())

    @property
    def columns(self) -> list[str]:
        """What `where` can ask about."""
        return list(self.schema.names)

    @cached_property
    def schema(self) -> pa.Schema:
        """Of all shards together: a column that some lack is null there."""
        batches = (batch for shard in self._files for batch in self._mapped(shard))
        schemas = dict.fromkeys(batch.rows.schema for batch in batches)
        try:
            return pa.unify_schemas([EMPTY, *schemas], promote_options="permissive")
        except pa.ArrowException as error:
            first = next(iter(self._files.values()))
            raise SluiceError(f"{first} and others do not agree: {error}", AGAIN) from error

    @property
    def ids(self) -> Ids:
        """Every id, ascending; 8 bytes a row, made at each call."""
        every = [np.empty(0, np.int64), *(batch.ids for batch in self._batches())]
        ids = np.concatenate(every)
        return ids[~np.isin(ids, self._removed)] if len(self._removed) else ids

    def at(self, places: npt.NDArray[np.integer]) -> Ids:
        """The ids at places among all ids, of which 0 is the first."""
        if len(self._removed):
            return self.ids[places]
        ends = np.cumsum(self._counts)
        which = np.searchsorted(ends, places, side="right")
        found = np.empty(len(places), np.int64)
        for shard in np.unique(which).tolist():
            ids = np.concatenate([batch.ids for batch in self._mapped(list(self._files)[shard])])
            here = which == shard
            found[here] = ids[places[here] - (ends[shard] - len(ids))]
        return found

    def take(self, ids: Ids, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of ids, in the order asked; all columns or some of them.

        SluiceError for an id that is not here.
        """
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        order = np.argsort(ids, kind="stable")
        ascending = np.asarray(ids, np.int64)[order]
        taken = [conformed(batch, schema) for batch in self._taken(ascending, columns)]
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.Table.from_batches(taken, schema).combine_chunks().take(pa.array(back))

    def _taken(self, ids: Ids, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        for shard in np.unique(ids >> np.int64(ROW_BITS)).tolist():
            wanted = ids[of_shard(ids, shard)]
            for batch in self._checked(shard) if shard in self._files else ():
                end = int(np.searchsorted(wanted, batch.ids[-1], side="right"))
                if end:
                    yield batch.take(wanted[:end], columns)
                wanted = wanted[end:]
            if len(wanted):
                raise SluiceError(f"there are no metadata of the id {wanted[0]}", AGAIN)

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
        rows = (batch.select(["id", "uid"]) for batch in self._kept_rows())
        found = [each.filter(pc.field("uid").isin(wanted)) for each in rows]
        return pa.Table.from_batches(found, EMPTY)

    def table(self) -> pa.Table:
        """All rows by ascending id, as a table over the mapped files; every map stays open."""
        source = self._source()
        return pa.Table.from_batches(list(source.batches()), source.schema)

    @cached_property
    def _counts(self) -> npt.NDArray[np.int64]:
        batches = [self._mapped(shard) for shard in self._files]
        return np.array([sum(len(batch.ids) for batch in each) for each in batches], np.int64)

    def _batches(self) -> Iterator[Batch]:
        return (batch for shard in self._files for batch in self._checked(shard))

    def _source(self) -> Source:
        schema = self.schema
        return Source(schema, lambda: (conformed(rows, schema) for rows in self._kept_rows()))

    def _kept_rows(self) -> Iterator[pa.RecordBatch]:
        """All rows but removed ones; nothing is copied."""
        for batch in self._batches():
            gone = np.flatnonzero(np.isin(batch.ids, self._removed))
            for start, stop in pairwise([-1, *gone.tolist(), len(batch.ids)]):
                if stop - start > 1:
                    yield batch.rows.slice(start + 1, stop - start - 1)
