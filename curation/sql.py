"""SQL expressions over score columns: checked, resolved, run by a DuckDB that reads no file.

An expression is one value per row: no subquery, aggregate, window or function whose answer
changes between calls. It is parsed first, so that every column it names is known before a
byte is read, and each name is replaced by the one column it stands for. What arithmetic does not
define (x / 0, ln(0), NaN) is NULL: an infinity or NaN could be compared, and would pass a rule.
"""

import difflib
import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from curation.columns import ROWS_NAME
from infra.errors import SluiceError

# Parts of an expression that are a pure function of one row.
ROW_WISE = {
    *("BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT"),
    *("FUNCTION", "OPERATOR", "TYPE"),
}
# DuckDB writes some plain functions as macros; the others may hide an aggregate or a clock.
PLAIN_MACROS = {
    *("array_to_string", "days_in_month", "fdiv", "fmod", "if", "json", "list_avg", "list_max"),
    *("list_min", "list_reverse", "list_sum", "nullif", "split_part"),
}
# Those that are not defined for every number; the divisor is an argument of the first three.
DIVISIONS = ("/", "//", "%")
PARTIAL = {
    *("acos", "acosh", "asin", "atanh", "cot", "divide", "fdiv", "fmod", "gamma", "lgamma", "ln"),
    *("log", "log10", "log2", "mod", "sqrt"),
}
FLOATS = ("double", "float", "float4", "float8", "real")
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")


@dataclass(frozen=True)
class Expression:
    """SQL whose column names are full and quoted, and the columns it needs."""

    owner: str  # whose it is, for messages: "rule too_small"
    sql: str
    columns: tuple[str, ...]

    @property
    def column(self) -> str | None:
        """The column that it is, where it is nothing but one."""
        return self.columns[0] if self.sql in (f'"{name}"' for name in self.columns) else None


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB of its own, in memory, single-threaded, that can reach no file or network."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "python_enable_replacements": "false",
            "threads": "1",
            "ieee_floating_point_ops": "false",  # an error, which _define turns into NULL
        },
    )
    connection.execute("SET lock_configuration = true")
    return connection


@functools.cache
def _parser() -> duckdb.DuckDBPyConnection:
    """One connection per process that sees expressions, never data."""
    return connect()


@functools.cache
def row_functions() -> frozenset[str]:
    """The functions that give the same value for the same row, always."""
    query = (
        "SELECT function_name FROM duckdb_functions() GROUP BY function_name "
        "HAVING bool_and(function_type = 'scalar' AND stability = 'CONSISTENT')"
    )
    names = {str(row[0]) for row in _parser().cursor().execute(query).fetchall()}
    return frozenset(names | PLAIN_MACROS)


def parse(owner: str, text: str, names: Iterable[str]) -> Expression:
    """Check `text` and resolve its columns among `names` (each `scorer.column`)."""
    return _parse(owner, text, tuple(names))


@functools.lru_cache(maxsize=1024)
def _parse(owner: str, text: str, names: tuple[str, ...]) -> Expression:
    source = f"SELECT (\n{text}\n)"
    tree = json.loads(_scalar("SELECT json_serialize_sql(?)", source))
    if tree["error"]:
        raise SluiceError(
            f"{owner}: {text!r} is no SQL expression: {tree['error_message']}", "correct it"
        )
    selected = tree["statements"][0]["node"]["select_list"]
    if len(selected) != 1:
        raise SluiceError(f"{owner}: {text!r} is more than one value", "give one expression")
    found: set[str] = set()
    parts = list(_nodes(selected))
    for node in parts:
        _check_row_wise(owner, text, node)
        if node["class"] == "COLUMN_REF":
            name = resolve(owner, node["column_names"], names)
            node["column_names"] = [name]
            found.add(name)
    for node in reversed(parts):  # what stands inside first
        _define(node)
    full = _scalar("SELECT json_deserialize_sql(?)", json.dumps(tree))
    return Expression(owner, full.removeprefix("SELECT "), tuple(sorted(found)))


