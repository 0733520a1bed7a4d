"""One row: its columns, what was decided about it, its stored duplicates, its picture.

Verdicts and pairs lie in the version that a curated one was made from (its pool); the curated
version's settings name them. Rows of the pool are found as well, so that what was dropped can be
shown.
"""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

import io
import time
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexes.embeddings import store_of, vectors_of
from indexes.metadata import shard_metadata
from indexes.pictures import decode, originals
from indexes.search import Index
from indexes.service.columns import Columns, plain_rows
from indexes.service.errors import RefusalError
from infra import filesystem
from infra.dataset import Dataset, index_id, open_dataset, part_name, read_table, shard_and_row
from infra.filesystem import join

EDGES = "edges.parquet"
STARS = ("exact", "pixels")  # kinds of pairs that join every row of a group to one row of it
SHOWN = 50  # duplicates of a row, the closest first
REMEMBERED = 100_000  # places of the pool's rows
QUALITY = 85  # of a thumbnail, as JPEG has it


class Decided(NamedTuple):
    """Where decisions over a version lie. pool: the version they are row-aligned with."""

    pool: Dataset
    verdicts: str
    edges: str | None


def decided_of(dataset: Dataset) -> Decided | None:
    """The decisions that made a curated version, or the one it is a subset of; None without."""
    while isinstance(of := dataset.artifact.settings.get("of"), dict):
        dataset = open_dataset(store_of(dataset), f"{of['dataset']}@{of['version']}")
    match dataset.artifact.settings:
        case {
            "source": {"dataset": str(name), "version": str(version)},
            "verdicts": str(verdicts),
            **more,
        }:
            pool = open_dataset(store_of(dataset), f"{name}@{version}")
            edges = more.get("edges")
            found = join(pool.url, "edges", edges) if isinstance(edges, str) else None
            return Decided(pool, join(pool.url, "verdicts", verdicts), found)
        case _:
            return None


