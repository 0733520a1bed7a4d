"""`head`: heads trained, converted and looked at."""

from collections.abc import Mapping, Sequence
from typing import Any

from curation.heads.card import Activation, Output, Polarity
from curation.heads.convert import convert_head, describe
from curation.heads.file import load_head
from curation.heads.settings import TrainHeadSettings
from curation.heads.train import train_head
from flows.main import store_url
from flows.report.render import fill
from flows.settings import validate
from infra import filesystem
from infra.charts import Line, line_chart
from infra.dataset import open_dataset
from infra.digests import canonical_json
from infra.errors import SluiceError

SUFFIX = ".safetensors"


def train(store: str | None, version: str, labels: str, target: str, **settings: object) -> str:
    """Train a head on a version NAME or NAME@VERSION; write it and its report; say how good it is.

    settings: of TrainHeadSettings. Beside HEAD.safetensors stand HEAD.json and HEAD.html.
    """
    _check_target(target)
    chosen = validate(TrainHeadSettings, settings, "the training of a head")
    trained = train_head(open_dataset(store_url(store), version), labels, chosen)
    stem = target.removesuffix(SUFFIX)
    _write(target, trained.data)
    _write(f"{stem}.json", canonical_json(trained.report))
    _write(f"{stem}.html", page(trained.report).encode())
    counts = ", ".join(f"{count} {name}" for name, count in trained.report["labels"].items())
    return f"{describe(trained.card)}\nlabels      {counts}\nreport      {stem}.html"


def convert(
    file: str, target: str, embedding: str, units: str, polarity: Polarity | None,
    activations: Sequence[Activation], output: Output, classes: Sequence[str] = (),
) -> str:  # fmt: skip
    """Write a checkpoint of a head as safetensors with a card, and say what it is."""
    _check_target(target)
    data = convert_head(file, embedding, units, polarity, activations, output, classes)
    _write(target, data)
    return describe(load_head(target).card)


def show(file: str) -> str:
    return describe(load_head(file).card)


def page(report: Mapping[str, Any]) -> str:
    """The report of a training as one HTML page."""
    charts = []
    for place, (way, rows) in enumerate(report.get("reliability", {}).items()):
        x, y = [row["predicted"] for row in rows], [row["observed"] for row in rows]
        lines = [Line("as it should be", [0, 1], [0, 1], 6, "dashed"), Line(way, x, y, place + 1)]
        title = f"Reliability, {'uncalibrated' if way == 'none' else way}"
        unit = (0.0, 1.0)
        charts.append(line_chart(title, lines, "predicted", "observed", x_range=unit, y_range=unit))
    return fill("head.html.jinja", report=report, charts=charts)


def _check_target(target: str) -> None:
    if not target.endswith(SUFFIX):
        raise SluiceError(f"{target} does not end in {SUFFIX}", f"name a file HEAD{SUFFIX}")


def _write(url: str, data: bytes) -> None:
    folder, _, name = url.rpartition("/")
    filesystem.write_bytes(folder or ".", name, data)
    filesystem.remove_empty(filesystem.join(folder or ".", filesystem.TEMPORARY))
