"""Threshold sweeps: how many rows would stay at another threshold, without writing anything."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.dedup import Bools, edge_nodes, find_duplicates
from curation.rules import rule_scores
from curation.rules_settings import DedupSettings, RuleSettings

CURVE = pa.schema(
    [
        ("bound", pa.string()),  # which one is moved: "min", "max" or "near"
        ("threshold", pa.float64()),
        ("survivors", pa.int64()),  # rows that this rule alone would keep
    ]
)
POINTS = 50

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.integer[Any]]


def sweep(rule: RuleSettings, table: pa.Table, points: int = POINTS) -> pa.Table:
    """Move each bound of a rule over its scores in `table` (columns `scorer.column`): CURVE.

    Half of the thresholds are spread evenly between the lowest and the highest score, half by
    rank, and the rule's own is among them. The rule's other bound stays where it is. A rule
    with a predicate has no threshold and gives an empty table.
    """
    curves = [CURVE.empty_table()]
    if rule.score is not None:
        scores = rule_scores([rule], table)[rule.reason].to_numpy(zero_copy_only=False)
        scores = scores.astype(np.float64)
        scores = scores[np.isfinite(scores)]
        for bound in ("min", "max"):
            chosen = getattr(rule, bound)
            if chosen is not None:
                thresholds = grid(scores, points, [chosen])
                curves.append(
                    _curve(bound, thresholds, _survivors(rule, bound, scores, thresholds))
                )
    return pa.concat_tables(curves)


def grid(scores: Floats, points: int, chosen: Sequence[float] = ()) -> Floats:
    """Ascending thresholds: half evenly over the finite scores, half by rank, and those chosen."""
    if not len(scores):
        return np.array(chosen, np.float64)
    even = np.linspace(scores.min(), scores.max(), points - points // 2)
    ranked = np.quantile(scores, np.linspace(0, 1, max(points // 2, 1)))
    return np.unique(np.concatenate([even, ranked, chosen]))


def _survivors(rule: RuleSettings, bound: str, scores: Floats, thresholds: Floats) -> Counts:
    if bound == "min":
        inside = np.sort(scores[scores <= rule.max] if rule.max is not None else scores)
        return len(inside) - np.searchsorted(inside, thresholds, side="left")
    inside = np.sort(scores[scores >= rule.min] if rule.min is not None else scores)
    return np.searchsorted(inside, thresholds, side="right")


def sweep_near(
    edges: pa.Table,
    passing: Bools,
    priority: Floats,
    rows: int,
    settings: DedupSettings,
    points: int = POINTS,
    search: int = 0,
) -> pa.Table:
    """Move the threshold of `near[search]` from its floor up to 1, choosing anew: CURVE.

    passing, priority: of the rows `edge_nodes(edges)`, as for `find_duplicates`; rows: how many
    rows pass the rules in all. Survivors are rows that pass the rules and deduplication.
    """
    if len(settings.near) <= search:
        return CURVE.empty_table()
    nodes, chosen = edge_nodes(edges), settings.near[search]
    even = np.linspace(chosen.floor, 1, points)
    thresholds: Sequence[float] = np.unique([*even, chosen.threshold]).tolist()
    survivors: list[int] = []
    for threshold in thresholds:
        near = list(settings.near)
        near[search] = chosen.model_copy(update={"threshold": threshold})
        moved = settings.model_copy(update={"near": tuple(near)})
        found = find_duplicates(edges, nodes, passing, priority, moved)
        survivors.append(rows - int(passing[np.searchsorted(nodes, found.ids)].sum()))
    return _curve("near", np.array(thresholds), np.array(survivors))


def _curve(bound: str, thresholds: Floats, survivors: Counts) -> pa.Table:
    return pa.table([pa.repeat(bound, len(thresholds)), thresholds, survivors], schema=CURVE)
