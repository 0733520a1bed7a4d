"""Training runs: the loss of each against the samples it has seen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from flows.report.context import ReportContext
from infra import artifacts, charts, filesystem
from infra.artifacts import Artifact
from infra.charts import label

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run:
    """A training run in one line, with its curve."""

    name: str
    objective: str
    samples: int
    first: float
    last: float
    digest: str
    x: Sequence[float] = field(repr=False, default=())
    y: Sequence[float] = field(repr=False, default=())


@dataclass(frozen=True)
class Training:
    """All runs, and one chart per objective."""

    runs: Sequence[Run]
    charts: Sequence[Markup]


def training(context: ReportContext) -> Training | None:
    """Every run's curve; runs of one objective share a chart, because their losses compare."""
    runs = []
    for name, url in context.runs.items():
        artifact = artifacts.load(url)
        if artifact is not None and filesystem.exists(artifact.path(METRICS)):
            runs.append(_run(name, artifact))
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.objective, []).append(run)
    drawn = [
        charts.line_chart(label(objective), list(_curves(group)), "samples seen", "loss")
        for objective, group in groups.items()
    ]
    return Training(runs, drawn) if runs else None


def read_metrics(url: str) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl that are whole and hold a loss."""
    entries = []
    for line in filesystem.read_bytes(url).decode("utf-8", "replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("loss"), int | float):
            entries.append(entry)
    return entries


def _run(name: str, artifact: Artifact) -> Run:
    entries = read_metrics(artifact.path(METRICS))
    x = [float(entry.get("samples", entry.get("step", 0))) for entry in entries]
    y = [float(entry["loss"]) for entry in entries]
    calm = charts.smooth(y) if y else [float("nan")]
    samples = int(x[-1]) if x else 0
    return Run(name, _objective(artifact), samples, calm[0], calm[-1], artifact.digest, x, y)


def _objective(artifact: Artifact) -> str:
    """ "clip" of a run whose stage is "pretrain.clip"."""
    settings: Mapping[str, Any] = artifact.settings
    stage: str = artifact.manifest["spec"]["stage"]
    return str(settings.get("objective") or stage.rpartition(".")[2])


def _curves(runs: Sequence[Run]) -> Sequence[charts.Line]:
    """A moving average per run, over every step where there is room to see it."""
    raw, calm = [], []
    for place, run in enumerate(runs):
        colour = 1 + place % charts.COLOURS
        raw.append(charts.Line(run.name, run.x, run.y, colour, "faint"))
        calm.append(charts.Line(run.name, run.x, charts.smooth(run.y), colour))
    return [*(raw if len(runs) <= 3 else []), *calm]
