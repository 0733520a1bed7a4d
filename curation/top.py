"""The thresholds of rules that keep a share: exact over all rows, without holding them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from curation import columns
from curation.rules import needed_columns, rule_scores
from curation.rules_settings import RuleSettings
from infra.artifacts import Artifact

BITS = 22  # of a double that the first pass counts by: sign, exponent, ten of the mantissa
SHIFT = np.uint64(64 - BITS)
STATUS = f"{columns.ROWS_NAME}.status"

Floats = npt.NDArray[np.float64]


def top_thresholds(
    rules: Sequence[RuleSettings],
    dataset_url: str,
    folders: Mapping[str, str],
    shards: Sequence[int],
) -> dict[str, float]:
    """reason -> the lowest score that stays, for every rule with `top`.

    Each costs two passes over the columns it reads. Rows rejected at ingest do not count.
    """
    found: dict[str, float] = {}
    for rule in rules:
        if rule.top is None:
            continue
        schemas = columns.column_schemas(dataset_url, folders, shards[0]) if shards else {}
        names = [*needed_columns([rule], schemas), STATUS] if shards else []

        def scores(rule: RuleSettings = rule, names: list[str] = names) -> Iterable[Floats]:
            for _, table in columns.read_batches(dataset_url, folders, shards, names):
                table = table.filter(pc.field(STATUS) == "ok")
                column = rule_scores([rule], table)[rule.reason]
                yield column.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)

        value = value_at(scores, rule.top)
        # Without a single score no row can be judged, whatever the threshold.
        found[rule.reason] = 0.0 if value is None else value
    return found


def with_thresholds(
    rules: Sequence[RuleSettings], thresholds: Mapping[str, float]
) -> list[RuleSettings]:
    """The rules, each with `top` beside the `min` that it stands for."""
    return [
        rule
        if rule.top is None
        else rule.model_copy(update={"min": thresholds.get(rule.reason, rule.min)})
        for rule in rules
    ]


def judged_rules(
    verdicts: Artifact, otherwise: Mapping[str, Any] | None = None
) -> list[RuleSettings]:
    """The rules that made these verdicts, with the thresholds that `top` came to.

    otherwise: settings to look in where the verdicts do not name their rules.
    """
    settings = verdicts.settings if "rules" in verdicts.settings else otherwise or {}
    rules = [RuleSettings.model_validate(rule) for rule in settings.get("rules") or []]
    found: dict[str, float] = {}
    for part in verdicts.parts:
        found |= part.extra.get("thresholds", {})
    return with_thresholds(rules, found)


def value_at(parts: Callable[[], Iterable[Floats]], fraction: float) -> float | None:
    """The value at place int(n * fraction) of all n finite values, in descending order.

    parts() gives them piece by piece, and is called twice: to count them by their leading BITS
    bits (32 MB), and to look at those alone that share these bits with the value sought.
    None where there is no value.
    """
    counts = np.zeros(1 << BITS, np.int64)
    for piece in parts():
        counts += np.bincount(_keys(piece) >> SHIFT, minlength=1 << BITS)
    total = int(counts.sum())
    if not total:
        return None
    place = total - 1 - min(int(total * fraction), total - 1)  # counted from the lowest
    sums = np.cumsum(counts)
    cell = int(np.searchsorted(sums, place, side="right"))
    place -= int(sums[cell] - counts[cell])
    values, repeats = np.empty(0), np.empty(0, np.int64)
    for piece in parts():
        inside = piece[(_keys(piece) >> SHIFT) == np.uint64(cell)]
        values, inverse = np.unique(np.concatenate([values, inside]), return_inverse=True)
        weights = np.concatenate([repeats, np.ones(len(inside), np.int64)])
        repeats = np.bincount(inverse, weights, len(values)).astype(np.int64)
    return float(values[np.searchsorted(np.cumsum(repeats), place, side="right")])


def _keys(values: Floats) -> npt.NDArray[np.uint64]:
    """uint64 numbers in the order of the doubles."""
    bits = (values + 0.0).view(np.uint64)  # + 0.0: there is one zero
    negative = bits >> np.uint64(63) == 1
    return np.where(negative, ~bits, bits | np.uint64(1 << 63))
