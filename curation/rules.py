"""Rules: named SQL predicates over score columns, run in order, every failing one kept.

A row's reason is the first rule that fails it. A rule that cannot be judged, because its score
is NULL or not finite, counts only where no rule fails for sure: what cannot be decoded is
called corrupt, not also small, blank and mismatched; and what nobody could judge is not kept.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import sql
from curation.rules_settings import RuleSettings
from curation.sql import Expression
from curation.units import BETTER, WORSE, meanings
from infra.errors import SluiceError

OUTCOME = pa.schema(
    [
        ("reason", pa.string()),  # the first failing rule; null where the row passes
        ("reasons", pa.list_(pa.string())),  # all failing rules, in order
        ("score", pa.float64()),  # of the first failing rule, null for a predicate
        ("threshold", pa.float64()),  # the bound it missed
    ]
)


def column_names(schemas: Mapping[str, pa.Schema]) -> list[str]:
    """The full names of all columns: `scorer.column`."""
    return [f"{scorer}.{name}" for scorer, schema in schemas.items() for name in schema.names]


def parse_rules(rules: Sequence[RuleSettings], names: Sequence[str]) -> list[Expression]:
    """The rules' expressions; raises where a column is missing or a reason is used twice."""
    reasons = [rule.reason for rule in rules]
    for reason in reasons:
        if reasons.count(reason) > 1:
            raise SluiceError(
                f"two rules are called {reason!r}", "join them with OR, or rename one"
            )
    return [sql.parse(f"rule {rule.reason}", rule.expression, names) for rule in rules]


def needed_columns(
    rules: Sequence[RuleSettings],
    schemas: Mapping[str, pa.Schema],
    priority: Sequence[str] = (),
) -> list[str]:
    """The columns the rules (and the keep order of duplicates) read, by full name."""
    names = column_names(schemas)
    found = {name for expression in parse_rules(rules, names) for name in expression.columns}
    for expression in priority:
        found |= set(sql.parse("dedup.priority", expression, names).columns)
    return sorted(found)


def check_rules(
    rules: Sequence[RuleSettings],
    columns: Mapping[str, pa.Schema],
    priority: Sequence[str] = (),
) -> None:
    """Check names and types before anything is computed.

    Raises SluiceError naming the rule, the column and near matches.
    """
    names, table = column_names(columns), _empty(columns)
    wanted = [
        (expression, "boolean" if rule.score is None else "number")
        for rule, expression in zip(rules, parse_rules(rules, names), strict=True)
    ]
    wanted += [(sql.parse("dedup.priority", each, names), "number") for each in priority]
    sql.check_types(wanted, table)


def check_number(owner: str, expression: str, columns: Mapping[str, pa.Schema]) -> None:
    """Check an expression as `check_rules` does a rule's score."""
    parsed = sql.parse(owner, expression, column_names(columns))
    sql.check_types([(parsed, "number")], _empty(columns))


def meaning(expression: str, columns: Mapping[str, pa.Schema]) -> str:
    """What an expression's numbers mean, as far as its columns say: units and polarity.

    "cosine, higher is better" of a column alone; else of each column of it, by name.
    """
    parsed = sql.parse("the score", expression, column_names(columns))
    told = meanings(columns)
    if parsed.column is not None:
        return str(told.get(parsed.column, ""))
    return "; ".join(f"{name}: {told[name]}" for name in parsed.columns if name in told)


def against_polarity(rules: Sequence[RuleSettings], columns: Mapping[str, pa.Schema]) -> list[str]:
    """Rules that keep the worse end of a column that says which one that is."""
    told, found = meanings(columns), list[str]()
    for rule, parsed in zip(rules, parse_rules(rules, column_names(columns)), strict=True):
        polarity = told[parsed.column].polarity if parsed.column in told else ""
        low, high = rule.max is not None, rule.min is not None or rule.top is not None
        if rule.score is None or low == high or polarity != (BETTER if low else WORSE):
            continue
        end = "lowest" if low else "highest"
        found.append(
            f"{rule.reason} keeps the {end} values of {parsed.column}, of which {polarity}"
        )
    return found


def _empty(columns: Mapping[str, pa.Schema]) -> pa.Table:
    """A joined table without rows."""
    fields = [field.type for schema in columns.values() for field in schema]
    names = column_names(columns)
    return pa.table({name: pa.array([], kind) for name, kind in zip(names, fields, strict=True)})


def evaluate(owner: str, expression: str, table: pa.Table) -> np.ndarray:
    """One number per row, float64 [rows]; NaN where it is NULL."""
    parsed = sql.parse(owner, expression, table.column_names)
    result = sql.query(f"SELECT CAST({parsed.sql} AS DOUBLE) AS x FROM t", table, [parsed])
    return result["x"].to_numpy()


