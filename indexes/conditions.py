"""SQL conditions over metadata, run by DuckDB on Arrow batches as they pass; nothing is held whole.

One expression, in memory, without access to files, network or settings. A score can also be
written as rules write it: clip.similarity for clip_similarity.
"""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.errors import SluiceError

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
}

# Seconds a condition may take: a subquery can go on for years. A service gives its threads less.
patience = ContextVar("patience", default=3600.0)

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    """Batches of one schema, read anew for every question."""

    schema: pa.Schema
    batches: Callable[[], Iterable[pa.RecordBatch]]


class Histogram(NamedTuple):
    """edges: [bins + 1], 0 to 1 where no row has a number. counts: [bins]. nulls: other rows."""

    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    nulls: int


class Facets(NamedTuple):
    """values: the most frequent ones with their counts, most frequent first. nulls: without one."""

    values: list[tuple[Any, int]]
    nulls: int


def matching_ids(source: Source, where: str) -> Ids:
    """The ids of the rows for which the SQL predicate `where` is true, ascending."""
    with _rows(source, where) as rows:
        found = rows.project("id").to_arrow_table()
    return np.sort(found.column("id").to_numpy())


def histogram(source: Source, column: str, where: str | None, bins: int) -> Histogram:
    """Counts of a numeric column's finite values in `bins` of one width, the last edge included."""
    if bins < 1:
        raise SluiceError(f"{bins} bins hold nothing", "ask for at least one")
    name = _quoted(source, column)
    if not numeric(source.schema.field(column).type):
        raise SluiceError(f"the column {column!r} has no numbers", "ask for its facets")
    with _rows(source, where) as rows:
        numbers = rows.project(f"{name}::DOUBLE AS x")
        bounds = "min(x) FILTER (isfinite(x)), max(x) FILTER (isfinite(x)), count(*)"
        low, high, total = numbers.aggregate(bounds).fetchall()[0]
    edges = np.histogram_bin_edges([], bins, (0, 1) if low is None else (low, high))
    counts = np.zeros(bins, np.int64)
    with _rows(source, where) as rows:
        finite = rows.project(f"{name}::DOUBLE AS x").filter("isfinite(x)")
        for batch in finite.to_arrow_reader():
            counts += np.histogram(batch.column("x").to_numpy(), edges)[0]
    return Histogram(edges, counts, int(total - counts.sum()))


def facets(source: Source, column: str, where: str | None, top: int) -> Facets:
    """The `top` most frequent values of a column and how many rows have each."""
    name = _quoted(source, column)
    with _rows(source, where) as rows:
        counted = rows.project(f"{name} AS value").aggregate("value, count(*) AS n", "value")
        first = counted.order("value IS NULL DESC, n DESC, value").limit(top + 1).fetchall()
    nulls = int(first[0][1]) if first and first[0][0] is None else 0
    values = [(value, int(count)) for value, count in first if value is not None]
    return Facets(values[:top], nulls)


def numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type has a histogram."""
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


@contextlib.contextmanager
def _rows(source: Source, where: str | None) -> Generator[Any]:
    """The rows that meet a condition, to be asked on; what DuckDB refuses is told as the user's."""
    import duckdb

    with duckdb.connect(":memory:", config=CONFIG) as connection:
        connection.execute("SET lock_configuration = true")
        limit = threading.Timer(patience.get(), connection.interrupt)
        limit.daemon = True
        limit.start()
        try:
            rows = connection.from_arrow(_reader(source))
            if where is not None:
                where.encode()  # what is no text would be a TypeError of DuckDB
                rows = rows.filter(duckdb.SQLExpression(where))
            yield rows
        except duckdb.Error as error:
            raise SluiceError(
                f"where={where!r}: {str(error).splitlines()[0]}",
                f"write a SQL condition over {', '.join(source.schema.names)}",
            ) from error
        except UnicodeEncodeError as error:
            raise SluiceError(
                f"where={where!r} is no text: {error}", "write a SQL condition"
            ) from error
        except UnicodeDecodeError as error:
            raise SluiceError(
                f"an index's metadata are damaged: they have text that is no UTF-8: {error}",
                "remove that index's folder and run `prefect run index` again",
            ) from error
        finally:
            limit.cancel()


def _quoted(source: Source, column: str) -> str:
    if column not in source.schema.names:
        raise SluiceError(
            f"there is no column {column!r}", f"there is {', '.join(source.schema.names)}"
        )
    return '"' + column.replace('"', '""') + '"'


def _reader(source: Source) -> pa.RecordBatchReader:
    """The batches with a struct for each scorer, of its columns; nothing is copied."""
    fields: dict[str, list[int]] = {}
    for place, name in enumerate(source.schema.names):
        scorer, _, column = name.partition("_")
        if scorer and column and scorer not in source.schema.names:
            fields.setdefault(scorer, []).append(place)
    schema = source.schema
    for scorer, places in fields.items():
        parts = [source.schema.field(place) for place in places]
        kind = pa.struct([part.with_name(part.name.partition("_")[2]) for part in parts])
        schema = schema.append(pa.field(scorer, kind))
    batches = (_with_scorers(batch, schema, list(fields.values())) for batch in source.batches())
    return pa.RecordBatchReader.from_batches(schema, batches)


def _with_scorers(batch: pa.RecordBatch, schema: pa.Schema, scorers: list[list[int]]) -> Any:
    columns = list(batch.columns)
    for field, places in zip(list(schema)[len(columns) :], scorers, strict=True):
        parts = [columns[place] for place in places]
        columns.append(pa.StructArray.from_arrays(parts, fields=list(field.type)))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
