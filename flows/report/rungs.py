"""The rungs of deduplication that have a threshold: its curve, and pairs on both sides of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from curation.curves import sweep_near, sweep_radius
from curation.dedup import EDGES_FILE, PERCEPTUAL_KIND, edge_nodes
from curation.rules_settings import DUPLICATES, HASH_BITS, NEAR, PERCEPTUAL
from flows.report.duplicates import Pair, pairs_beside
from flows.report.galleries import PAIRS, Strip
from flows.report.samples import Samples, Tile
from flows.report.scores import Scores
from infra import artifacts, charts
from infra.charts import label, number
from infra.dataset import read_table

STEPS = 40  # thresholds tried on a curve, each a choice made anew
LIMIT = 200_000  # more pairs than this take too long to choose from that often


@dataclass(frozen=True)
class Rung:
    """A search for similar pairs. chart: "" where the choice cannot be made anew here."""

    title: str
    compares: str
    meaning: str  # units and polarity
    bound: str
    pairs: int  # that the store holds, down to the floor
    change: str
    chart: Markup
    strips: Sequence[Strip]


@dataclass(frozen=True)
class _Search:
    """What tells one rung from another. place: among `near`, None for hashes."""

    kind: str
    threshold: float  # as pairs have it, a similarity
    place: int | None = None

    @property
    def change(self) -> str:
        hashes = self.place is None
        return "curate.dedup.radius" if hashes else f"curate.dedup.near.{self.place}.threshold"

    def shown(self, similarity: float) -> str:
        if self.place is None:
            return f"{round((1 - similarity) * HASH_BITS)} bits"
        return f"{similarity:.3f}"


def rungs(samples: Samples, scores: Scores) -> list[Rung]:
    """One for close hashes, where they are compared, and one for each search by embedding."""
    url, settings = samples.context.edges, samples.dedup
    artifact = artifacts.load(url) if url else None
    if artifact is None:
        return []
    edges = read_table(artifact.path(EDGES_FILE))
    searches = [_Search(each.vectors, each.threshold, i) for i, each in enumerate(settings.near)]
    if settings.perceptual:
        searches.insert(0, _Search(PERCEPTUAL_KIND, 1 - settings.radius / HASH_BITS))
    return [_rung(samples, scores, edges, search) for search in searches]


def _rung(samples: Samples, scores: Scores, edges: pa.Table, search: _Search) -> Rung:
    mine = edges.filter(pc.field("kind") == search.kind)
    below, above = pairs_beside(samples, mine, search.threshold, PAIRS)
    strips = [
        Strip("Just far enough apart", (), _tiles(samples, below, search)),
        Strip("Just close enough", (), _tiles(samples, above, search)),
    ]
    hashes = search.place is None
    least = f"{samples.dedup.radius} bits at most" if hashes else f"at least {search.threshold:g}"
    return Rung(
        label(PERCEPTUAL if hashes else NEAR),
        "pHash and dHash" if hashes else f"vectors {search.kind}",
        "bits of 64, higher is less alike" if hashes else "cosine, higher is more alike",
        least,
        mine.num_rows,
        search.change,
        _chart(samples, scores, edges, search),
        [strip for strip in strips if strip.pairs],
    )


def _tiles(samples: Samples, pairs: Sequence[Pair], search: _Search) -> list[tuple[Tile, Tile]]:
    """Both rows of each pair, with what became of them, and how close they are."""

    def tile(row: int, value: str = "") -> Tile:
        return samples.tile(row, value, "kept" if samples.kept[row] else "dropped")

    ordered = [(a, b, s) if samples.kept[a] else (b, a, s) for a, b, s in pairs]
    return [(tile(a), tile(b, search.shown(similarity))) for a, b, similarity in ordered]


def _chart(samples: Samples, scores: Scores, edges: pa.Table, search: _Search) -> Markup:
    """Survivors of deduplication at each threshold of one search, the others as they are."""
    priority, settings = scores.priority, samples.dedup
    if priority is None or not samples.whole or edges.num_rows > LIMIT:
        return Markup("")
    passing = samples.kept | np.isin(samples.reason, DUPLICATES)
    rows = np.searchsorted(samples.id, edge_nodes(edges))
    given = edges, passing[rows], priority[rows], int(passing.sum()), settings
    near = edges.filter(pc.field("kind") == search.kind)["similarity"].to_numpy()
    if search.place is None:
        curve, chosen = sweep_radius(*given), float(settings.radius)
        near, words = (1 - near) * HASH_BITS, "bits that hashes of duplicates differ in, at most"
    else:
        curve, chosen = sweep_near(*given, STEPS, search.place), search.threshold
        words = f"{search.kind}, cosine of duplicates, at least"
    x, shares = curve["threshold"].to_numpy(), curve["survivors"].to_numpy()
    shares = shares / max(int(passing.sum()), 1)
    if search.place is None:  # between whole bits nothing changes
        x, shares = np.repeat(x, 2)[1:], np.repeat(shares, 2)[:-1]
    line = charts.Line("of the samples that pass all rules", x, shares)
    return charts.line_chart(
        label(PERCEPTUAL if search.place is None else NEAR),
        [line],
        words,
        "share that stays",
        marks=[charts.Mark(number(chosen), chosen)],
        rugs=[charts.Rug("pairs", near, 6)],
        percent=True,
    )
