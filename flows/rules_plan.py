"""`--plan`: what the rules would remove, from the scores that are in the store already.

Each alone, in order, and how they overlap; as plain text of at most WIDTH columns.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from curation import columns
from curation.preview import Preview, preview
from curation.rules import against_polarity, needed_columns
from curation.rules_settings import RuleSettings
from curation.top import STATUS, top_thresholds, with_thresholds
from curation.units import meanings
from flows.main import Prepared
from infra import artifacts
from infra.dataset import Dataset
from infra.filesystem import join

WIDTH = 100
NAMES = 24  # columns for the names of rules
CONDITIONS = 25  # and for what they keep
COUNT = 7  # and for a number


def rules_plan(prepared: Prepared) -> str:
    """The tables of a recipe's rules, what could not be told, and what their scores mean."""
    meant = meaning_of_scores(prepared.recipe.curate.rules, prepared.pipeline.columns)
    return "\n\n".join([_effects(prepared), *([meant] if meant else [])])


def _effects(prepared: Prepared) -> str:
    pool = prepared.pipeline.steps["ingest pool"].draft
    artifact = artifacts.load(pool.url)
    if artifact is None:
        return "the rules: nothing is ingested yet, so what they would remove cannot be told"
    missing = {
        rule.reason: scorers
        for rule in prepared.recipe.curate.rules
        if (scorers := _missing(prepared, rule))
    }
    rules = [rule for rule in prepared.recipe.curate.rules if rule.reason not in missing]
    text = [_untold(missing)] if missing else []
    if rules:
        text.insert(0, _told(prepared, Dataset(artifact), rules))
    return "\n\n".join(text)


def _missing(prepared: Prepared, rule: RuleSettings) -> list[str]:
    """The scorers whose columns a rule needs, and that are not in the store."""
    url, folders = prepared.pipeline.steps["ingest pool"].draft.url, prepared.pipeline.folders
    names = needed_columns([rule], prepared.pipeline.columns)
    scorers = {name.partition(".")[0] for name in names} - {columns.ROWS_NAME}
    return sorted(
        scorer for scorer in scorers if artifacts.load(join(url, "scores", folders[scorer])) is None
    )


def meaning_of_scores(rules: Sequence[RuleSettings], schemas: Mapping[str, pa.Schema]) -> str:
    """Units and polarity of the columns that rules read, and which rules go against them."""
    told = meanings(schemas)
    names = [name for name in needed_columns(rules, schemas) if name in told]
    width = max(map(len, names), default=0)
    lines = [f"{name:{width}}  {told[name]}" for name in names]
    lines += [f"warning: {warning}" for warning in against_polarity(rules, schemas)]
    return "\n".join(["units of the scores:", *lines] if lines else [])


def _untold(missing: dict[str, list[str]]) -> str:
    """Which rules are left out, and for want of which scores."""
    told = [f"{reason} ({', '.join(scorers)})" for reason, scorers in missing.items()]
    return textwrap.fill(
        f"not told, for want of scores that are not in the store yet: {', '.join(told)}", WIDTH
    )


def _told(prepared: Prepared, dataset: Dataset, rules: Sequence[RuleSettings]) -> str:
    folders = prepared.pipeline.folders
    needed = {
        name.partition(".")[0] for name in needed_columns(rules, prepared.pipeline.columns)
    } - {columns.ROWS_NAME}
    folders = {name: folders[name] for name in needed}
    thresholds = top_thresholds(rules, dataset.url, folders, dataset.shards)
    resolved = with_thresholds(rules, thresholds)
    found = preview(resolved, _tables(prepared, dataset, folders, resolved))
    rejected = int(dataset.artifact.totals["rows"]) - found.rows
    name = "@".join(dataset.url.rstrip("/").split("/")[-2:])
    head = f"the rules, over {found.rows:,} samples of {name}"
    if rejected:
        head += f" (and {rejected:,} rows that were rejected on the way in)"
    parts = [head, table(found)]
    if len(rules) > 1:
        parts.append("removed by both:\n" + overlaps(found))
    if warnings := found.warnings():
        parts.append("\n".join(f"warning: {warning}" for warning in warnings))
    return "\n\n".join(parts)


def _tables(
    prepared: Prepared, dataset: Dataset, folders: dict[str, str], rules: Sequence[RuleSettings]
) -> Iterator[pa.Table]:
    """What the rules read, piece by piece, less the rows rejected at ingest."""
    every = prepared.pipeline.columns
    names = [*needed_columns(rules, every), STATUS]
    for _, table in columns.read_batches(dataset.url, folders, dataset.shards, names):
        yield table.filter(pc.field(STATUS) == "ok")


def condition(rule: RuleSettings) -> str:
    """What a rule keeps, as SQL."""
    if rule.score is None:
        return f"NOT ({rule.drop})"
    bounds = [f">= {rule.min:g}"] if rule.min is not None else []
    bounds += [f"<= {rule.max:g}"] if rule.max is not None else []
    text = f"{rule.score} {' and '.join(bounds)}"
    return text if rule.top is None else f"{text} (top {rule.top:g})"


def table(found: Preview) -> str:
    """One block of lines for each rule: its SQL, and how many rows it removes."""
    header = ("alone", "share", "no score", "only it", "first", "stay")
    lines = [_line(" #  rule", "keeps where", header)]
    lines.append("-" * len(lines[0]))
    for index, rule in enumerate(found.rules):
        alone = int(found.alone[index])
        share = f"{100 * alone / found.rows:.2f} %" if found.rows else "-"
        counts = [found.unjudged, found.only, found.first, found.kept_after]
        cells = [short(alone), share, *(short(int(count[index])) for count in counts)]
        name = _wrapped(rule.reason, NAMES - 4)
        words = _wrapped(condition(rule), CONDITIONS)
        for place in range(max(len(name), len(words))):
            left = name[place] if place < len(name) else ""
            number = f"{index + 1:2d}" if place == 0 else "  "
            right = words[place] if place < len(words) else ""
            lines.append(_line(f"{number}  {left}", right, cells if place == 0 else [""] * 6))
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _line(name: str, words: str, cells: Sequence[str]) -> str:
    widths = (6, 8, 8, 7, 6, 9)
    right = " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"{name:{NAMES}} {words:{CONDITIONS}} {right}".rstrip()


def overlaps(found: Preview) -> str:
    """Rows that both of two rules remove; in blocks that fit the width."""
    per_block = (WIDTH - NAMES) // COUNT
    lines: list[str] = []
    for start in range(0, len(found.rules), per_block):
        members = range(start, min(start + per_block, len(found.rules)))
        lines.append(" " * NAMES + "".join(f"{f'#{i + 1}':>{COUNT}}" for i in members))
        for index, rule in enumerate(found.rules):
            name = f"{index + 1:2d}  {rule.reason}"
            name = name if len(name) <= NAMES else name[: NAMES - 1] + "…"
            cells = (short(int(found.overlaps[index, i])) for i in members)
            lines.append(f"{name:{NAMES}}" + "".join(f"{cell:>{COUNT}}" for cell in cells))
    return "\n".join(lines)


def short(count: int) -> str:
    """12 -> "12", 1234567 -> "1.23M": at most five characters."""
    if count < 100_000:
        return str(count)
    value, units = float(count), iter(("k", "M", "G", "T"))
    unit = ""
    while value >= 999.5:
        value, unit = value / 1000, next(units)
    return f"{value:.3g}{unit}"