def rule_scores(rules: Sequence[RuleSettings], table: pa.Table) -> pa.Table:
    """Each rule's score (float64) or predicate (bool), one column per rule, by reason."""
    parsed = parse_rules(rules, table.column_names)
    if not rules:
        return pa.table({})
    selected = [
        f'{_value(rule, e)} AS "{rule.reason}"' for rule, e in zip(rules, parsed, strict=True)
    ]
    return sql.query(f"SELECT {', '.join(selected)} FROM t", table, parsed)


def apply_rules(rules: Sequence[RuleSettings], table: pa.Table) -> pa.Table:
    """Judge every row of a joined table (columns `scorer.column`); see OUTCOME."""
    count = table.num_rows
    if not rules:
        nothing = [pa.nulls(count, kind) for kind in OUTCOME.types]
        nothing[1] = pa.array([[]] * count, OUTCOME.types[1])
        return pa.table(nothing, schema=OUTCOME)
    parsed = parse_rules(rules, table.column_names)
    judged = sql.query(_judging(rules, parsed), table, parsed)
    failed, unknown = np.empty((2, count, len(rules)), dtype=bool)
    for index in range(len(rules)):
        column = judged[f"f{index}"]
        if not pa.types.is_boolean(column.type):
            sql.check_types([(parsed[index], "boolean")], table)
        unknown[:, index] = column.is_null().to_numpy()
        failed[:, index] = column.fill_null(False).to_numpy()
    listed = np.where(failed.any(axis=1, keepdims=True), failed, unknown)
    names = pa.array([rule.reason for rule in rules], pa.string())
    rows, indices = np.nonzero(listed)
    reasons = string_lists(rows, names.take(pa.array(indices)), count)
    first = np.full(count, -1)
    first[rows[::-1]] = indices[::-1]  # the last write to a row is its first rule
    reason = names.take(pa.array(first, mask=first < 0))
    return pa.table([reason, reasons, judged["score"], judged["threshold"]], schema=OUTCOME)


def string_lists(rows: np.ndarray, values: pa.Array, count: int) -> pa.Array:
    """A list of strings for each of `count` rows: those of `values` whose `rows` entry it is."""
    order = np.argsort(rows, kind="stable")
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=count), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(pa.array(order)))


def list_entries(lists: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """The inverse of `string_lists`: the row of every entry, and the entries."""
    array = lists.combine_chunks()
    rows = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
    return rows, pc.list_flatten(array)


def _value(rule: RuleSettings, expression: Expression) -> str:
    """A score is NULL where it is not finite: 1/0 passes no rule."""
    if rule.score is None:
        return expression.sql
    number = f"CAST({expression.sql} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def failing(rules: Sequence[RuleSettings], parsed: Sequence[Expression]) -> str:
    """The query's head that gives `f`: columns s0, s1, ... (scores), f0, f1, ... (fails, or NULL).

    A rule with `top` has no threshold of its own: see `curation.top`.
    """
    values: list[str] = []
    fails: list[str] = []
    for index, (rule, expression) in enumerate(zip(rules, parsed, strict=True)):
        values.append(f"{_value(rule, expression)} AS s{index}")
        if rule.score is None:
            fails.append(f"s{index} AS f{index}")
            continue
        misses = [f"s{index} < {rule.min!r}::DOUBLE"] if rule.min is not None else []
        misses += [f"s{index} > {rule.max!r}::DOUBLE"] if rule.max is not None else []
        fails.append(f"({' OR '.join(misses)}) AS f{index}")
    return (
        f"WITH s AS (SELECT {', '.join(values)} FROM t), f AS (SELECT *, {', '.join(fails)} FROM s)"
    )


def _judging(rules: Sequence[RuleSettings], parsed: Sequence[Expression]) -> str:
    """The query that gives f0, f1, ... (fails, or NULL) and the first one's score and bound."""
    scores: list[str] = []
    bounds: list[str] = []
    for index, rule in enumerate(rules):
        if rule.score is None:
            continue
        low, high = (f"{b!r}::DOUBLE" if b is not None else "NULL" for b in (rule.min, rule.max))
        scores.append(f"WHEN {index} THEN s{index}")
        over = f"s{index} > {high}" if rule.max is not None else "false"
        bound = high if rule.min is None else f"CASE WHEN {over} THEN {high} ELSE {low} END"
        bounds.append(f"WHEN {index} THEN {bound}")
    indices = range(len(rules))
    first = " ".join(
        [f"WHEN f{index} THEN {index}" for index in indices]
        + [f"WHEN f{index} IS NULL THEN {index}" for index in indices]
    )
    score = f"CASE first {' '.join(scores)} END" if scores else "NULL"
    threshold = f"CASE first {' '.join(bounds)} END" if bounds else "NULL"
    return (
        f"{failing(rules, parsed)}, "
        f"g AS (SELECT *, CASE {first} END AS first FROM f) "
        f"SELECT {', '.join(f'f{index}' for index in indices)}, "
        f"CAST({score} AS DOUBLE) AS score, CAST({threshold} AS DOUBLE) AS threshold FROM g"
    )
