"""What the encoders are worth on the held-out split, and whether curation made them better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from flows.report.context import ReportContext
from infra import artifacts, charts
from infra.artifacts import Artifact
from infra.charts import label
from pretrain.evaluate.stage import lower_is_better, read_results
from pretrain.evaluate_settings import CLASSES

METRIC = "accuracy"  # of the headline and the charts; the other metrics stand in tables
OVER_SEEDS = "_over_seeds"


@dataclass(frozen=True)
class Figure:
    """One figure with its interval, shares of 1; n: test samples, or pairs of runs."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Table:
    """One metric of every encoder on every task; an encoder without a text tower has gaps."""

    metric: str
    figures: Mapping[tuple[str, str], Figure]
    best: Mapping[str, str]


@dataclass(frozen=True)
class Details:
    """The metrics of a task that has its own, of every encoder it is for."""

    task: str
    encoders: Sequence[str]
    metrics: Sequence[str]
    figures: Mapping[tuple[str, str], Figure]  # by encoder and metric
    best: Mapping[str, str]  # encoder by metric


@dataclass(frozen=True)
class Difference:
    """One comparison on one task: the first encoder's figure minus the second's."""

    name: str
    task: str
    metric: str
    figure: Figure
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Evaluation:
    """All figures of all encoders, and the charts of the first metric."""

    tasks: Sequence[str]
    encoders: Sequence[str]  # baselines last
    baselines: frozenset[str]
    tables: Sequence[Table]
    details: Sequence[Details]
    differences: Sequence[Difference]
    charts: Sequence[Markup]
    n: int
    confidence: str


@dataclass(frozen=True)
class Answer:
    """Did curation help? `verdict` is "yes", "no", "unclear" or "unknown"."""

    verdict: str
    word: str
    sentence: str
    gain: str = ""
    interval: str = ""
    beside: str = ""  # the same comparison on the other tasks
    chart: Markup | None = None


def evaluation(context: ReportContext) -> Evaluation | None:
    """Results of every encoder on every task, with intervals, baselines last."""
    artifact = artifacts.load(context.evaluation) if context.evaluation else None
    if artifact is None:
        return None
    sources: Mapping[str, str] = artifact.settings["encoders"]
    rows = read_results(artifact).to_pylist()
    plain = [row for row in rows if row["encoder"] in sources]
    baselines = frozenset(
        name
        for name, source in sources.items()
        if source == "pixels" or source.startswith("random:")
    )
    named = [*context.runs, *sources]  # the recipe's order, not the alphabet's
    encoders = sorted(
        {row["encoder"] for row in plain}, key=lambda name: (name in baselines, named.index(name))
    )
    order: list[str] = list(artifact.settings["tasks"])
    there = [task for task in order if any(row["task"] == task for row in plain)]
    tasks = [task for task in there if task in CLASSES]
    of_classes = [row for row in plain if row["task"] in CLASSES]
    metrics = sorted({row["metric"] for row in of_classes}, key=lambda name: (name != METRIC, name))
    tables = [_table(metric, of_classes) for metric in metrics]
    details = [_details(task, encoders, plain) for task in there if task not in CLASSES]
    differences = _differences(artifact, rows)
    drawn = [_chart(task, encoders, baselines, tables[0]) for task in tasks] if tables else []
    if differences:
        drawn.append(_difference_chart(differences))
    confidence = f"{100 * artifact.settings.get('confidence', 0.95):.0f}\u00a0%"
    n = max((row["n"] for row in of_classes or plain), default=0)
    return Evaluation(
        tasks, encoders, baselines, tables, details, differences, drawn, n, confidence
    )


