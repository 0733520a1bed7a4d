"""Whether the funnel of a run differs from those before it: pure, for `diff` and for alerts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

KEPT = "kept"
LIMIT = 4.0  # of the statistic
LEAST = 0.01  # a share that moved by less is no news, however sure it is


@dataclass(frozen=True)
class Change:
    """How the share of one state moved. state: "kept", or the reason of a drop.

    expected: mean of the earlier shares. statistic: (share - expected) / the error of predicting
    one more share from them; far: whether that and the move itself are beyond the limits.
    """

    state: str
    share: float
    expected: float
    statistic: float
    far: bool


def funnel_change(
    old: Sequence[Mapping[str, Any]],
    new: Mapping[str, Any],
    limit: float = LIMIT,
    least: float = LEAST,
) -> list[Change]:
    """The shares of all states in `new` against `old`, one or several; the furthest first.

    Each is the `totals` of a manifest: rows, kept, dropped by reason. With p the share now, m the
    mean and s the standard deviation of the n earlier shares, and q a share smoothed so that it is
    never 0 or 1, the statistic is

        (p - m) / sqrt(max(s² (1 + 1/n), q (1 - q) (1 / rows now + 1 / rows before)))

    the error of predicting one more value of a normal series, but never less than what chance
    gives shares of so many rows; with one earlier funnel it is the two-sample test of proportions.
    Empty where either has no rows.
    """
    before = [each for each in old if each["rows"]]
    if not before or not new["rows"]:
        return []
    states = {KEPT, *new["dropped"], *(reason for each in before for reason in each["dropped"])}
    found = [_change(state, before, new, limit, least) for state in states]
    return sorted(found, key=lambda each: (-abs(each.statistic), each.state))


def _change(
    state: str,
    old: Sequence[Mapping[str, Any]],
    new: Mapping[str, Any],
    limit: float,
    least: float,
) -> Change:
    shares = [_count(each, state) / each["rows"] for each in old]
    share, expected, runs = _count(new, state) / new["rows"], fmean(shares), len(shares)
    spread = stdev(shares) ** 2 * (1 + 1 / runs) if runs > 1 else 0.0
    before = sum(each["rows"] for each in old)
    seen = sum(_count(each, state) for each in old) + _count(new, state)
    smooth = (seen + 0.5) / (before + new["rows"] + 1)
    chance = smooth * (1 - smooth) * (1 / new["rows"] + 1 / before)
    statistic = (share - expected) / math.sqrt(max(spread, chance))
    far = abs(statistic) >= limit and abs(share - expected) >= least
    return Change(state, share, expected, statistic, far)


def _count(totals: Mapping[str, Any], state: str) -> int:
    return totals["kept"] if state == KEPT else totals["dropped"].get(state, 0)
