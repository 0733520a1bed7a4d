import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from curation.rules import (
    apply_rules,
    check_rules,
    evaluate,
    list_entries,
    needed_columns,
    rule_scores,
    string_lists,
)
from curation.rules_settings import DedupSettings, NearSettings, RuleSettings
from infra.errors import SluiceError

SCHEMAS = {
    "image": pa.schema([("width", pa.int32()), ("entropy", pa.float32())]),
    "clip": pa.schema([("similarity", pa.float32()), ("entropy", pa.float32())]),
    "rows": pa.schema([("width", pa.int32()), ("url", pa.string())]),
}


def rule(reason: str = "odd", **settings: object) -> RuleSettings:
    return RuleSettings.model_validate({"reason": reason, **settings})


def message(error: pytest.ExceptionInfo[SluiceError]) -> str:
    return str(error.value)


def test_first_failing_rule_is_the_reason_and_all_are_listed() -> None:
    table = pa.table({"image.width": [8, 100, 100], "clip.similarity": [0.1, 0.1, 0.9]})
    rules = [
        rule("small", score="width", min=32),
        rule("mismatched", score="clip.similarity", min=0.5),
        rule("wide", drop="width > 64 AND similarity > 0.5"),
    ]
    found = apply_rules(rules, table).to_pydict()
    assert found["reason"] == ["small", "mismatched", "wide"]
    assert found["reasons"] == [["small", "mismatched"], ["mismatched"], ["wide"]]
    assert found["score"] == [8.0, 0.1, None]
    assert found["threshold"] == [32.0, 0.5, None]


def test_bounds_are_inclusive_and_the_missed_one_is_named() -> None:
    table = pa.table({"x.aspect": [0.9, 1.0, 2.0, 3.0, 3.1]})
    found = apply_rules([rule(score="aspect", min=1, max=3)], table).to_pydict()
    assert found["reason"] == ["odd", None, None, None, "odd"]
    assert found["threshold"] == [1.0, None, None, None, 3.0]


def test_what_cannot_be_judged_is_not_kept() -> None:
    table = pa.table({"x.score": pa.array([None, float("nan"), 0.0, 1.0], pa.float64())})
    rules = [rule("unknown", score="score", min=0), rule("divided", score="1 / score", min=0)]
    found = apply_rules(rules, table).to_pydict()
    assert found["reasons"] == [["unknown", "divided"], ["unknown", "divided"], ["divided"], []]
    assert found["score"] == [None, None, None, None]


@pytest.mark.parametrize(
    "undefined",
    [
        "a / zero < 1",
        "a % zero < 1",
        "zero / zero < 1",
        "a / (zero / a) < 1",
        "ln(zero) < 1",
        "sqrt(-a) < 1",
        "mod(a, zero) < 1",
        "CAST(word AS DOUBLE) < 1",
        "TRY_CAST(word AS FLOAT) BETWEEN 0 AND 1",
    ],
)
def test_what_arithmetic_does_not_define_is_not_kept(undefined: str) -> None:
    """An infinity or NaN can be compared: a predicate would be false, and let the row through."""
    table = pa.table({"x.a": [2.0, 3.0], "x.zero": [0.0, 0.0], "x.word": ["nan", "NaN"]})
    found = apply_rules([rule(drop=undefined)], table).to_pydict()
    assert found["reasons"] == [["odd"], ["odd"]]
    aware = f"coalesce({undefined}, false)"
    assert apply_rules([rule(drop=aware)], table)["reasons"].to_pylist() == [[], []]


