import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.curves import CURVE, EACH, STRIP, steps, sweep, sweep_near, sweep_radius
from curation.dedup import EDGES, edge_nodes
from curation.rules import apply_rules
from curation.rules_settings import DedupSettings, NearSettings, RuleSettings

VECTORS = "descriptor/pixels"


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=20),
    st.floats(-3, 0),
    st.floats(0, 3),
)
def test_each_point_is_what_the_rule_would_keep(
    values: list[float | None], low: float, high: float
) -> None:
    table = pa.table({"x.score": pa.array(values, pa.float64())})
    rule = RuleSettings(reason="odd", score="score", min=low, max=high)
    curve = sweep(rule, table, points=4).to_pylist()
    assert {point["bound"] for point in curve} == {"min", "max"}
    chosen = {(point["bound"], point["threshold"]) for point in curve}
    assert {("min", low), ("max", high)} <= chosen
    for point in curve:
        moved = rule.model_copy(update={point["bound"]: point["threshold"]})
        kept = apply_rules([moved], table)["reason"].null_count
        assert point["survivors"] == kept


def test_a_predicate_has_no_threshold() -> None:
    rule = RuleSettings(reason="odd", drop="score > 1")
    assert sweep(rule, pa.table({"x.score": [1.0]})).num_rows == 0


def test_a_score_that_is_nowhere_known_keeps_nothing() -> None:
    rule = RuleSettings(reason="odd", score="score", min=1)
    curve = sweep(rule, pa.table({"x.score": pa.array([None], pa.float64())})).to_pylist()
    assert curve == [{"bound": "min", "threshold": 1, "survivors": 0}]


def test_near_duplicates_are_chosen_anew_at_each_threshold() -> None:
    # a chain 0 - 1 - 2: at 0.9 row 1 goes, at 0.97 only the second pair is left
    rows = [(0, 1, VECTORS, 0.95), (1, 2, VECTORS, 0.98), (3, 4, "exact", 1.0)]
    edges = pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=EDGES)
    nodes = edge_nodes(edges)
    passing, priority = np.ones(len(nodes), bool), np.zeros(len(nodes))
    dedup = DedupSettings(near=(NearSettings(threshold=0.97, floor=0.9),))
    curve = sweep_near(edges, passing, priority, 10, dedup, points=3)
    assert curve.schema.equals(CURVE)
    assert dict(zip(*curve.select([1, 2]).to_pydict().values(), strict=True)) == {
        0.9: 8, 0.95: 8, 0.97: 8, 1.0: 9,
    }  # fmt: skip
    passing[nodes == 1] = False  # what a rule dropped is not dropped again
    assert sweep_near(edges, passing, priority, 9, dedup, points=2)["survivors"][0].as_py() == 8
    assert sweep_near(edges, passing, priority, 9, DedupSettings(near=())).num_rows == 0


def test_radii_are_chosen_anew_and_equal_what_the_choice_says() -> None:
    rows = [(0, 1, "perceptual", 1 - 2 / 64), (1, 2, "perceptual", 1 - 5 / 64)]
    edges = pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=EDGES)
    passing, priority = np.ones(3, bool), np.array([3.0, 2.0, 1.0])
    dedup = DedupSettings(near=(), radius=4, radius_floor=6)
    curve = sweep_radius(edges, passing, priority, 3, dedup)
    assert curve.schema.equals(CURVE)
    assert curve["threshold"].to_pylist() == list(range(7))
    # row 1 goes from 2 bits on; row 2 is close to row 1 alone, which is not kept then
    assert curve["survivors"].to_pylist() == [3, 3, 2, 2, 2, 2, 2]
    assert sweep_radius(edges, passing, priority, 3, DedupSettings.none()).num_rows == 0


@given(st.lists(st.integers(0, 50), max_size=200), st.integers(1, 5))
def test_steps_go_up_once_through_the_scores(values: list[int], each: int) -> None:
    ranked = np.sort(np.array(values, np.float64))
    found = steps(ranked, each)
    assert len(found) <= len(STRIP)
    assert bool(found) == bool(values)
    scores = [step.score for step in found]
    assert scores == sorted(set(scores))
    places = [place for step in found for place in range(step.start, step.stop)]
    assert places == sorted(set(places)) and all(0 <= place < len(values) for place in places)
    for step in found:
        assert 0 < step.stop - step.start <= each
        assert step.score in ranked[step.start : step.stop]


def test_many_scores_give_every_step() -> None:
    found = steps(np.arange(100_000.0))
    assert [step.stop - step.start for step in found] == [EACH] * len(STRIP)
    assert found[0].score == 0 and found[-1].score == 99_999
    assert steps(np.zeros(1000)) == [(0.0, 0, EACH)]
