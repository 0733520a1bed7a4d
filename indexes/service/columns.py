"""The columns of an index as the service tells them: types, histograms, rows by uid and id."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from indexes.metadata import matching_ids
from indexes.search import Index
from infra.errors import SluiceError

FREQUENT = 20  # values of a column that is none of numbers
EXACT = 2**53  # beyond it a number of JavaScript is another one

Ids = npt.NDArray[np.int64]


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: whole numbers that JavaScript would change become texts."""
    for place, column in enumerate(table.columns):
        kind = column.type
        if table.column_names[place] != "id" and pa.types.is_integer(kind) and kind.bit_width == 64:
            ends = pc.min_max(column).as_py()
            if max(abs(ends["min"] or 0), abs(ends["max"] or 0)) > EXACT:
                name = table.column_names[place]
                table = table.set_column(place, name, column.cast(pa.string()))
    return table.to_pylist()


@dataclass(frozen=True)
class Columns:
    """What is known of the rows of one index."""

    index: Index

    @property
    def types(self) -> dict[str, str]:
        """Arrow types by name; "id" is the place of a row."""
        return {field.name: str(field.type) for field in self.index.metadata.schema}

    @property
    def _ids(self) -> Ids:
        return self.index.metadata.column("id").to_numpy()

    def first_ids(self, count: int) -> Ids:
        return self._ids[:count]

    def find(self, uids: Sequence[str]) -> Ids:
        """The id of each uid; -1 where the index does not hold it."""
        places = pc.index_in(self.index.metadata.column("uid"), pa.array(uids, pa.string()))
        found = np.full(len(uids), -1, np.int64)
        there = pc.is_valid(places)
        rows = np.flatnonzero(there.to_numpy())
        first = places.filter(there).to_numpy()
        found[first] = self._ids[rows]
        return _as_first(uids, found)

    def rows(self, ids: Ids) -> list[dict[str, Any]]:
        """All columns of rows by id; SluiceError for an id that the index does not hold."""
        places = np.searchsorted(self._ids, ids)
        wrong = (places == len(self._ids)) | (self._ids[places % max(len(self._ids), 1)] != ids)
        if wrong.any():
            raise SluiceError(
                f"there is no id {ids[wrong][0]} in {self.index.name}", "take ids from a search"
            )
        return plain_rows(self.index.metadata.take(pa.array(places)))

    def histogram(self, name: str, where: str | None, bins: int) -> dict[str, Any]:
        """Counts of a column's values: in bins of numbers, else of the most frequent values."""
        column = self._values(name, where)
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return _numbers(column, bins)
        if pa.types.is_nested(kind):
            raise SluiceError(f"column {name!r} holds {kind}", "ask for numbers, texts or flags")
        counted = pc.value_counts(column.drop_null()).to_pylist()
        counted.sort(key=lambda each: (-each["counts"], str(each["values"])))
        values = [[each["values"], each["counts"]] for each in counted[:FREQUENT]]
        return {"values": values, "nulls": column.null_count}

    def _values(self, name: str, where: str | None) -> pa.ChunkedArray:
        if name not in self.index.columns:
            raise SluiceError(
                f"there is no column {name!r}", f"there is {', '.join(self.index.columns)}"
            )
        column = self.index.metadata.column(name)
        if where is None:
            return column
        ids = matching_ids(self.index.metadata, where)
        return column.take(pa.array(np.searchsorted(self._ids, ids)))


def _as_first(uids: Sequence[str], found: Ids) -> Ids:
    """`found` where a uid asked for again has what it had the first time."""
    first: dict[str, int] = {}
    for place, uid in enumerate(uids):
        first.setdefault(uid, place)
    return found[[first[uid] for uid in uids]] if len(uids) else found


def _numbers(column: pa.ChunkedArray, bins: int) -> dict[str, Any]:
    values = column.drop_null().to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    counts, edges = np.histogram(values, bins) if len(values) else np.histogram([], bins, (0, 1))
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "nulls": len(column) - len(values),
    }
