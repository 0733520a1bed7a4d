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

from indexes.conditions import numeric
from indexes.search import Index

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
        return {field.name: str(field.type) for field in self.index.facts.schema}

    def first_ids(self, count: int) -> Ids:
        return self.index.facts.at(np.arange(min(count, len(self.index))))

    def find(self, uids: Sequence[str]) -> Ids:
        """The id of each uid; -1 where the index does not hold it."""
        return self.index.facts.find_all(uids)

    def rows(self, ids: Ids) -> list[dict[str, Any]]:
        """All columns of rows by id; SluiceError for an id that the index does not hold."""
        return plain_rows(self.index.facts.take(ids))

    def histogram(self, name: str, where: str | None, bins: int) -> dict[str, Any]:
        """Counts of a column's values: in bins of numbers, else of the most frequent values."""
        facts = self.index.facts
        if name in facts.columns and numeric(facts.schema.field(name).type):
            found = facts.histogram(name, where, bins)
            return {
                "edges": found.edges.tolist(),
                "counts": found.counts.tolist(),
                "nulls": found.nulls,
            }
        counted = facts.facets(name, where, FREQUENT)
        return {"values": [list(each) for each in counted.values], "nulls": counted.nulls}
