"""What rules would remove, before anything is written: each alone, in order, and together.

A rule removes a row that fails it, and one that it cannot judge (NULL): neither would stay. All
figures follow from how many rows show which pattern of fails, so that a shard is read once and
memory does not grow with the rows.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import sql
from curation.rules import failing, parse_rules
from curation.rules_settings import RuleSettings

PER_CODE = 31  # rules in one integer, two bits each
PASSES, FAILS, UNKNOWN = 0, 1, 2

Counts = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preview:
    """Rows by pattern of fails. rules: r of them, in order; patterns: p.

    states: int [p, r], PASSES, FAILS or UNKNOWN; counts: [p], rows that show a pattern.
    low, high: [r], the range of a rule's scores; NaN for a predicate, or without any score.
    """

    rules: Sequence[RuleSettings]
    states: npt.NDArray[np.int64]
    counts: Counts
    low: Floats
    high: Floats

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    @property
    def removed(self) -> Bools:
        """[p, r]: the rule removes rows of this pattern."""
        return self.states != PASSES

    @property
    def alone(self) -> Counts:
        """[r]: rows that each rule removes if it is the only one."""
        return self.counts @ self.removed

    @property
    def unjudged(self) -> Counts:
        """[r]: those of them that it cannot judge."""
        return self.counts @ (self.states == UNKNOWN)

    @property
    def only(self) -> Counts:
        """[r]: rows that this rule removes and no other does."""
        lone = self.removed.sum(axis=1, keepdims=True) == 1
        return self.counts @ (self.removed & lone)

    @property
    def first(self) -> Counts:
        """[r]: rows of which it is the reason: the first that fails, else the first unknown."""
        failed = self.states == FAILS
        listed = np.where(failed.any(axis=1, keepdims=True), failed, self.removed)
        earlier = np.cumsum(listed, axis=1) > 1
        return self.counts @ (listed & ~earlier)

    @property
    def kept_after(self) -> Counts:
        """[r]: rows that stay if the rules up to this one are applied."""
        return self.rows - self.counts @ np.logical_or.accumulate(self.removed, axis=1)

    @property
    def overlaps(self) -> Counts:
        """[r, r]: rows that both rules remove; the diagonal is `alone`."""
        removed = self.removed.astype(np.int64)
        return removed.T @ (removed * self.counts[:, None])

    def warnings(self) -> list[str]:
        """Which rules remove all rows or none: their bounds lie outside the scores."""
        found: list[str] = []
        for index, rule in enumerate(self.rules):
            removed = int(self.alone[index])
            quiet = rule.score is None and not removed  # a predicate may well find nothing
            if quiet or not self.rows or 0 < removed < self.rows:
                continue
            says = f"{rule.reason} removes {'all' if removed else 'none'} of the rows"
            if rule.score is not None and np.isfinite(self.low[index]):
                says += f": its scores go from {self.low[index]:g} to {self.high[index]:g}"
            elif rule.score is not None:
                says += ": none of them has a score"
            found.append(says)
        return found


def preview(rules: Sequence[RuleSettings], tables: Iterable[pa.Table]) -> Preview:
    """Count over joined tables (columns `scorer.column`), one after the other.

    A rule with `top` must have got its threshold: see `curation.top`.
    """
    count = len(rules)
    patterns: Counter[tuple[int, ...]] = Counter()
    low, high = np.full((2, count), np.nan)
    for table in tables:
        parsed = parse_rules(rules, table.column_names)
        found = sql.query(_counting(rules, parsed), table, parsed) if rules else None
        if found is None:
            patterns[()] += table.num_rows
            continue
        codes = [found[f"c{code}"].to_pylist() for code in range(_codes(count))]
        for *pattern, rows in zip(*codes, found["rows"].to_pylist(), strict=True):
            patterns[tuple(pattern)] += rows
        for index in range(count):
            column = found[f"low{index}"].to_numpy(zero_copy_only=False).astype(float)
            low[index] = np.fmin.reduce(column, initial=low[index])
            column = found[f"high{index}"].to_numpy(zero_copy_only=False).astype(float)
            high[index] = np.fmax.reduce(column, initial=high[index])
    counts = np.array(list(patterns.values()), np.int64)
    states = np.zeros((len(counts), count), np.int64)
    for index in range(count):
        code, place = divmod(index, PER_CODE)
        states[:, index] = [pattern[code] >> 2 * place & 3 for pattern in patterns]
    return Preview(rules, states, counts, low, high)


def _codes(count: int) -> int:
    return -(-count // PER_CODE)


def _counting(rules: Sequence[RuleSettings], parsed: Sequence[sql.Expression]) -> str:
    """The query that gives rows by c0, c1, ... (the pattern), and the scores' ranges."""
    codes: list[str] = []
    for code in range(_codes(len(rules))):
        members = range(code * PER_CODE, min((code + 1) * PER_CODE, len(rules)))
        terms = [
            f"(coalesce(CAST(f{index} AS BIGINT), {UNKNOWN}) << {2 * (index - members.start)})"
            for index in members
        ]
        codes.append(f"{' + '.join(terms)} AS c{code}")
    ranges: list[str] = []
    for index, rule in enumerate(rules):
        score = "NULL" if rule.score is None else f"s{index}"
        ranges += [f"min({score}) AS low{index}", f"max({score}) AS high{index}"]
    return (
        f"{failing(rules, parsed)} "
        f"SELECT {', '.join(codes)}, count(*) AS rows, {', '.join(ranges)} FROM f GROUP BY ALL"
    )
