"""Rows in the cells of a vector space: sampled, clustered, placed shard by shard."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import kmeans
from curation.draws import Bools, Floats, Words, blocks, draws
from curation.kmeans import Centroids
from curation.selection.choice import Cells, Choice, Ints, tally
from curation.selection.rows import Rows
from curation.selection.settings import NO_VECTOR, Unjudged


@dataclass(frozen=True)
class Space:
    """Rows by cell: all arrays [n]. A row without a vector is in cell -1, infinitely far."""

    cells: Cells
    count: int  # of cells
    distances: Floats  # squared, to the centroid; empty where nobody asked for them

    @property
    def known(self) -> Bools:
        return self.cells >= 0

    def sizes(self) -> Ints:
        """The rows of each cell."""
        return tally(self.cells, self.count)


def sample_vectors(
    rows: Rows, name: str, count: int, key: tuple[object, ...]
) -> npt.NDArray[np.float16]:
    """The vectors of at most `count` rows, those with the lowest draws, in the draws' order.

    So neither which they are nor their order depends on where the rows lie.
    """
    chosen = first(draws(rows.uids, *key, "sample"), count)
    inside = np.zeros(len(rows), bool)
    inside[chosen] = True
    place = np.argsort(chosen, kind="stable")  # of the rows as they come, one shard by another
    found: npt.NDArray[np.float16] = np.empty((0, 1), np.float16)
    start = 0
    for vectors in rows.only(inside).vector_pieces(name):
        if not start:
            found = np.empty((len(chosen), vectors.shape[1]), np.float16)
        found[place[start : start + len(vectors)]] = vectors
        start += len(vectors)
    return _only_present(found)


def first(drawn: Words, count: int) -> Ints:
    """The positions of the `count` lowest draws, in their order, ties by position."""
    if count >= len(drawn):
        return np.argsort(drawn, kind="stable")
    limit = np.partition(drawn, count - 1)[count - 1]
    near = np.flatnonzero(drawn <= limit)
    return near[np.argsort(drawn[near], kind="stable")[:count]]


def _only_present(vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float16]:
    """Those that are there, moved to the front of the same array."""
    kept = 0
    for part in blocks(len(vectors)):
        there = vectors[part][present(vectors[part])]
        vectors[kept : kept + len(there)] = there
        kept += len(there)
    return vectors[:kept]


def present(vectors: npt.NDArray[Any]) -> Bools:
    """Whether a row has a vector: it is finite and not all zero."""
    finite = np.isfinite(vectors).all(axis=1)
    return np.logical_and(finite, vectors.any(axis=1))


def place(rows: Rows, name: str, centroids: Centroids, distances: bool = False) -> Space:
    """The cell of each row, and, where asked for, the distance to its centroid."""
    labels = np.full(len(rows), -1, np.int32)
    away = np.full(len(rows) if distances else 0, np.inf)
    start = 0
    for vectors in rows.vector_pieces(name) if len(centroids) else ():
        known = start + np.flatnonzero(present(vectors))
        labels[known], found = kmeans.assign(vectors[known - start], centroids)
        if distances:
            away[known] = found
        start += len(vectors)
    return Space(labels, len(centroids), away)


def choice(
    missing: Unjudged, space: Space, probability: Floats, selected: Bools, **more: Any
) -> Choice:
    """A choice by cells, in which rows without a vector go or stay as `missing` says.

    probability and selected are taken over, and changed for those rows.
    """
    unknown = ~space.known
    stays = missing == "keep"
    probability[unknown], selected[unknown] = stays, stays
    names = pa.array(map(str, range(space.count)), pa.string())
    return Choice(
        probability,
        selected,
        space.cells,
        names,
        unknown,
        NO_VECTOR,
        **more,
    )


def lists(vectors: Centroids) -> pa.Array:
    """Vectors [n, d] as an Arrow array of n lists."""
    flat = pa.array(vectors.reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
