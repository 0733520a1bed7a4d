"""A sweep in a notebook: samples by score, what stays at each threshold, and both sides of one."""

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from curation import columns, sql
from curation.curves import EACH, steps
from curation.curves import grid as threshold_grid
from curation.rules import check_number, column_names, evaluate, meaning
from indexes.embeddings import all_scores_of, scores_of
from indexes.grid import STRIP_STYLE, Frame, figure, grid, short, strip
from indexes.grid import STYLE as GRID_STYLE
from indexes.pictures import originals, thumbnail
from infra import artifacts
from infra.charts import Line, Mark, line_chart, number
from infra.dataset import ROW_BITS, Dataset, open_dataset
from infra.errors import SluiceError

if TYPE_CHECKING:
    import pandas as pd

CURVE = pa.schema(
    [
        ("threshold", pa.float64()),
        ("at_least", pa.int64()),  # samples whose score is not below the threshold
        ("at_least_share", pa.float64()),  # of all samples, those without a score among them
        ("at_most", pa.int64()),
        ("at_most_share", pa.float64()),
    ]
)
THUMBNAIL = 80  # pixels, of a strip's pictures
SIDES = ("below", "above")  # of a threshold; a score equal to it is above

# The report brings a style sheet of its own; a notebook has none.
STYLE = (
    f"<style>{STRIP_STYLE}"
    + """
.sluice-sweep{max-width:480px;font:13px/1.4 system-ui,sans-serif}
.sluice-sweep .chart{margin:0}.sluice-sweep svg{display:block;width:100%;overflow:visible}
.sluice-sweep text{font:11px system-ui,sans-serif;fill:currentColor;opacity:.75}
.sluice-sweep .grid,.sluice-sweep .tick,.sluice-sweep .axis-line{stroke:currentColor;opacity:.25}
.sluice-sweep .mark{stroke:currentColor;stroke-dasharray:3 2.5}
.sluice-sweep .line{fill:none;stroke-width:1.9;stroke:#1b7f5f}
.sluice-sweep .line.c2{stroke:#c4501b}.sluice-sweep .key{margin-left:.8em;color:#1b7f5f}
.sluice-sweep .key.c2{color:#c4501b}.sluice-sweep .axis{opacity:.7;margin-left:.6em}
</style>"""
)

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sweep:
    """The scores of all samples of a version, sorted, some 16 bytes a sample.

    values, ids: [m], of the samples that have a finite score, by value and then id.
    rows: samples in all; those without a score stay at no threshold. meaning: units and polarity
    of the score, "" where they are not known.
    """

    dataset: Dataset
    column: str
    rows: int
    points: int
    values: Floats = field(repr=False)
    ids: Ids = field(repr=False)
    meaning: str = ""

    @cached_property
    def table(self) -> pa.Table:
        """The curve: CURVE, ascending thresholds."""
        thresholds = threshold_grid(self.values, self.points)
        least = len(self.values) - np.searchsorted(self.values, thresholds, side="left")
        most = np.searchsorted(self.values, thresholds, side="right")
        whole = max(self.rows, 1)
        return pa.table([thresholds, least, least / whole, most, most / whole], schema=CURVE)

    def to_pandas(self) -> "pd.DataFrame":
        """The curve as a pandas frame."""
        return self.table.to_pandas()

    def kept(self, threshold: float) -> float:
        """The share of all samples whose score is at least the threshold."""
        below = int(np.searchsorted(self.values, threshold, side="left"))
        return (len(self.values) - below) / max(self.rows, 1)

    def samples(self, threshold: float, n: int = 8) -> "Sides":
        """The n samples just below a threshold and the n just above, the closest first.

        Of equal scores the same ones are shown every time.
        """
        place = int(np.searchsorted(self.values, threshold, side="left"))
        low, high = max(place - n, 0), min(place + n, len(self.values))
        order = np.concatenate([np.arange(place - 1, low - 1, -1), np.arange(place, high)])
        sides = pa.array([SIDES[0]] * (place - low) + [SIDES[1]] * (high - place), pa.string())
        table = pa.table({"side": sides, "score": self.values[order]})
        return Sides(self, threshold, _with_facts(table, self.dataset, self.ids[order]))

    def by_score(self, n: int = EACH) -> pa.Table:
        """A few samples at each of some shares of all, ascending, more of them near both ends.

        Columns: step (int), threshold (the score there), at_least_share and at_most_share at it,
        and as `samples` has them: score, id, uid, caption, url.
        """
        found = steps(self.values, n)
        at = np.concatenate([np.empty(0, int), *(np.arange(s.start, s.stop) for s in found)])
        counts = [step.stop - step.start for step in found]
        scores = np.array([step.score for step in found])
        least = len(self.values) - np.searchsorted(self.values, scores, side="left")
        most = np.searchsorted(self.values, scores, side="right")
        whole = max(self.rows, 1)
        table = pa.table(
            {
                "step": np.repeat(np.arange(len(found)), counts),
                "threshold": np.repeat(scores, counts),
                "at_least_share": np.repeat(least / whole, counts),
                "at_most_share": np.repeat(most / whole, counts),
                "score": self.values[at],
            }
        )
        return _with_facts(table, self.dataset, self.ids[at])

    def __repr__(self) -> str:
        return "\n".join([self._note(), *self._lines()])

    def _lines(self) -> list[str]:
        table = self.table
        shown = np.unique(np.linspace(0, max(len(table) - 1, 0), 11).round().astype(int))
        picked = table.take(pa.array(shown)).to_pylist() if len(table) else []
        return [
            f"{point['threshold']:12.6g}  at least {100 * point['at_least_share']:6.2f} %"
            f"   at most {100 * point['at_most_share']:6.2f} %"
            for point in picked
        ]

    def _note(self) -> str:
        missing = self.rows - len(self.values)
        told = f" ({self.meaning})" if self.meaning else ""
        text = f"{short(self.column, 60)}{told} of {self.rows:,} samples in {self.dataset.url}"
        return text + (f"; {missing:,} have no score and never stay" if missing else "")

    def _repr_html_(self) -> str:
        note = "≥: the share that stays at this score as `min`; ≤: as `max`"
        parts = [STYLE, GRID_STYLE, _note(self._note())]
        if len(self.values):
            parts += [_note(note), strip(self._frames())]
        return "".join([*parts, self.chart()])

    def _frames(self) -> list[Frame]:
        table = self.by_score()
        pictures = originals(self.dataset.url, table["id"].to_pylist())
        frames: dict[int, Frame] = {}
        for row in table.to_pylist():
            shares = [f"≥ {_percent(row['at_least_share'])}", f"≤ {_percent(row['at_most_share'])}"]
            frame = frames.setdefault(row["step"], Frame(number(row["threshold"]), shares, []))
            data = pictures.get(row["id"])
            uri = thumbnail(data, THUMBNAIL) if data is not None else None
            frame.pictures.append((uri, row["uid"], row["caption"] or ""))
        return list(frames.values())

    def chart(self, threshold: float | None = None) -> Markup:
        """The curves as inline SVG, with a mark at a threshold."""
        if not len(self.values):
            return Markup("")
        x = self.table["threshold"].to_numpy()
        lines = [
            Line(label, x, self.table[f"{name}_share"].to_numpy(), colour)
            for label, name, colour in (("at least", "at_least", 1), ("at most", "at_most", 2))
        ]
        marks = [] if threshold is None else [Mark(number(threshold), threshold)]
        chart = line_chart(
            short(self.column, 60), lines, self.meaning or "threshold", "share that stays",
            marks=marks, y_range=(0.0, 1.0), percent=True,
        )  # fmt: skip
        return Markup('<div class="sluice-sweep">{}</div>').format(chart)


