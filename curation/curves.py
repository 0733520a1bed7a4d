"""Threshold sweeps: how many rows would stay at another threshold, without writing anything."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.dedup import Bools, edge_nodes, find_duplicates
from curation.rules import rule_scores
from curation.rules_settings import DedupSettings, RuleSettings

CURVE = pa.schema(
    [
        ("bound", pa.string()),  # which one is moved: "min", "max", "near" or "radius"
        ("threshold", pa.float64()),
        ("survivors", pa.int64()),  # rows that this rule alone would keep
    ]
)
POINTS = 50
# Shares of the samples at which a strip of pictures looks: closer where thresholds mostly stand.
STRIP = (0, 0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.99, 1)
EACH = 3  # samples at each

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


class Step(NamedTuple):
    """Samples of about one score: the places `start` to `stop` of ascending scores."""

    score: float
    start: int
    stop: int


def steps(ranked: Floats, each: int = EACH) -> list[Step]:
    """Places along ascending finite scores [m] where to look at samples: at most len(STRIP).

    A step holds at most `each` samples around the one whose score it tells. No sample stands in
    two steps, and no two steps tell the same score.
    """
    found: list[Step] = []
    end, last = 0, len(ranked) - 1
    for place in (round(share * last) for share in STRIP if last >= 0):
        score = float(ranked[place])
        if place < end or (found and found[-1].score == score):
            continue
        start = max(end, min(place - each // 2, len(ranked) - each))
        end = min(start + each, len(ranked))
        found.append(Step(score, start, end))
    return found


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
    chosen = settings.near[search]
    thresholds = np.unique([*np.linspace(chosen.floor, 1, points), chosen.threshold])
    moved: list[DedupSettings] = []
    for threshold in thresholds.tolist():
        near = list(settings.near)
        near[search] = chosen.model_copy(update={"threshold": threshold})
        moved.append(settings.model_copy(update={"near": tuple(near)}))
    return _curve("near", thresholds, _chosen_anew(edges, passing, priority, rows, moved))


def sweep_radius(
    edges: pa.Table, passing: Bools, priority: Floats, rows: int, settings: DedupSettings
) -> pa.Table:
    """Move `radius` from 0 to its floor, in bits, as `sweep_near` moves a threshold: CURVE."""
    if not settings.perceptual:
        return CURVE.empty_table()
    radii = range(settings.radius_floor + 1)
    moved = [settings.model_copy(update={"radius": radius}) for radius in radii]
    survivors = _chosen_anew(edges, passing, priority, rows, moved)
    return _curve("radius", np.array(radii, np.float64), survivors)


def _chosen_anew(
    edges: pa.Table,
    passing: Bools,
    priority: Floats,
    rows: int,
    moved: Sequence[DedupSettings],
) -> Counts:
    """How many rows survive deduplication under each of the settings."""
    nodes = edge_nodes(edges)
    survivors: list[int] = []
    for settings in moved:
        found = find_duplicates(edges, nodes, passing, priority, settings)
        survivors.append(rows - int(passing[np.searchsorted(nodes, found.ids)].sum()))
    return np.array(survivors)


def _curve(bound: str, thresholds: Floats, survivors: Counts) -> pa.Table:
    return pa.table([pa.repeat(bound, len(thresholds)), thresholds, survivors], schema=CURVE)