class Rows:
    """The rows of an index and of the pool behind it. patience: seconds to look for a uid."""

    def __init__(self, index: Index, columns: Columns, patience: float) -> None:
        self._index, self._columns, self._patience = index, columns, patience
        self._decided = decided_of(index.dataset)
        self._places: dict[str, int] = {}  # of the pool's rows, once they were told or found

    def row(self, uid: str) -> dict[str, Any]:
        """Columns, verdict and duplicates of a row of the index or of its pool; 404 elsewhere."""
        identifier, inside = self._find(uid)
        if inside:
            (columns,) = self._columns.rows(np.array([identifier]))
        else:
            columns = self._of_pool(identifier)
        if self._decided is None:
            return {"columns": columns, "verdict": None, "duplicates": []}
        verdict = self._verdict(self._decided, identifier)
        return {
            "columns": columns,
            "verdict": verdict,
            "duplicates": list(self._duplicates(self._decided, identifier)),
        }

    def thumbnail(self, uid: str, size: int) -> bytes:
        """A JPEG of at most `size` pixels a side, encoded anew; 404 without a picture."""
        identifier, inside = self._find(uid)
        decided = self._decided
        dataset = self._index.dataset if inside or decided is None else decided.pool
        data = originals(dataset.url, [identifier]).get(identifier)
        if data is None:
            raise RefusalError(404, f"{uid!r} has no picture in {dataset.url}")
        image = decode(data, uid)
        image.thumbnail((size, size))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def _find(self, uid: str) -> tuple[int, bool]:
        """The id of a uid, and whether the index holds it."""
        found = int(self._columns.find([uid])[0])
        if found >= 0:
            return found, True
        if self._decided is not None:
            place = self._places.get(uid)
            place = self._search(self._decided.pool, uid) if place is None else place
            if place is not None and place not in self._index.removed:
                return place, False
        raise RefusalError(
            404, f"there is no uid {uid!r} in {self._index.name}", "take one from a search"
        )

    def _search(self, pool: Dataset, uid: str) -> int | None:
        """Look through the uids of a pool, shard by shard."""
        until = time.monotonic() + self._patience
        wanted = pa.scalar(uid, pa.string())
        for shard in pool.shards:
            row = pc.index(pool.rows(shard, ["uid"])["uid"], wanted).as_py()
            if row >= 0:
                self._remember(uid, index_id(shard, row))
                return index_id(shard, row)
            if time.monotonic() > until:
                raise RefusalError(
                    503,
                    f"{uid!r} was not found within {self._patience:g} s in {pool.url}",
                    "`prefect run explain` looks for as long as it takes",
                )
        return None

    def _remember(self, uid: str, identifier: int) -> None:
        if len(self._places) >= REMEMBERED:
            self._places.clear()
        self._places[uid] = identifier

    def _of_pool(self, identifier: int) -> dict[str, Any]:
        embedding = vectors_of(self._index.dataset, self._index.figures["embedding"])
        assert self._decided is not None
        shard, row = shard_and_row(identifier)
        table = shard_metadata(self._decided.pool, embedding, shard, np.array([row]))
        return plain_rows(table)[0]

    def _verdict(self, decided: Decided, identifier: int) -> dict[str, Any] | None:
        """What verdicts/ says of a row; and of one they keep, why the version left it out."""
        shard, row = shard_and_row(identifier)
        url = join(decided.verdicts, f"{part_name(shard)}.parquet")
        if not filesystem.exists(url):
            return None
        (verdict,) = read_table(url).drop_columns(["uid", "shard", "row"]).slice(row, 1).to_pylist()
        if verdict["kept"]:
            reason = self._left_out(shard, row)
            if reason is not None:
                verdict |= {"kept": False, "reason": reason, "reasons": [reason]}
        return verdict

    def _left_out(self, shard: int, row: int) -> str | None:
        """Why the index's version has no sample of a row that verdicts keep; None where it has."""
        if shard not in self._shards:
            return "not_in_subset"
        (own,) = self._index.dataset.rows(shard, ["status", "reason"]).slice(row, 1).to_pylist()
        return None if own["status"] == "ok" else own["reason"] or own["status"]

    @cached_property
    def _shards(self) -> frozenset[int]:
        """Of the index's version: perhaps very many, so they are read from its manifest once."""
        return frozenset(self._index.dataset.shards)

    def _duplicates(self, decided: Decided, identifier: int) -> Iterator[dict[str, Any]]:
        """The rows that stored pairs join to one, the closest first.

        Rows of equal bytes or pixels have one row in common, which alone has other pairs.
        """
        if decided.edges is None:
            return
        centre = identifier
        for pair in _pairs(decided.edges, identifier):
            if pair["kind"] in STARS and pair["b"] == identifier:
                centre = pair["a"]
        found: dict[int, tuple[float, str]] = {}
        for pair in _pairs(decided.edges, centre):
            other = pair["b"] if pair["a"] == centre else pair["a"]
            other = centre if other == identifier else other
            best = found.get(other, (-1.0, ""))
            found[other] = max(best, (pair["similarity"], pair["kind"]))
        for out in (identifier, *self._index.removed.tolist()):
            found.pop(out, None)
        closest = sorted(found.items(), key=lambda each: (-each[1][0], each[0]))[:SHOWN]
        for other, (similarity, kind) in closest:
            shard, row = shard_and_row(other)
            uid = decided.pool.rows(shard, ["uid"])["uid"][row].as_py()
            self._remember(uid, other)
            yield {"uid": uid, "similarity": similarity, "kind": kind}


def _pairs(url: str, identifier: int) -> list[dict[str, Any]]:
    """The stored pairs of one row; the file is read a row group at a time."""
    found: list[dict[str, Any]] = []
    with filesystem.open_read(join(url, EDGES)) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            pairs = parquet.read_row_group(group, use_threads=False)
            either = (pc.field("a") == identifier) | (pc.field("b") == identifier)
            found += pairs.filter(either).to_pylist()
    return found
