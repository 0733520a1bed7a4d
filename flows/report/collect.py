"""From the artifacts of a run to plain data for the page; what is not there becomes None."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import pyarrow as pa

from flows.report import (
    balance,
    canaries,
    captions,
    duplicates,
    evaluation,
    funnel,
    galleries,
    generated,
    provenance,
    rungs,
    thresholds,
    training,
)
from flows.report.balance import Selector
from flows.report.canaries import Canaries
from flows.report.captions import Captions
from flows.report.context import ReportContext
from flows.report.duplicates import Duplicates, Leaks
from flows.report.evaluation import Answer, Evaluation
from flows.report.funnel import Funnel
from flows.report.galleries import Gallery, Strip
from flows.report.generated import Generated
from flows.report.provenance import Ancestor, Time
from flows.report.rungs import Rung
from flows.report.samples import Tile, clean, load_samples, shuffled
from flows.report.scores import Scores
from flows.report.thresholds import Threshold
from flows.report.thumbnails import Place
from flows.report.training import Training
from infra import artifacts
from infra.dataset import ROWS, Dataset
from infra.drawn import DrawnShard, is_drawn

FRACTALS, FRACTALS_AMONG = 27, 1000


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    context: ReportContext
    version: str
    filter_model: str
    answer: Answer
    funnel: Funnel | None
    training: Training | None
    evaluation: Evaluation | None
    fractals: Sequence[Tile]
    time: Time | None
    settings: str
    provenance: Sequence[Ancestor]
    rows_seen: int = 0
    shards_seen: tuple[int, int] = (0, 0)  # looked at, of
    kept: Strip | None = None
    galleries: Sequence[Gallery] = ()
    thresholds: Sequence[Threshold] = ()
    rungs: Sequence[Rung] = ()
    duplicates: Duplicates | None = None
    leaks: Sequence[Leaks] = ()
    selectors: Sequence[Selector] = ()
    canaries: Canaries | None = None
    generated: Generated | None = None
    captions: Captions | None = None

    def places(self) -> Iterator[Place]:
        """Every picture of the page, the ones that matter most first."""
        tiles: list[Tile] = list(self.kept.tiles) if self.kept else []
        for gallery in self.galleries:
            for strip in gallery.strips:
                tiles += [*strip.tiles, *(tile for pair in strip.pairs for tile in pair)]
        for strip in (strip for rung in self.rungs for strip in rung.strips):
            tiles += [tile for pair in strip.pairs for tile in pair]
        for group in self.duplicates.groups if self.duplicates else ():
            tiles += [group.kept, *group.members]
        for row in self.canaries.rows if self.canaries else ():
            tiles += [*row.missed, *row.wrong]
        tiles += [tile for tile, _ in self.captions.samples] if self.captions else []
        tiles += self.fractals
        return (tile.place for tile in tiles if tile.place is not None)

    def step_places(self) -> Iterator[Place]:
        """The small pictures of the strips; of every step one before any has two."""
        steps = [step.tiles for threshold in self.thresholds for step in threshold.steps]
        for tile in (tile for row in zip_longest(*steps) for tile in row):
            if tile is not None and tile.place is not None:
                yield tile.place


def collect(store: str, context: ReportContext) -> Report:
    """Read what the page needs: manifests, verdicts, a few columns; no picture yet."""
    samples = load_samples(context)
    counts = funnel.funnel(
        context, samples.rules if samples else (), samples.dedup if samples else None
    )
    results = evaluation.evaluation(context)
    runs = training.training(context)
    seen = {run.name: run.samples for run in runs.runs} if runs else {}
    curated = artifacts.load(context.curated) if context.curated else None
    report = Report(
        context=context,
        version=curated.digest if curated else "",
        filter_model=context.filter_model.replace(store.rstrip("/") + "/", ""),
        answer=evaluation.answer(context, results, seen),
        funnel=counts,
        training=runs,
        evaluation=results,
        fractals=fractal_tiles(context),
        leaks=duplicates.leaks(context),
        selectors=balance.selectors(context),
        time=provenance.time(context),
        generated=generated.generated(context),
        captions=captions.captions(context),
        settings=provenance.settings_yaml(context.recipe),
        provenance=provenance.provenance(store, context),
    )
    if samples is None or counts is None:
        return report
    scores = Scores(samples)
    key = canaries.read_key(context, samples)
    found = canaries.canaries(samples, key, scores.values)
    planted = canaries.planted_rows(samples, key, found)
    return replace(
        report,
        rows_seen=samples.table.num_rows,
        shards_seen=(len(samples.shards), len(samples.dataset.shards)),
        kept=galleries.kept_strip(samples),
        galleries=galleries.galleries(samples, counts, scores),
        thresholds=thresholds.thresholds(samples, scores, planted),
        rungs=rungs.rungs(samples, scores),
        duplicates=duplicates.duplicates(samples),
        canaries=found,
    )


def fractal_tiles(context: ReportContext) -> list[Tile]:
    """A few synthetic pictures, from the first shard, which may be drawn now."""
    artifact = artifacts.load(context.fractals) if context.fractals else None
    if artifact is None:
        return []
    dataset = Dataset(artifact)
    columns = ["uid", "shard", "row", "caption", "status"]
    if is_drawn(artifact):  # of which a shard may have a million
        schema = pa.schema([ROWS.field(name) for name in columns])
        rows = DrawnShard(artifact, dataset.shards[0]).table(schema, FRACTALS_AMONG)
    else:
        rows = dataset.rows(dataset.shards[0], columns)
    uids = rows["uid"].to_numpy()
    chosen = shuffled(uids, np.arange(len(uids)), FRACTALS)
    entries = [rows.slice(i, 1).to_pylist()[0] for i in sorted(chosen)]
    return [
        Tile(Place(dataset.url, row["shard"], row["row"]), row["uid"], clean(row["caption"] or ""))
        for row in entries
        if row["status"] == "ok"
    ]
