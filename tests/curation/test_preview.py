"""What rules would remove: counts that agree with what the rules then do."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.preview import Preview, preview
from curation.rules import apply_rules
from curation.rules_settings import RuleSettings

RULES = [
    RuleSettings(reason="low", score="a", min=0),
    RuleSettings(reason="high", score="b", max=1),
    RuleSettings(reason="odd", drop="a > b"),
]
CELLS = st.one_of(st.none(), st.floats(-2, 2))


def table_of(rows: list[tuple[float | None, float | None]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), ()]
    return pa.table(
        {f"x.{n}": pa.array(c, pa.float64()) for n, c in zip("ab", columns, strict=True)}
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=20), st.integers(0, 20))
def test_the_counts_are_what_the_rules_do(
    rows: list[tuple[float | None, float | None]], cut: int
) -> None:
    table = table_of(rows)
    found = preview(RULES, [table.slice(0, cut), table.slice(cut)])
    assert found.rows == len(rows)
    alone = [apply_rules([rule], table)["reason"].is_valid().to_numpy() for rule in RULES]
    removed = np.stack(alone, axis=1) if rows else np.zeros((0, 3), bool)
    np.testing.assert_array_equal(found.alone, removed.sum(axis=0))
    np.testing.assert_array_equal(found.overlaps, removed.T.astype(int) @ removed.astype(int))
    only = removed & (removed.sum(axis=1, keepdims=True) == 1)
    np.testing.assert_array_equal(found.only, only.sum(axis=0))
    reasons = apply_rules(RULES, table)["reason"].to_pylist()
    assert found.first.tolist() == [reasons.count(rule.reason) for rule in RULES]
    assert found.first.sum() + found.kept_after[-1] == len(rows)
    stays = [(~removed[:, : index + 1].any(axis=1)).sum() for index in range(len(RULES))]
    assert found.kept_after.tolist() == stays


def test_many_rules_take_more_than_one_integer() -> None:
    rules = [RuleSettings(reason=f"r{i}", score="a", min=i) for i in range(70)]
    found = preview(rules, [table_of([(float(i), 0.0) for i in range(70)])])
    assert found.alone.tolist() == list(range(70))
    assert found.kept_after.tolist() == [70 - i for i in range(70)]


def test_what_divides_by_zero_is_not_kept_and_counted() -> None:
    rule = RuleSettings(reason="ratio", score="a / b", min=0)
    found = preview([rule], [table_of([(1.0, 0.0), (1.0, 2.0), (-1.0, 1.0), (None, 1.0)])])
    assert (found.alone[0], found.unjudged[0]) == (3, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min": 9}, "odd removes all of the rows: its scores go from 1 to 3"),
        ({"min": -9}, "odd removes none of the rows: its scores go from 1 to 3"),
        ({"max": 0.5}, "odd removes all"),
        ({"score": "a / 0", "min": 1}, "none of them has a score"),
    ],
)
def test_a_threshold_outside_the_scores_is_told(change: dict[str, object], words: str) -> None:
    rule = RuleSettings.model_validate({"reason": "odd", "score": "a", **change})
    (warning,) = preview([rule], [table_of([(1.0, 0.0), (3.0, 0.0)])]).warnings()
    assert words in warning


def test_a_predicate_that_finds_nothing_is_no_reason_to_warn() -> None:
    found = preview([RuleSettings(reason="odd", drop="a > 9")], [table_of([(1.0, 0.0)])])
    assert found.warnings() == []


def test_no_rules_and_no_rows() -> None:
    empty: Preview = preview([], [table_of([(1.0, 1.0)])])
    assert (empty.rows, len(empty.alone)) == (1, 0)
    assert preview(RULES, []).rows == 0
    assert preview(RULES, [table_of([])]).kept_after.tolist() == [0, 0, 0]
