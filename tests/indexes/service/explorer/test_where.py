"""Conditions that handles and ticks make mean to DuckDB what they say."""

import json
from typing import Any

import duckdb
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from tests.indexes.service.explorer.conftest import Visit

pytestmark = pytest.mark.slow

COLUMN = 'the "odd" name'
NUMBERS = [None, -2.5, -1.0, 0.0, 0.25, 1.0, 3.0]
WORDS = [None, "cat", "it's", 'a "b"', "and", "or 1=1 --", "x) or (true", ""]
TYPED = [
    "",
    "true",
    "other > 0 and other < 9",
    "other = 1 or other = 2",
    "other between 1 and 2",
    "case when other = 1 and other > 0 then true else false end",
    "note = 'this and that' and other >= 0",
    "other > 0 -- a comment",
    "(other > 0 /* and */ )",
]
values = st.sampled_from([None, *range(-3, 4)])


@pytest.fixture
def where(visit: Visit, service: str) -> Any:
    """Calls a function of where.js in the browser."""
    page = visit(service)

    def call(function: str, *arguments: Any) -> Any:
        code = """async ([name, values]) => {
          const read = (value) => (value === "undefined" ? undefined : value);
          return (await import("/static/where.js"))[name](...values.map(read));
        }"""
        return page.evaluate(code, [function, list(arguments)])

    return call


def rows(condition: str, column: list[Any]) -> list[tuple[Any, Any]]:
    """What DuckDB lets through, of every pair of a value and a number from 0 to 3."""
    kind = "DOUBLE" if any(isinstance(value, float) for value in column) else "VARCHAR"
    with duckdb.connect() as connection:
        quoted = COLUMN.replace('"', '""')
        connection.execute(f'create table t ("{quoted}" {kind}, other int, note varchar)')
        told = [(value, other, "this and that") for value in column for other in range(4)]
        connection.executemany("insert into t values (?, ?, ?)", told)
        return connection.execute(
            f'select "{quoted}", other from t where {condition or "true"}'
        ).fetchall()


once = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@once
@given(st.sampled_from(TYPED), values, values)
def test_bounds_are_added_to_what_is_typed(where: Any, typed: str, low: Any, high: Any) -> None:
    bounds = ["undefined" if bound is None else bound for bound in (low, high)]
    made = where("withRange", typed, COLUMN, *bounds)
    expected = [
        (value, other)
        for value, other in rows(typed, NUMBERS)
        if (low is None or (value is not None and value >= low))
        and (high is None or (value is not None and value <= high))
    ]
    assert rows(made, NUMBERS) == expected
    read = where("asked", made, COLUMN)
    assert (read.get("low"), read.get("high")) == (low, high)
    # What was typed is there again once the handles are back.
    assert rows(where("withRange", made, COLUMN, "undefined", "undefined"), NUMBERS) == rows(
        typed, NUMBERS
    )


@once
@given(
    st.sampled_from(TYPED),
    st.lists(st.sampled_from(WORDS[1:]), unique=True),
    st.booleans(),
)
def test_ticks_are_added_to_what_is_typed(
    where: Any, typed: str, ticked: list[str], nulls: bool
) -> None:
    made = where("withValues", typed, COLUMN, ticked, nulls)
    any_tick = bool(ticked) or nulls
    expected = [
        (value, other)
        for value, other in rows(typed, WORDS)
        if not any_tick or value in ticked or (nulls and value is None)
    ]
    assert rows(made, WORDS) == expected, json.dumps(made)
    read = where("asked", made, COLUMN)
    assert (read.get("values", []), read.get("nulls", False)) == (ticked, nulls)
    assert rows(where("withValues", made, COLUMN, [], False), WORDS) == rows(typed, WORDS)
