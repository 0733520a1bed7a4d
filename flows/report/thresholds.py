"""Threshold curves: how many samples would survive each rule at another threshold."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from markupsafe import Markup

from curation.curves import sweep_near
from curation.dedup import EDGES_FILE, edge_nodes
from curation.rules_settings import DUPLICATES, NEAR, RuleSettings
from flows.report.galleries import NEAR_KEY
from flows.report.samples import Samples
from flows.report.scores import Scores
from infra import artifacts, charts
from infra.charts import label, number
from infra.dataset import read_table

STEPS = 120  # thresholds tried on a curve
NEAR_STEPS = 40  # the same for near-duplicates, where each is a choice made anew
PAIRS = 200_000  # more pairs than this take too long to choose from that often
SKEW = 8  # of a score's 99 % quantile over its median, from which its axis is logarithmic


@dataclass(frozen=True)
class Threshold:
    """The curve of one bound."""

    reason: str
    change: str  # the key of --set that moves it
    chart: Markup


def thresholds(
    samples: Samples, scores: Scores, planted: Mapping[str, np.ndarray]
) -> list[Threshold]:
    """A curve for every bound of a rule, and one for near-duplicates.

    planted[reason]: bool [rows], rows planted with the defect that the rule is to find.
    """
    found = [
        _rule_curve(rule, bound, scores.values[rule.reason], planted.get(rule.reason))
        for rule in samples.rules
        if rule.reason in scores.values
        for bound in ("min", "max")
        if getattr(rule, bound) is not None
    ]
    near = _near_curve(samples, scores)
    return [*found, near] if near else found


def survivors(values: np.ndarray, grid: np.ndarray, bound: str) -> np.ndarray:
    """The share of rows that pass each threshold of `grid`; a row without a score never does."""
    ranked = np.sort(values[~np.isnan(values)])
    below = np.searchsorted(ranked, grid, side="left" if bound == "min" else "right")
    passing = len(ranked) - below if bound == "min" else below
    return passing / max(len(values), 1)


def _rule_curve(
    rule: RuleSettings, bound: str, values: np.ndarray, planted: np.ndarray | None
) -> Threshold:
    chosen = float(getattr(rule, bound))
    values = _within_other(rule, bound, values)
    low, high, log = _range(values, chosen)
    grid = np.geomspace(low, high, STEPS) if log else np.linspace(low, high, STEPS)
    lines = [charts.Line("all samples", grid, survivors(values, grid, bound), 1)]
    rugs = []
    if planted is not None and planted.any():
        defect = values[planted]
        lines.append(charts.Line("planted", grid, survivors(defect, grid, bound), 2))
        rugs.append(charts.Rug("", defect[(defect >= low) & (defect <= high)], 2))
    side = "at least" if bound == "min" else "at most"
    chart = charts.line_chart(
        label(rule.reason),
        lines,
        f"{rule.score}, {side}",
        "share that passes",
        marks=[charts.Mark(number(chosen), chosen)],
        rugs=rugs,
        x_range=(low, high),
        y_range=(0.0, 1.0),
        log_x=log,
        percent=True,
    )
    moved = bound if rule.top is None else "top"
    return Threshold(rule.reason, f"curate.rules.{rule.reason}.{moved}", chart)


def _within_other(rule: RuleSettings, bound: str, values: np.ndarray) -> np.ndarray:
    """The scores, NaN where they miss the bound that stays where it is."""
    if bound == "min" and rule.max is not None:
        return np.where(values <= rule.max, values, np.nan)
    if bound == "max" and rule.min is not None:
        return np.where(values >= rule.min, values, np.nan)
    return values


def _range(values: np.ndarray, chosen: float) -> tuple[float, float, bool]:
    """The thresholds worth showing: nearly all of the scores, and the chosen one."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return chosen - 1, chosen + 1, False
    low, high = (float(q) for q in np.quantile(finite, (0.005, 0.995)))
    positive = finite[finite > 0]
    if chosen > 0 and len(positive) > 0.98 * len(finite):
        first, middle, last = (float(q) for q in np.quantile(positive, (0.01, 0.5, 0.99)))
        if last > SKEW * middle:
            return min(first, chosen / 1.5), max(last, chosen * 1.5), True
    margin = 0.05 * max(high - low, abs(chosen - low), abs(chosen - high)) or 1.0
    return min(low, chosen - margin), max(high, chosen + margin), False


def _near_curve(samples: Samples, scores: Scores) -> Threshold | None:
    """Survivors of deduplication at each threshold of the first search by embedding."""
    context, settings = samples.context, samples.dedup
    edges = artifacts.load(context.edges) if context.edges else None
    priority = scores.priority
    if edges is None or priority is None or not settings.near or not samples.whole:
        return None
    table = read_table(edges.path(EDGES_FILE))
    if table.num_rows > PAIRS:
        return None
    passing = samples.kept | np.isin(samples.reason, DUPLICATES)
    rows = np.searchsorted(samples.id, edge_nodes(table))
    curve = sweep_near(
        table, passing[rows], priority[rows], int(passing.sum()), settings, NEAR_STEPS
    )
    search = settings.near[0]
    near = table.filter(pc.field("kind") == search.vectors)["similarity"].to_numpy()
    chart = charts.line_chart(
        label(NEAR),
        [
            charts.Line(
                "of the samples that pass all rules",
                curve["threshold"].to_numpy(),
                curve["survivors"].to_numpy() / max(int(passing.sum()), 1),
            )
        ],
        f"{search.vectors} similarity to a kept sample, below",
        "share that passes",
        marks=[charts.Mark(number(search.threshold), search.threshold)],
        rugs=[charts.Rug("pairs", near, 6)],
        percent=True,
    )
    return Threshold(NEAR, NEAR_KEY, chart)
