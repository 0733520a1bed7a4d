"""What the numbers of a score mean: units and polarity, in the metadata of its column.

A scorer declares them with its columns; they go into its files, and whoever shows a score reads
them there.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from curation.heads.card import Polarity

BETTER: Polarity = "higher is better"
WORSE: Polarity = "higher is worse"
UNITS, POLARITY = b"units", b"polarity"  # keys of a field's metadata
OF_ROWS = {  # rows/ holds facts, not scores; its columns declare nothing
    "rows.width": "pixels",
    "rows.height": "pixels",
    "rows.bytes": "bytes",
}


class Meaning(NamedTuple):
    """What a column says of itself; "" where it says nothing."""

    units: str = ""
    polarity: str = ""

    def __str__(self) -> str:
        return ", ".join(each for each in self if each)


def column(name: str, kind: pa.DataType, units: str, polarity: Polarity | None = None) -> pa.Field:
    """A column of numbers in these units; without a polarity neither end is the better one."""
    told = {UNITS: units.encode()}
    if polarity is not None:
        told[POLARITY] = polarity.encode()
    return pa.field(name, kind, metadata=told)


def meanings(schemas: Mapping[str, pa.Schema]) -> dict[str, Meaning]:
    """`scorer.column` -> what it says of itself, of the columns that say something."""
    found = {name: Meaning(units) for name, units in OF_ROWS.items()}
    for scorer, schema in schemas.items():
        for field in schema:
            told = field.metadata or {}
            units, polarity = (told.get(key, b"").decode() for key in (UNITS, POLARITY))
            if units or polarity:
                found[f"{scorer}.{field.name}"] = Meaning(units, polarity)
    return found