def _table(metric: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    figures = {
        (row["encoder"], row["task"]): _figure(row) for row in rows if row["metric"] == metric
    }
    best: dict[str, str] = {}
    for (encoder, task), figure in figures.items():
        if task not in best or figure.value > figures[best[task], task].value:
            best[task] = encoder
    return Table(metric, figures, best)


def _details(task: str, encoders: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Details:
    found = [row for row in rows if row["task"] == task]
    figures = {(row["encoder"], row["metric"]): _figure(row) for row in found}
    named = [name for name in encoders if any(row["encoder"] == name for row in found)]
    metrics = list(dict.fromkeys(row["metric"] for row in found))
    best: dict[str, str] = {}
    for metric in metrics:
        sign = -1 if lower_is_better(metric) else 1
        values = {
            name: sign * figures[name, metric].value for name in named if (name, metric) in figures
        }
        best[metric] = max(values, key=lambda name: values[name])
    return Details(task, named, metrics, figures, best)


def _figure(row: Mapping[str, Any]) -> Figure:
    return Figure(row["value"], row["ci_low"], row["ci_high"], row["n"])


def _differences(artifact: Artifact, rows: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Every comparison asked for: over seeds where there are several pairs, else of its one."""
    by_name: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault((row["encoder"], row["metric"]), []).append(row)
    found = []
    for comparison in artifact.settings.get("compare", ()):
        pairs = [(first, second) for first, second in comparison["pairs"]]
        several = len(pairs) > 1
        name = comparison["name"] if several else f"{pairs[0][0]} - {pairs[0][1]}"
        metric = METRIC + OVER_SEEDS if several else METRIC
        found += [
            Difference(comparison["name"], row["task"], METRIC, _figure(row), pairs)
            for row in by_name.get((name, metric), ())
        ]
    return found


def _chart(task: str, encoders: Sequence[str], baselines: frozenset[str], table: Table) -> Markup:
    rows = [
        charts.Interval(encoder, figure.value, figure.low, figure.high, encoder in baselines)
        for encoder in encoders
        if (figure := table.figures.get((encoder, task))) is not None
    ]
    return charts.interval_chart(label(task), rows, label(table.metric))


def _difference_chart(differences: Sequence[Difference]) -> Markup:
    several = len({difference.name for difference in differences}) > 1
    rows = [
        charts.Interval(
            f"{entry.name}, {label(entry.task)}" if several else label(entry.task),
            entry.figure.value,
            entry.figure.low,
            entry.figure.high,
        )
        for entry in differences
    ]
    title = "Differences" if several else differences[0].name
    return charts.interval_chart(title, rows, "points of accuracy", signed=True)


def answer(
    context: ReportContext, results: Evaluation | None, samples: Mapping[str, int]
) -> Answer:
    """Compare training on the curated pairs with training on the raw pool.

    samples: how many samples each run has seen, by name.
    """
    asked = [
        entry
        for entry in (results.differences if results else ())
        if context.compare in (None, entry.name)
    ]
    if results is None or not asked:
        return Answer(
            "unknown",
            "Not measured.",
            "This run did not compare an encoder trained on the curated pairs with one trained "
            "on the raw pool.",
        )
    entry = asked[0]
    ours, theirs = (
        _mean([results.tables[0].figures[pair[side], entry.task] for pair in entry.pairs])
        for side in (0, 1)
    )
    figure = entry.figure
    verdict = "yes" if figure.low > 0 else "no" if figure.high < 0 else "unclear"
    word = {"yes": "Yes.", "no": "No, it did harm.", "unclear": "Not shown."}[verdict]
    sentence = (
        f"{label(entry.task)} accuracy is {100 * ours.value:.1f}\u00a0% after training on the "
        f"curated pairs and {100 * theirs.value:.1f}\u00a0% after the raw pool"
        f"{_compute(entry.pairs[0], samples)}."
    )
    basis = f"{len(entry.pairs)} seeds" if len(entry.pairs) > 1 else "one seed"
    interval = (
        f"{results.confidence} interval {signed(figure.low)} to {signed(figure.high)}, paired, "
        f"{basis}, {results.n:,} held-out samples"
    )
    rows = [
        charts.Interval("curated", ours.value, ours.low, ours.high),
        charts.Interval("raw pool", theirs.value, theirs.low, theirs.high, muted=True),
    ]
    chart = charts.interval_chart(f"{label(entry.task)}, held-out split", rows, label(METRIC))
    beside = "; ".join(
        f"{label(other.task)} {signed(other.figure.value)}\u00a0points "
        f"({signed(other.figure.low)} to {signed(other.figure.high)})"
        for other in asked[1:]
        if other.name == entry.name
    )
    beside = f"Other tasks: {beside}." if beside else ""
    gain = f"{signed(figure.value)} points"
    return Answer(verdict, word, sentence, gain, interval, beside, chart)


def _compute(pair: tuple[str, str], samples: Mapping[str, int]) -> str:
    """Whether the two saw equally many samples: only then the data made the difference."""
    if not all(name in samples for name in pair):
        return ""
    ours, theirs = (samples[name] for name in pair)
    if ours == theirs:
        return f", at the same {ours:,} samples seen"
    return f", at {ours:,} and {theirs:,} samples seen: not the same compute"


def _mean(figures: Sequence[Figure]) -> Figure:
    """The mean over seeds; its whiskers are the mean ones, the difference has the true interval."""
    count = len(figures)
    return Figure(
        sum(figure.value for figure in figures) / count,
        sum(figure.low for figure in figures) / count,
        sum(figure.high for figure in figures) / count,
        figures[0].n,
    )


def signed(share: float) -> str:
    """A difference of shares in points: +3.1, −0.4."""
    return f"{100 * share:+.1f}".replace("-", "−")