def _scalar(query: str, value: str) -> str:
    row = _parser().cursor().execute(query, [value]).fetchone()
    assert row is not None
    return str(row[0])


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All parts of a parsed expression."""
    children: Any = ()
    if isinstance(value, dict):
        if "class" in value:
            yield value
        children = value.values()
    elif isinstance(value, list):
        children = value
    for child in children:
        yield from _nodes(child)


def _check_row_wise(owner: str, text: str, node: dict[str, Any]) -> None:
    kind = node["class"]
    if kind not in ROW_WISE:
        raise SluiceError(
            f"{owner}: {text!r} holds a {kind.lower()}, an expression is one value per row",
            "write it with columns, constants, operators and functions only",
        )
    function = node.get("function_name", "")
    if kind == "FUNCTION" and function.lower() not in row_functions():
        near = difflib.get_close_matches(function.lower(), row_functions(), 3)
        raise SluiceError(
            f"{owner}: {function}() in {text!r} is not a function of one row",
            f"did you mean {' or '.join(near)}?" if near else "use a scalar function of DuckDB",
        )


def _define(node: dict[str, Any]) -> None:
    """Make a part of a parsed expression NULL where it has no value, in place."""
    name = str(node.get("function_name", "")).lower()
    if node["class"] == "FUNCTION" and name in DIVISIONS:
        divisor = node["arguments"][1]
        divisor["expression"] = _around("nullif({}, 0)", divisor["expression"])
    elif node["class"] == "FUNCTION" and name in PARTIAL:
        _replace(node, "TRY({})")
    elif node["class"] == "CAST" and node["type_expr"].get("type_name", "").lower() in FLOATS:
        _replace(node, "nullif({}, 'nan'::DOUBLE)")


def _replace(node: dict[str, Any], template: str) -> None:
    outer = _around(template, dict(node))
    node.clear()
    node.update(outer)


def _around(template: str, inner: dict[str, Any]) -> dict[str, Any]:
    """The parsed expression `template`, with `inner` in the place of {}."""
    tree = json.loads(_scalar("SELECT json_serialize_sql(?)", f"SELECT {template.format('hole')}"))
    outer: dict[str, Any] = tree["statements"][0]["node"]["select_list"][0]
    hole = next(node for node in _nodes(outer) if node["class"] == "COLUMN_REF")
    hole.clear()
    hole.update(inner)
    return outer


def resolve(owner: str, parts: Sequence[str], names: Sequence[str]) -> str:
    """The full name of a column written `column` or `scorer.column`, in any case.

    A plain name that several scorers offer is an error; one that a scorer and rows/ both
    offer is the scorer's.
    """
    written = ".".join(parts)
    full = {name.lower(): name for name in names}
    if written.lower() in full:
        return full[written.lower()]
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(name.rpartition(".")[2].lower(), []).append(name)
    plain = by_plain.get(written.lower(), [])
    found = [name for name in plain if not name.startswith(f"{ROWS_NAME}.")] or plain
    if len(found) == 1:
        return found[0]
    if found:
        raise SluiceError(
            f"{owner}: the column {written!r} is offered by several scorers",
            f"write {' or '.join(sorted(found))}",
        )
    last = parts[-1].lower()
    near = [
        *difflib.get_close_matches(written.lower(), full, 3),
        *(name for key in difflib.get_close_matches(last, by_plain, 3) for name in by_plain[key]),
    ]
    offers = ", ".join(dict.fromkeys(full.get(name.lower(), name) for name in near))
    raise SluiceError(
        f"{owner}: there is no column {written!r}",
        f"did you mean {offers}?" if near else f"there are {', '.join(sorted(names))}",
    )


def query(sql: str, table: pa.Table, expressions: Iterable[Expression]) -> pa.Table:
    """Run `sql` over `table`, called `t`; a failure names the expression at fault."""
    with connect() as connection:
        connection.register("t", table)
        try:
            return connection.sql(sql).to_arrow_table()
        except duckdb.Error as error:
            for expression in expressions:
                _run_alone(connection, expression)
            raise SluiceError(
                f"the rules cannot be run: {str(error).splitlines()[0]}",
                "a score must be a number, and `drop` true or false",
            ) from error


def _run_alone(connection: duckdb.DuckDBPyConnection, expression: Expression) -> None:
    try:
        connection.sql(f"SELECT {expression.sql} AS x FROM t").to_arrow_table()
    except duckdb.Error as error:
        message = str(error).splitlines()[0]
        raise SluiceError(
            f"{expression.owner}: {expression.sql} cannot be computed: {message}",
            "correct the expression; try_cast and nullif avoid failing on odd rows",
        ) from error


def check_types(wanted: Sequence[tuple[Expression, str]], table: pa.Table) -> None:
    """Refuse an expression over `table` that is not what is wanted: "number" or "boolean"."""
    with connect() as connection:
        connection.register("t", table)
        for expression, kind in wanted:
            _run_alone(connection, expression)
            relation = connection.sql(f"SELECT {expression.sql} AS x FROM t")
            found = str(relation.types[0])
            if kind == "number" and found.removeprefix("U").partition("(")[0] not in NUMBERS:
                raise SluiceError(
                    f"{expression.owner}: {expression.sql} is of type {found}, not a number",
                    "a score must be a number; a predicate belongs under `drop`",
                )
            if kind == "boolean" and found != "BOOLEAN":
                raise SluiceError(
                    f"{expression.owner}: {expression.sql} is of type {found}, not true or false",
                    "compare it with something, or use `score` with `min` or `max`",
                )