def test_a_null_counts_only_where_no_rule_fails_for_sure() -> None:
    table = pa.table(
        {"image.error": ["truncated", None], "image.width": pa.array([None, None], pa.int32())}
    )
    rules = [rule("small", score="width", min=8), rule("corrupt", drop="error IS NOT NULL")]
    assert apply_rules(rules, table)["reasons"].to_pylist() == [["corrupt"], ["small"]]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"score": "widht", "min": 1}, ["rule odd", "'widht'", "image.width"]),
        ({"score": "clip.similarty", "min": 1}, ["rule odd", "clip.similarity"]),
        ({"score": "entropy", "min": 1}, ["several scorers", "clip.entropy or image.entropy"]),
        ({"score": "sum(width)", "min": 1}, ["sum()", "not a function of one row"]),
        ({"score": "rank() OVER (ORDER BY width)", "min": 1}, ["holds a window"]),
        ({"drop": "width > (SELECT 1)"}, ["holds a subquery"]),
        ({"drop": "url = read_text('/etc/hostname')"}, ["read_text()"]),
        ({"drop": "getenv('HOME') = url"}, ["getenv()"]),
        ({"drop": "random() > 0.5"}, ["random()"]),
        ({"drop": "now() > DATE '2020-01-01'"}, ["now()"]),
        ({"score": "lowwer(url)", "min": 1}, ["lowwer()", "lower"]),
        ({"score": "width +", "min": 1}, ["rule odd", "no SQL expression"]),
        ({"score": "1), (2", "min": 1}, ["more than one value"]),
        ({"score": "url", "min": 1}, ["VARCHAR", "not a number"]),
        ({"drop": "image.width"}, ["INTEGER", "not true or false"]),
        ({"score": "url + image.width", "min": 1}, ["rule odd", "cannot be computed"]),
        ({"drop": "COLUMNS('w.*') > 1"}, ["holds a star"]),
        ({"drop": "image.width > ?"}, ["holds a parameter"]),
    ],
)
def test_a_rule_that_cannot_run_is_refused_by_name(
    settings: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(SluiceError) as error:
        check_rules([rule(**settings)], SCHEMAS)
    assert all(word in message(error) for word in words), message(error)


def test_the_keep_order_is_checked_like_a_rule() -> None:
    check_rules([], SCHEMAS, DedupSettings(priority="rows.width * 2").order(()))
    with pytest.raises(SluiceError, match=r"dedup\.priority.*rows\.hight"):
        check_rules([], SCHEMAS, ["rows.hight"])


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(SluiceError, match="two rules are called 'odd'"):
        check_rules([rule(score="image.width", min=1), rule(score="image.width", max=9)], SCHEMAS)


def test_scorers_come_before_rows_for_a_plain_name() -> None:
    assert needed_columns([rule(score="Width", min=1)], SCHEMAS) == ["image.width"]
    assert needed_columns([rule(score="rows.width", min=1)], SCHEMAS) == ["rows.width"]
    assert needed_columns([], SCHEMAS, ["similarity"]) == ["clip.similarity"]


def test_a_failure_on_some_row_names_the_rule() -> None:
    table = pa.table({"rows.url": ["7", "seven"]})
    fine = rule("fine", drop="url = ''")
    with pytest.raises(SluiceError, match=r"rule odd.*Could not convert string 'seven'"):
        apply_rules([fine, rule(score="CAST(url AS INTEGER)", min=1)], table)
    tolerant = apply_rules([rule(score="try_cast(url AS INTEGER)", min=1)], table)
    assert tolerant["reason"].to_pylist() == [None, "odd"]


def test_quoting_and_awkward_names() -> None:
    table = pa.table({'x.a"b c': [1.0, 5.0], "x.select": [1.0, 1.0], "x.entropy": [0.0, 0.0]})
    rules = [rule("quoted", score='"a""b c" * x."select"', max=2)]
    assert apply_rules(rules, table)["reason"].to_pylist() == [None, "quoted"]


def test_no_rules_and_no_rows() -> None:
    table = pa.table({"x.score": pa.array([1.0, 2.0])})
    assert apply_rules([], table)["reasons"].to_pylist() == [[], []]
    assert apply_rules([rule(score="score", min=0)], table.slice(0, 0)).num_rows == 0


def test_scores_of_every_rule_and_expressions() -> None:
    table = pa.table({"x.a": [1.0, None], "x.b": [0, 2]})
    scores = rule_scores([rule("one", score="a", min=0), rule("two", drop="b > 1")], table)
    assert scores.to_pydict() == {"one": [1.0, None], "two": [False, True]}
    np.testing.assert_array_equal(evaluate("priority", "a * 2", table), [2.0, np.nan])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(-2, 2)), st.one_of(st.none(), st.integers(-2, 2))),
        min_size=1,
        max_size=20,
    ),
    st.floats(-1, 1),
    st.integers(-1, 1),
)
def test_agrees_with_a_plain_reading_of_the_rules(
    rows: list[tuple[float | None, int | None]], low: float, high: int
) -> None:
    table = pa.table(
        {
            "x.a": pa.array([a for a, _ in rows], pa.float64()),
            "x.b": pa.array([b for _, b in rows], pa.int32()),
        }
    )
    rules = [rule("first", score="a", min=low), rule("second", score="b", max=high)]
    expected = []
    for a, b in rows:
        fails = {"first": None if a is None else a < low, "second": None if b is None else b > high}
        sure = [name for name, failed in fails.items() if failed]
        expected.append(sure or [name for name, failed in fails.items() if failed is None])
    found = apply_rules(rules, table).to_pydict()
    assert found["reasons"] == expected
    assert found["reason"] == [names[0] if names else None for names in expected]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=3), max_size=8))
def test_lists_survive_taking_apart_and_joining(lists: list[list[str]]) -> None:
    column = pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])
    rows, values = list_entries(column)
    assert string_lists(rows, values, len(lists)).to_pylist() == lists


@pytest.mark.parametrize(
    "settings",
    [
        {"score": "a"},
        {"score": "a", "min": 2, "max": 1},
        {"score": "a", "min": 1, "drop": "b"},
        {"drop": "b", "max": 1},
        {},
        {"score": "a", "min": float("nan")},
        {"score": "a", "min": 1, "maximum": 2},
        {"reason": "near_duplicate", "score": "a", "min": 1},
        {"reason": "Not A Name", "score": "a", "min": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RuleSettings.model_validate({"reason": "odd", **settings})


def test_a_threshold_below_the_stored_pairs_is_refused() -> None:
    with pytest.raises(ValidationError, match="lower the floor"):
        NearSettings(threshold=0.8, floor=0.9)


def test_a_rule_may_look_into_what_rode_along() -> None:
    """LAION's columns are in `meta`, as JSON."""
    metas = ['{"NSFW":"UNLIKELY","punsafe":0.1}', '{"punsafe":0.9}', '{"WIDTH":3}', None]
    rules = [rule("unsafe", score="CAST(meta->>'punsafe' AS DOUBLE)", max=0.5)]
    found = apply_rules(rules, pa.table({"rows.meta": metas})).to_pydict()
    assert found["reason"] == [None, "unsafe", "unsafe", "unsafe"]
    assert found["score"] == [None, 0.9, None, None]
