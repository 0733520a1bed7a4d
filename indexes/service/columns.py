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

from indexes.conditions import numeric
from indexes.search import Index
from infra.errors import SluiceError

FREQUENT = 20  # values of a column that is none of numbers
EXACT = 2**53  # beyond it a number of JavaScript is another one
WIDE = (pa.int64(), pa.uint64())

Ids = npt.NDArray[np.int64]


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as JSON can hold them: whole numbers that JavaScript would change become texts.

    They become so in all of these rows or in none.
    """
    rows = table.to_pylist()
    for field in table.schema:
        if field.type in WIDE and field.name != "id":
            values = [row[field.name] for row in rows]
            if any(abs(value) > EXACT for value in values if value is not None):
                for row, value in zip(rows, values, strict=True):
                    row[field.name] = None if value is None else str(value)
    return rows


@dataclass(frozen=True)
class Columns:
    """What is known of the rows of one index."""

    index: Index

    @property
    def types(self) -> dict[str, str]:
        """Arrow types by name; "id" is the place of a row."""
        return {field.name: str(field.type) for field in self.index.facts.schema}

    def first_id(self) -> Ids:
        """The id of the first row, [1]."""
        return self.index.facts.at(np.zeros(1, np.int64))

    def find(self, uids: Sequence[str]) -> Ids:
        """The id of each uid; -1 where the index does not hold it."""
        return self.index.facts.find_all(uids)

    def rows(self, ids: Ids) -> list[dict[str, Any]]:
        """All columns of rows by id; SluiceError for an id that the index does not hold."""
        try:
            return plain_rows(self.index.facts.take(ids))
        except SluiceError as error:
            raise SluiceError(error.what, "take ids from a search of this index") from error

    def histogram(self, name: str, where: str | None, bins: int) -> dict[str, Any]:
        """Counts of a column's values: in bins of numbers, else of the most frequent values."""
        facts = self.index.facts
        if name not in facts.columns:
            raise SluiceError(
                f"there is no column {name!r}", f"there is {', '.join(facts.columns)}"
            )
        kind = facts.schema.field(name).type
        if pa.types.is_nested(kind):
            raise SluiceError(f"column {name!r} holds {kind}", "ask for numbers, texts or flags")
        if not numeric(kind):
            values, nulls = facts.facets(name, where, FREQUENT)
            return {"values": values, "nulls": nulls}
        edges, counts, nulls = facts.histogram(name, where, bins)
        if not len(edges):
            edges = np.linspace(0.0, 1.0, bins + 1)
        return {"edges": edges.tolist(), "counts": counts.tolist(), "nulls": nulls}
