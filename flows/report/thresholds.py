"""Thresholds: samples by score, and how many would survive each rule at another threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from curation.curves import steps
from curation.rules import meaning
from curation.rules_settings import RuleSettings
from flows.report.samples import Samples, Tile
from flows.report.scores import Scores
from infra import charts
from infra.charts import label, number

STEPS = 120  # thresholds tried on a curve
SKEW = 8  # of a score's 99 % quantile over its median, from which its axis is logarithmic


@dataclass(frozen=True)
class Step:
    """A few samples of about one score, and the share of all samples that passes at it."""

    score: str
    share: float
    kept: bool
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Threshold:
    """One bound: what it bounds, samples by that score, and its curve."""

    reason: str
    score: str
    bound: str  # in words
    meaning: str  # units and polarity, "" where they are not known
    share: float  # that passes at the bound
    change: str  # the key of --set that moves it
    steps: Sequence[Step]
    chart: Markup


def thresholds(
    samples: Samples, scores: Scores, planted: Mapping[str, np.ndarray]
) -> list[Threshold]:
    """One for every bound of a rule.

    planted[reason]: bool [rows], rows planted with the defect that the rule is to find.
    """
    return [
        _threshold(samples, scores, rule, bound, planted.get(rule.reason))
        for rule in samples.rules
        if rule.reason in scores.values
        for bound in ("min", "max")
        if getattr(rule, bound) is not None
    ]


def _threshold(
    samples: Samples, scores: Scores, rule: RuleSettings, bound: str, planted: np.ndarray | None
) -> Threshold:
    values, chosen = scores.values[rule.reason], float(getattr(rule, bound))
    within = _within_other(rule, bound, values)
    moved = bound if rule.top is None else "top"
    said = f"at {'least' if bound == 'min' else 'most'} {number(chosen)}"
    return Threshold(
        rule.reason,
        str(rule.score),
        said if rule.top is None else f"{said}, the top {100 * rule.top:g}\u00a0%",
        meaning(str(rule.score), scores.schemas),
        float(survivors(within, np.array([chosen]), bound)[0]),
        f"curate.rules.{rule.reason}.{moved}",
        _steps(samples, values, within, bound, chosen),
        _curve(rule, bound, within, chosen, planted),
    )


def _steps(
    samples: Samples, values: np.ndarray, within: np.ndarray, bound: str, chosen: float
) -> list[Step]:
    """Samples along their scores, lowest first; of equal scores the lowest uids."""
    order = np.lexsort((samples.uid_rank, values))
    order = order[np.isfinite(values[order]) & samples.pictured[order]]
    found = steps(values[order])
    shares = survivors(within, np.array([step.score for step in found]), bound)
    return [
        Step(
            number(step.score),
            float(share),
            step.score >= chosen if bound == "min" else step.score <= chosen,
            [samples.tile(int(i)) for i in order[step.start : step.stop]],
        )
        for step, share in zip(found, shares, strict=True)
    ]


def survivors(values: np.ndarray, grid: np.ndarray, bound: str) -> np.ndarray:
    """The share of rows that pass each threshold of `grid`; a row without a score never does."""
    ranked = np.sort(values[~np.isnan(values)])
    below = np.searchsorted(ranked, grid, side="left" if bound == "min" else "right")
    passing = len(ranked) - below if bound == "min" else below
    return passing / max(len(values), 1)


def _curve(
    rule: RuleSettings, bound: str, values: np.ndarray, chosen: float, planted: np.ndarray | None
) -> Markup:
    """The share that passes against the threshold. values: NaN where the other bound fails."""
    low, high, log = _range(values, chosen)
    grid = np.geomspace(low, high, STEPS) if log else np.linspace(low, high, STEPS)
    lines = [charts.Line("all samples", grid, survivors(values, grid, bound), 1)]
    rugs = []
    if planted is not None and planted.any():
        defect = values[planted]
        lines.append(charts.Line("planted", grid, survivors(defect, grid, bound), 2))
        rugs.append(charts.Rug("", defect[(defect >= low) & (defect <= high)], 2))
    side = "at least" if bound == "min" else "at most"
    return charts.line_chart(
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
