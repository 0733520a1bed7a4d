"""Groups of duplicates around the sample that was kept, and pairs just too far apart."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.contamination import FOUND_BY
from curation.rules_settings import DUPLICATES, EXACT, PIXELS
from flows.report.context import ReportContext
from flows.report.samples import Samples, Tile
from infra import artifacts

SAME = {EXACT: "same bytes", PIXELS: "same pixels"}
GROUPS = 12
MEMBERS = 9  # pictures shown of one group

Pair = tuple[int, int, float]  # positions of two rows, and their similarity


@dataclass(frozen=True)
class Group:
    """A kept sample and the rows dropped in its favour, the most similar first."""

    kept: Tile
    members: Sequence[Tile]
    size: int  # with the kept one

    @property
    def hidden(self) -> int:
        return self.size - 1 - len(self.members)


@dataclass(frozen=True)
class Duplicates:
    """The largest groups, and figures of all."""

    groups: Sequence[Group]
    dropped: int
    kept: int  # samples that had at least one duplicate
    sizes: Sequence[tuple[int, int]]  # (group size, number of groups)
    recall: float | None  # of the searches by embedding, against brute force on a sample


def duplicates(samples: Samples) -> Duplicates | None:
    """The largest groups; a group is a kept row and all rows that name it as their twin."""
    hits = np.flatnonzero(np.isin(samples.reason, DUPLICATES))
    members: dict[str, list[int]] = {}
    for position in hits:
        members.setdefault(samples.twin[position], []).append(int(position))
    members.pop("", None)
    if not members:
        return None
    largest = sorted(members, key=lambda uid: (-len(members[uid]), uid))
    groups = [
        _group(samples, samples.positions[uid], members[uid])
        for uid in largest
        if uid in samples.positions
    ]
    sizes: dict[int, int] = {}
    for group in members.values():
        sizes[len(group) + 1] = sizes.get(len(group) + 1, 0) + 1
    recall = _recall(samples)
    return Duplicates(groups[:GROUPS], len(hits), len(members), sorted(sizes.items()), recall)


@dataclass(frozen=True)
class Leaks:
    """How many samples each way of looking found in one evaluation set."""

    name: str
    exact: int
    pixels: int
    perceptual: int
    near: int
    any: int


def leaks(context: ReportContext) -> list[Leaks]:
    """One for each evaluation set that the pool was compared with."""
    url = context.scores.get("contamination")
    artifact = artifacts.load(url) if url else None
    totals: dict[str, Counter[str]] = {}
    for part in artifact.parts if artifact else ():
        for name, counts in part.extra.get("hits", {}).items():
            totals.setdefault(name, Counter()).update(counts)
    return [Leaks(name, *(found[way] for way in FOUND_BY)) for name, found in totals.items()]


def _recall(samples: Samples) -> float | None:
    edges = artifacts.load(samples.context.edges) if samples.context.edges else None
    found = [part.extra.get("recall", {}).values() for part in edges.parts] if edges else []
    return min((float(value) for values in found for value in values), default=None)


def _group(samples: Samples, kept: int, members: list[int]) -> Group:
    order = sorted(members, key=lambda i: (-np.nan_to_num(samples.similarity[i], nan=0.0), i))
    tiles = [
        samples.tile(
            i,
            SAME.get(samples.reason[i]) or f"{samples.similarity[i]:.3f}",
        )
        for i in order[:MEMBERS]
    ]
    return Group(samples.tile(kept, "", "kept"), tiles, len(members) + 1)


def pairs_beside(
    samples: Samples, edges: pa.Table, threshold: float, count: int
) -> tuple[list[Pair], list[Pair]]:
    """Pairs just below a threshold of which both rows are kept, and just above; closest first.

    edges: of one kind.
    """
    similarity = pc.field("similarity")
    below = edges.filter(similarity < threshold).sort_by([("similarity", "descending")])
    above = edges.filter(similarity >= threshold).sort_by([("similarity", "ascending")])
    kept = samples.kept
    return (
        _first(samples, below, count, lambda a, b: bool(kept[a] and kept[b])),
        _first(samples, above, count, lambda a, b: bool(kept[a] or kept[b])),
    )


def _first(
    samples: Samples, edges: pa.Table, count: int, wanted: Callable[[int, int], bool]
) -> list[Pair]:
    """The first pairs whose rows are both looked at, and are wanted."""
    found: list[Pair] = []
    for batch in edges.to_batches(max_chunksize=1024):
        for edge in batch.to_pylist():
            a, b = samples.by_id.get(edge["a"]), samples.by_id.get(edge["b"])
            if a is not None and b is not None and wanted(a, b):
                found.append((a, b, edge["similarity"]))
                if len(found) == count:
                    return found
    return found
