"""The funnel: what went in, what every reason took, what came out, and that it adds up."""

from collections.abc import Sequence
from dataclasses import dataclass

from curation.generate.reasons import MEANINGS as GENERATED
from curation.rules_settings import DUPLICATES, HASH_BITS, DedupSettings, RuleSettings
from flows.report.context import ReportContext
from infra import artifacts
from infra.artifacts import Artifact
from infra.charts import number


@dataclass(frozen=True)
class Loss:
    """One reason: how many it took, what was left after it, and what the reason means.

    `stage` is "ingest", "rule", "dedup" or "selection"; shares are of all rows.
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
    if rule.top is not None:
        bound = "" if rule.min is None else f": ≥ {number(rule.min)}"
        return f"kept where {rule.score} is in the top {number(100 * rule.top)} %{bound}"
    low, high = rule.min, rule.max
    if low is not None and high is not None:
        return f"kept where {number(low)} ≤ {rule.score} ≤ {number(high)}"
    if low is not None:
        return f"kept where {rule.score} ≥ {number(low)}"
    return f"kept where {rule.score} ≤ {number(high)}"


def duplicate_meanings(dedup: DedupSettings) -> dict[str, str]:
    """What each rung that is on takes, by its reason."""
    near = ", ".join(f"{each.vectors} ≥ {number(each.threshold)}" for each in dedup.near)
    meanings = (
        "the same image bytes as a kept sample",
        "the same pixels as a kept sample",
        f"hashes within {dedup.radius} of {HASH_BITS} bits of a kept sample's",
        f"similarity to a kept sample: {near}",
    )
    active = (dedup.exact, dedup.pixels, dedup.perceptual, bool(dedup.near))
    found = zip(DUPLICATES, meanings, active, strict=True)
    return {reason: meaning for reason, meaning, on in found if on}


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
    meanings |= duplicate_meanings(dedup) if dedup is not None else {}
    chosen = artifacts.load(context.selection) if context.selection else None
    plan = selection_meanings(chosen) if chosen and source == "curated version" else {}
    order = [name for name in dropped if name not in meanings and name not in plan]
    order += [*meanings, *plan]
    losses, left = [], rows
    for reason in order:
        count = dropped.get(reason, 0)
        left -= count
        stage = "ingest" if reason not in meanings else "rule"
        stage = "dedup" if reason in DUPLICATES else "selection" if reason in plan else stage
        read = GENERATED.get(reason, "refused when it was read")
        meaning = (meanings | plan).get(reason, read)
        losses.append(
            Loss(reason, count, _share(count, rows), left, _share(left, rows), stage, meaning)
        )
    balanced = left == kept and all(
        part.rows == part.kept + sum(part.dropped.values()) for part in artifact.parts
    )
    return Funnel(rows, kept, losses, artifact.totals["parts"], balanced, source)


def selection_meanings(selection: Artifact) -> dict[str, str]:
    """What each reason of a selection means, in the order of its plan."""
    found = {
        one["name"]: f"not among the {number(one['realised'])} of {number(one['rows'])} "
        f"that the selector {one['kind']} picks, {number(one['expected'])} expected"
        for part in selection.parts
        for one in part.extra["selectors"]
    }
    others = [reason for reason in selection.totals["dropped"] if reason not in found]
    return found | dict.fromkeys(others, "the selection had nothing to judge it by")


def _share(count: int, rows: int) -> float:
    return count / rows if rows else 0.0
