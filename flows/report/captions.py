"""A few samples with the caption they came with, and those that models wrote of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flows.report.context import ReportContext
from flows.report.samples import Tile, clean, shuffled
from flows.report.thumbnails import Place
from infra import artifacts
from infra.dataset import Dataset, part_name, read_table
from infra.filesystem import join

SHOWN = 10


@dataclass(frozen=True)
class Written:
    """A caption; sure: how likely its tokens were, 0..1; None where that is not known."""

    text: str
    sure: float | None


@dataclass(frozen=True)
class Captions:
    """names: of what writes captions, in the order of each sample's captions."""

    names: Sequence[str]
    samples: Sequence[tuple[Tile, Sequence[Written]]]


def captions(context: ReportContext) -> Captions | None:
    """Of some samples of the curated version's first shard; None where nothing wrote any."""
    curated = artifacts.load(context.curated) if context.curated else None
    found = {name: url for name, url in context.captions.items() if artifacts.load(url)}
    if curated is None or not found:
        return None
    dataset = Dataset(curated)
    shard = next((int(part.name) for part in curated.parts if part.kept), None)
    if shard is None:
        return None
    rows = dataset.rows(shard, ["uid", "row", "caption", "status"])
    there = np.flatnonzero(np.array(rows["status"].to_pylist()) == "ok")
    chosen = sorted(shuffled(rows["uid"].to_numpy(), there, SHOWN))
    tables = [
        read_table(join(url, "columns", f"{part_name(shard)}.parquet"), ["caption", "confidence"])
        for url in found.values()
    ]
    written = [table.take(chosen).to_pylist() for table in tables]
    return Captions(
        list(found),
        [
            (
                Tile(
                    Place(dataset.url, shard, row["row"]), row["uid"], clean(row["caption"] or "")
                ),
                [Written(clean(one["caption"] or ""), one["confidence"]) for one in every],
            )
            for row, *every in zip(rows.take(chosen).to_pylist(), *written, strict=True)
        ],
    )