@dataclass(frozen=True)
class Sides:
    """Samples on both sides of a threshold: a table, and in a notebook two rows of pictures.

    `table` has columns side ("below" or "above"), score, id, uid, caption, url.
    """

    sweep: Sweep
    threshold: float
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def to_pandas(self) -> "pd.DataFrame":
        """The samples as a pandas frame."""
        return self.table.to_pandas()

    def __repr__(self) -> str:
        lines = [self._note()]
        for row in self.table.to_pylist():
            caption = short(row["caption"] or "", 60)
            lines.append(f"{row['side']:5}  {row['score']:10.4g}  {row['uid'][:8]}  {caption}")
        return "\n".join(lines)

    def _note(self) -> str:
        share = 100 * self.sweep.kept(self.threshold)
        return f"{self.sweep.column} at {self.threshold:g}: {share:.2f} % are at least that"

    def _repr_html_(self) -> str:
        pictures = originals(self.sweep.dataset.url, self.table["id"].to_pylist())
        parts = [STYLE, GRID_STYLE, _note(self._note()), self.sweep.chart(self.threshold)]
        for side in SIDES:
            rows = self.table.filter(pc.field("side") == side).to_pylist()
            parts.append(grid(f"just {side}", _figures(rows, pictures)))
        return "".join(parts)


def _figures(rows: Iterable[Mapping[str, Any]], pictures: Mapping[int, bytes]) -> list[str]:
    found: list[str] = []
    for row in rows:
        data = pictures.get(row["id"])
        uri = thumbnail(data) if data is not None else None
        found.append(figure(uri, row["uid"], f"{row['score']:.4g}", row["caption"] or ""))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.3g}\u00a0%"


