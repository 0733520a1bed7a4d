"""Where the time went, what the settings were, and which artifacts stand behind the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from flows.report.context import ReportContext
from infra import artifacts
from infra.artifacts import Artifact


@dataclass(frozen=True)
class StepTime:
    """One step; `share` is of the longest, for the bar."""

    name: str
    seconds: float
    cpu_seconds: float
    rows: int
    rate: float | None
    share: float
    from_store: bool


@dataclass(frozen=True)
class Time:
    """All steps, and what this run and the store did of them."""

    steps: Sequence[StepTime]
    seconds: float  # of this run
    stored: int


@dataclass(frozen=True)
class Ancestor:
    """An artifact: what it is, where it lies, how large it is, what it was made from."""

    name: str
    kind: str
    digest: str
    content: str
    url: str
    rows: int
    bytes: int
    parents: Sequence[tuple[str, str]]  # (digest, name if it is in this report)


def time(context: ReportContext) -> Time | None:
    """Seconds and rows per second of each step."""
    if not context.steps:
        return None
    longest = max(step.seconds for step in context.steps) or 1.0
    steps = [
        StepTime(
            step.name,
            step.seconds,
            step.cpu_seconds,
            step.rows,
            step.rows / step.seconds if step.rows and step.seconds > 0 else None,
            step.seconds / longest,
            step.from_store,
        )
        for step in context.steps
    ]
    return Time(
        steps,
        sum(step.seconds for step in steps if not step.from_store),
        sum(step.from_store for step in steps),
    )


def settings_yaml(recipe: Mapping[str, Any]) -> str:
    """The recipe as one would write it."""
    if not recipe:
        return ""
    return yaml.safe_dump(_plain(recipe), sort_keys=False, allow_unicode=True, width=88)


def _plain(value: Any) -> Any:
    """Only what YAML has: tuples become lists, models and paths become mappings and text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def provenance(store: str, context: ReportContext) -> list[Ancestor]:
    """Every artifact of the report, with its digest and its parents, inputs first."""
    named: list[tuple[str, str | None]] = [("pool", context.pool)]
    named += [("evaluation split", context.held_out)]
    named += [(f"score: {name}", url) for name, url in context.scores.items()]
    named += [
        ("duplicate pairs", context.edges),
        ("verdicts", context.verdicts),
        ("curated version", context.curated),
        ("index", context.index),
        ("fractals", context.fractals),
    ]
    named += [(f"source: {name}", url) for name, url in (context.versions or {}).items()]
    named += [(f"run: {name}", url) for name, url in context.runs.items()]
    named += [("evaluation", context.evaluation)]
    found: list[tuple[str, Artifact]] = []
    for name, url in named:
        artifact = artifacts.load(url) if url else None
        if artifact is not None:
            found.append((name, artifact))
    names = {artifact.digest: name for name, artifact in reversed(found)}
    return [
        Ancestor(
            name,
            artifact.kind,
            artifact.digest,
            artifact.content,
            artifact.url.removeprefix(store.rstrip("/") + "/"),
            artifact.totals["rows"],
            artifact.totals["bytes"],
            [(parent, names.get(parent, "")) for parent in artifact.manifest["spec"]["parents"]],
        )
        for name, artifact in found
    ]
