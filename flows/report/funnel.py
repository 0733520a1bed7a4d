"""The funnel: what went in, what every reason took, what came out, and that it adds up."""

from collections.abc import Sequence
from dataclasses import dataclass

from curation.rules_settings import EXACT, NEAR, DedupSettings, RuleSettings
from flows.report.charts import number
from flows.report.context import ReportContext
from infra import artifacts


@dataclass(frozen=True)
class Loss:
    """One reason: how many it took, what was left after it, and what the reason means.

    `stage` is "ingest", "rule" or "dedup"; shares are of all rows.
    """

    reason: str
    count: int
    share: float
    left: int
    left_share: float
    stage: str
    meaning: str


@dataclass(frozen=True)
class Funnel:
    """Losses in the order in which they are decided; rows = kept + the sum of the losses."""

    rows: int
    kept: int
    losses: Sequence[Loss]
    shards: int
    balanced: bool
    source: str  # which artifact the counts are of

    @property
    def kept_share(self) -> float:
        return self.kept / self.rows if self.rows else 0.0


def rule_text(rule: RuleSettings) -> str:
    """What a rule keeps, in one line."""
    if rule.drop is not None:
        return f"dropped where {rule.drop}"
    low, high = rule.min, rule.max
    if low is not None and high is not None:
        return f"kept where {number(low)} ≤ {rule.score} ≤ {number(high)}"
    if low is not None:
        return f"kept where {rule.score} ≥ {number(low)}"
    return f"kept where {rule.score} ≤ {number(high)}"


def funnel(
    context: ReportContext, rules: Sequence[RuleSettings], dedup: DedupSettings | None
) -> Funnel | None:
    """Counts of the curated version, else of the verdicts, else of the pool alone."""
    places = (
        ("curated version", context.curated),
        ("verdicts", context.verdicts),
        ("pool", context.pool),
    )
    loaded = ((name, artifacts.load(url)) for name, url in places if url)
    source, artifact = next(((name, found) for name, found in loaded if found), ("", None))
    if artifact is None:
        return None
    rows, kept, dropped = (artifact.totals[name] for name in ("rows", "kept", "dropped"))
    meanings = {rule.reason: rule_text(rule) for rule in rules}
    if dedup is not None and dedup.exact:
        meanings[EXACT] = "the same image bytes as a kept sample"
    if dedup is not None and dedup.near is not None:
        meanings[NEAR] = f"similarity to a kept sample ≥ {number(dedup.near)}"
    order = [name for name in dropped if name not in meanings]
    order += list(meanings)
    losses, left = [], rows
    for reason in order:
        count = dropped.get(reason, 0)
        left -= count
        stage = "ingest" if reason not in meanings else "rule"
        stage = "dedup" if reason in (EXACT, NEAR) else stage
        meaning = meanings.get(reason, "refused when it was read")
        losses.append(
            Loss(reason, count, _share(count, rows), left, _share(left, rows), stage, meaning)
        )
    balanced = left == kept and all(
        part.rows == part.kept + sum(part.dropped.values()) for part in artifact.parts
    )
    return Funnel(rows, kept, losses, len(artifact.parts), balanced, source)


def _share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0