def _note(text: str) -> str:
    return f'<div class="sluice-note">{html.escape(text)}</div>'


def open_sweep(version: str, column: str, points: int, scores: Mapping[str, str]) -> Sweep:
    """See `curation.sweep`."""
    dataset = open_version(version)
    source, folders = score_folders(dataset, scores)
    shards = sorted(dataset.shards)
    names, told = _needed(column, source, folders, shards)
    chosen = {scorer: found[0] for scorer, found in folders.items()}
    values: list[Floats] = [np.empty(0)]
    ids: list[Ids] = [np.empty(0, np.int64)]
    rows = 0
    for batch, table in columns.read_batches(source, chosen, shards, names):
        status = pa.concat_tables(dataset.rows(shard, ["status"]) for shard in batch.shards)
        good = status["status"].to_numpy() == "ok"
        scored = evaluate("the sweep", column, table)
        scorable = good & np.isfinite(scored)
        values.append(scored[scorable])
        ids.append(batch.ids[scorable])
        rows += int(good.sum())
    value, identifier = np.concatenate(values), np.concatenate(ids)
    order = np.argsort(value, kind="stable")
    return Sweep(dataset, column, rows, points, value[order], identifier[order], told)


def open_version(version: str) -> Dataset:
    """The version in a folder, or that `<store>/<name>[@<version>]` names."""
    artifact = artifacts.load(version)
    if artifact is not None:
        return Dataset(artifact)
    store, _, name = version.rstrip("/").rpartition("/")
    return open_dataset(store or ".", name)


def score_folders(dataset: Dataset, scores: Mapping[str, str]) -> tuple[str, dict[str, list[str]]]:
    """The version that holds a dataset's scores, and scorer -> its score folders there."""
    source, found = all_scores_of(dataset)
    if scores_of(dataset)[1]:
        return source, found  # which ones, was settled when the version was made
    for scorer, folder in scores.items():
        if folder not in found.get(scorer, []):
            raise SluiceError(
                f"{source} has no scores {folder!r} of {scorer!r}",
                f"there are {', '.join(name for names in found.values() for name in names)}",
            )
        found[scorer] = [folder]
    return source, found


def one_folder(scorer: str, folders: Mapping[str, list[str]], source: str) -> str:
    """The score folder of a scorer; SluiceError where there is none, or several to choose from."""
    found = folders.get(scorer, [])
    if not found:
        there = ", ".join(sorted(folders)) or "none"
        raise SluiceError(f"{source} has no scores of {scorer!r}", f"it has {there}")
    if len(found) > 1:
        raise SluiceError(
            f"{source} has {len(found)} score folders of {scorer!r}",
            f"give scores={{{scorer!r}: ...}}, one of {', '.join(found)}",
        )
    return found[0]


def _needed(
    column: str, source: str, folders: Mapping[str, list[str]], shards: list[int]
) -> tuple[list[str], str]:
    """The columns an expression reads, by full name, and what its numbers mean.

    It is checked before anything is read.
    """
    if not shards:
        return [], ""
    chosen = {scorer: found[0] for scorer, found in folders.items()}
    schemas = columns.column_schemas(source, chosen, shards[0])
    check_number("the sweep", column, schemas)
    names = sql.parse("the sweep", column, column_names(schemas)).columns
    for scorer in {name.partition(".")[0] for name in names} - {columns.ROWS_NAME}:
        one_folder(scorer, folders, source)
    return list(names), meaning(column, schemas)


def _with_facts(table: pa.Table, dataset: Dataset, ids: Ids) -> pa.Table:
    facts = facts_of(dataset, ids)
    for name in facts.column_names:
        table = table.append_column(name, facts[name])
    return table


def facts_of(dataset: Dataset, ids: Ids) -> pa.Table:
    """id, uid, caption, url of a few ids, in their order."""
    found: dict[int, dict[str, Any]] = {}
    for shard in np.unique(ids >> ROW_BITS).tolist():
        rows = dataset.rows(shard, ["uid", "caption", "url"])
        mine = ids[ids >> ROW_BITS == shard]
        facts = rows.take(pa.array(mine & (1 << ROW_BITS) - 1)).to_pylist()
        found |= dict(zip(mine.tolist(), facts, strict=True))
    fields = [("uid", pa.string()), ("caption", pa.string()), ("url", pa.string())]
    ordered = [found[identifier] for identifier in ids.tolist()]
    table = pa.table({"id": pa.array(ids, pa.int64())})
    for name, kind in fields:
        table = table.append_column(name, pa.array([facts[name] for facts in ordered], kind))
    return table
