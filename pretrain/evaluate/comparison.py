"""Several evaluations side by side: one table, and one picture.

    comparison = compare([url, other])
    comparison.table          RESULTS, a row a figure, encoders under names of their own
    comparison.wide()         a row an encoder, a column a task and metric
    comparison.save("folder") comparison.parquet, comparison.csv and comparison.svg

The rows of a picture are encoders, its panels tasks; whiskers are the intervals.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
from markupsafe import Markup

from infra import artifacts, charts, filesystem
from infra.artifacts import Artifact
from infra.dataset import write_table
from infra.errors import SluiceError
from pretrain.evaluate.stage import RESULTS, lower_is_better, read_results
from pretrain.evaluate_settings import CLASSES

WORDS = (  # of metrics, as people say them
    (r"_ece_(\d+)_bins", r" ECE (\1 bins)"),
    (r"mean_average_precision", "mAP"),
    (r"auroc", "AUROC"),
    (r"knn_", "k-NN distance "),
    (r"max_softmax", "max-softmax"),
    (r"zero_shot", "zero-shot"),
    (r"accuracy_(\d+)_shot", r"accuracy, \1 a class"),
    (r"_fitted", ""),
    (r"accuracy_(clean|corrupted)", r"accuracy, \1"),
)
COLUMNS = 3  # panels beside each other
GAP, HEAD = 24, 26  # pixels between panels, and above one for its title

STYLE = """
svg { font: 11px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif; }
text { fill: #1c1e1d; } text.label { fill: #5b605d; } text.muted { fill: #767c78; }
text.title { font-size: 12px; font-weight: 650; } text.head { font-size: 16px; font-weight: 650; }
text.value { font-size: 10px; }
.grid { stroke: #dedbd2; } .zero { stroke: #5b605d; }
.whisker { stroke-width: 2; stroke: #1b7f5f; } .dot { fill: #1b7f5f; }
.whisker.muted { stroke: #767c78; } .dot.muted { fill: #767c78; }
"""


@dataclass(frozen=True)
class Comparison:
    """Figures of all encoders of several evaluations, on the same test samples.

    baselines: names of encoders that learned nothing.
    """

    table: pa.Table
    baselines: frozenset[str]
    confidence: float

    def wide(self) -> pa.Table:
        """A row an encoder; "<task>: <metric>" for each figure, null where there is none."""
        rows: dict[str, dict[str, Any]] = {}
        for row in self.table.to_pylist():
            line = rows.setdefault(row["encoder"], {"encoder": row["encoder"], "seed": row["seed"]})
            line[f"{row['task']}: {row['metric']}"] = row["value"]
        columns = list(dict.fromkeys(name for line in rows.values() for name in line))
        return pa.table({name: [line.get(name) for line in rows.values()] for name in columns})

    def picture(self) -> str:
        """An SVG that stands alone: a panel for each task's main metrics."""
        rows = self.table.to_pylist()
        shown = [each for each in _figures(rows) if _is_headline(*each, _figures(rows))]
        panels = [_panel(task, metric, rows, self.baselines) for task, metric in shown]
        return _sheet(
            panels, f"Whiskers: {100 * self.confidence:.0f} % intervals. Grey: learned nothing."
        )

    def save(self, folder: str) -> None:
        """Write comparison.parquet (every figure), comparison.csv (wide) and comparison.svg."""
        write_table(folder, "comparison.parquet", self.table)
        sink = pa.BufferOutputStream()
        csv.write_csv(self.wide(), sink)
        filesystem.write_bytes(folder, "comparison.csv", sink.getvalue().to_pybytes())
        filesystem.write_bytes(folder, "comparison.svg", self.picture().encode())


def compare(urls: Sequence[str]) -> Comparison:
    """The evaluations at these URLs side by side.

    An encoder whose name stands in several evaluations for different things gets the first
    characters of its evaluation's digest behind it. Raises SluiceError where one is not there, or
    was made on other test samples than the first.
    """
    found = [_open(url) for url in dict.fromkeys(url.rstrip("/") for url in urls)]
    if not found:
        raise SluiceError("no evaluations to compare", "name at least one evaluation's folder")
    _check(found)
    meant: dict[str, set[str]] = {}
    for evaluation in found:
        for name, source in evaluation.settings["encoders"].items():
            meant.setdefault(name, set()).add(source)
    lines: dict[tuple[str, str, str], dict[str, Any]] = {}
    baselines: set[str] = set()
    for evaluation in found:
        sources: Mapping[str, str] = evaluation.settings["encoders"]
        for row in read_results(evaluation).to_pylist():
            name = row["encoder"]
            if name not in sources:
                continue  # a difference, between encoders of one evaluation
            shown = name if len(meant[name]) == 1 else f"{name} ({evaluation.digest[:6]})"
            if sources[name] == "pixels" or sources[name].startswith("random:"):
                baselines.add(shown)
            lines.setdefault((shown, row["task"], row["metric"]), {**row, "encoder": shown})
    ordered = sorted(lines.values(), key=lambda row: row["encoder"] in baselines)
    confidence = float(found[0].settings.get("confidence", 0.95))
    return Comparison(pa.Table.from_pylist(ordered, RESULTS), frozenset(baselines), confidence)


def _open(url: str) -> Artifact:
    artifact = artifacts.load(url)
    if artifact is None or artifact.kind != "evaluation":
        raise SluiceError(
            f"there is no evaluation at {url}",
            "name the folder of a finished one, <store>/evaluations/<digest>",
        )
    return artifact


def _check(found: Sequence[Artifact]) -> None:
    """Figures are comparable on the same data, with the same label and settings of the tasks."""
    first = found[0]
    for other in found[1:]:
        for name in sorted({*first.settings, *other.settings} - {"encoders", "compare", "tasks"}):
            ours, theirs = first.settings.get(name), other.settings.get(name)
            if ours != theirs:
                raise SluiceError(
                    f"{other.url} was made with another {name} than {first.url}: {theirs}, "
                    f"not {ours}",
                    "compare evaluations on the same data with the same settings; evaluate the "
                    "runs again where they differ",
                )


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(task, metric) of all figures, each once."""
    return list(dict.fromkeys((row["task"], row["metric"]) for row in rows))


def _is_headline(task: str, metric: str, figures: Sequence[tuple[str, str]]) -> bool:
    """Whether a figure has a panel; the others stand in the table alone."""
    if task in CLASSES:
        return metric == "accuracy"
    if task == "calibration":
        return "_ece_" in metric
    if task == "robustness":
        return metric in ("accuracy_clean", "accuracy_corrupted")
    if task == "retrieval":
        reach = min(_reach(other) for of, other in figures if of == task)
        return _reach(metric) == reach
    return True


def _reach(metric: str) -> int:
    """K of a recall at K."""
    return int(metric.rpartition("_")[2])


def _words(metric: str) -> str:
    for pattern, word in WORDS:
        metric = re.sub(pattern, word, metric)
    return metric.replace("_", " ")


def _panel(
    task: str, metric: str, rows: Sequence[Mapping[str, Any]], baselines: frozenset[str]
) -> tuple[str, Markup, float]:
    """Title, the inner `<svg>` of a chart, and its height."""
    intervals = [
        charts.Interval(
            row["encoder"],
            row["value"],
            row["ci_low"],
            row["ci_high"],
            row["encoder"] in baselines,
        )
        for row in rows
        if (row["task"], row["metric"]) == (task, metric)
    ]
    title = f"{charts.label(task)}: {_words(metric)}"
    words = "lower is better" if lower_is_better(metric) else "higher is better"
    words += ", temperature fitted" if metric.endswith("_fitted") else ""
    figure = str(charts.interval_chart(title, intervals, words))
    inner = figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")]
    height = float(inner.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split(" ")[1])
    return title[:1].upper() + title[1:], Markup(inner), height


def _sheet(panels: Sequence[tuple[str, Markup, float]], note: str) -> str:
    """The panels in rows of `COLUMNS`, as one SVG."""
    columns = min(COLUMNS, max(1, len(panels)))
    width = columns * charts.WIDTH + (columns + 1) * GAP
    top, body = 64, []
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        for place, (title, inner, height) in enumerate(row):
            left = GAP + place * (charts.WIDTH + GAP)
            body.append(
                Markup('<text class="title" x="{}" y="{}">{}</text>').format(left, top + 12, title)
            )
            opened = Markup('<svg x="{}" y="{}" width="{}" height="{}" ').format(
                left, top + HEAD, charts.WIDTH, height
            )
            body.append(opened + inner[len("<svg ") :])
        top += HEAD + max(height for _, _, height in row) + GAP
    head = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}">'
        '<style>{2}</style><rect width="{0}" height="{1}" fill="#fff"/>'
        '<text class="head" x="{3}" y="28">Encoders compared</text>'
        '<text class="label" x="{3}" y="46">{4}</text>'
    ).format(width, round(top), Markup(STYLE), GAP, note)
    return str(head + Markup("").join(body) + Markup("</svg>\n"))
