"""Rows in the cells of a vector space: sampled, clustered, placed shard by shard."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation import kmeans
from curation.kmeans import Centroids
from curation.selection.draws import Bools, Choice, Floats, Ints, draws
from curation.selection.rows import Rows
from curation.selection.settings import NO_VECTOR, Unjudged


@dataclass(frozen=True)
class Space:
    """Rows by cell: all arrays [n]. A row without a vector is in cell -1, infinitely far."""

    cells: Ints
    distances: Floats  # squared, to the centroid
    count: int  # of cells

    @property
    def known(self) -> Bools:
        return self.cells >= 0

    def sizes(self) -> Ints:
        """The rows of each cell."""
        return np.bincount(self.cells[self.known], minlength=self.count)


def sample_vectors(
    rows: Rows, name: str, count: int, key: tuple[object, ...]
) -> npt.NDArray[np.float16]:
    """The vectors of at most `count` rows, those with the lowest draws, in the draws' order.

    So neither which they are nor their order depends on where the rows lie.
    """
    drawn = draws(rows.uids, *key, "sample")
    chosen = np.argsort(drawn, kind="stable")[:count]
    inside = np.zeros(len(rows), bool)
    inside[chosen] = True
    vectors = rows.only(inside).vectors(name)
    vectors = vectors[np.argsort(drawn[inside], kind="stable")]
    return vectors[present(vectors)]


def present(vectors: npt.NDArray[Any]) -> Bools:
    """Whether a row has a vector: it is finite and not all zero."""
    finite = np.isfinite(vectors).all(axis=1)
    return np.logical_and(finite, vectors.any(axis=1))


def place(rows: Rows, name: str, centroids: Centroids) -> Space:
    """The cell of each row, and the distance to its centroid."""
    labels = [np.empty(0, np.int64)]
    distances = [np.empty(0)]
    for vectors in rows.vector_pieces(name):
        known = present(vectors)
        label, distance = np.full(len(vectors), -1), np.full(len(vectors), np.inf)
        if len(centroids):
            label[known], distance[known] = kmeans.assign(vectors[known], centroids)
        labels.append(label)
        distances.append(distance)
    return Space(np.concatenate(labels), np.concatenate(distances), len(centroids))


def choice(
    missing: Unjudged, space: Space, probability: Floats, selected: Bools, **more: Any
) -> Choice:
    """A choice by cells, in which rows without a vector go or stay as `missing` says."""
    unknown = ~space.known
    stays = missing == "keep"
    names = pa.array(map(str, range(space.count)), pa.string())
    return Choice(
        np.where(unknown, float(stays), probability),
        np.where(unknown, stays, selected),
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
