"""Cells of a pool: k-means over its image vectors, and the cell of every row.

    <pool>/cells/<digest>/centroids.npy                    float32 [k, d], unit rows
    <pool>/scores/cells-<digest>/columns/00000.parquet     COLUMNS, row-aligned

They stand in for the classes that a pool from the web has not. The second is a score like any
other: a rule may ask for it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from threadpoolctl import threadpool_limits

from curation import kmeans
from curation.columns import artifact_at, folder_digest, read_vectors
from curation.measures.sample import Place, sample_vectors
from curation.measures.settings import MeasureSettings
from curation.units import column
from indexes.neighbours import nearest
from infra import filesystem
from infra.artifacts import Part, Spec
from infra.dataset import part_name, write_table
from infra.filesystem import join
from infra.stage import Draft

CODE = 2
POINTS = 10  # of a cell, on average: below it, cells count single samples
NAME, FILE = "cells", "centroids.npy"
COLUMNS = pa.schema(
    [
        ("cell", pa.int32()),  # null where the row has no vector
        column("centrality", pa.float32(), "cosine"),  # to the cell's centroid
    ]
)


def cells_draft(pool_url: str, folder: str, vector: str, settings: MeasureSettings) -> Draft:
    """The centroids of a pool's vectors FOLDER/VECTOR."""
    asked = settings.model_dump(include={"cells", "iterations", "fit", "seed"})
    digest = pool_url.rstrip("/").rpartition("/")[2]
    parents = (digest, folder_digest(folder))
    spec = Spec("cells", "curation.measures.cells", {**asked, "vector": vector}, parents, CODE)
    return Draft(join(pool_url, NAME, spec.digest), spec)


def cell_scores_draft(pool_url: str, folder: str, vector: str, settings: MeasureSettings) -> Draft:
    """The cell of every row of the pool, as columns of scores."""
    cells = cells_draft(pool_url, folder, vector, settings).spec.digest
    digest = pool_url.rstrip("/").rpartition("/")[2]
    parents = (digest, folder_digest(folder), cells)
    spec = Spec("scores", "curation.measures.cell_scores", {"vector": vector}, parents, CODE)
    return Draft(join(pool_url, "scores", f"{NAME}-{spec.digest}"), spec)


@dataclass(frozen=True)
class CellsWork:
    """Finds the cells of a pool: one unit of work."""

    url: str
    pool_url: str
    folder: str
    vector: str
    settings: MeasureSettings

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        place = Place(self.pool_url, self.pool_url, self.folder, self.vector)
        with threadpool_limits(1):  # sums keep their order, whatever the machine has
            points = sample_vectors(place, self.settings.fit, self.settings.seed)
            k = min(self.settings.cells, max(len(points) // POINTS, 1))
            found = centres(points, k, self.settings.seed, self.settings.iterations)
        buffer = io.BytesIO()
        np.save(buffer, found, allow_pickle=False)
        file = filesystem.write_bytes(self.url, FILE, buffer.getvalue())
        return {"": Part("all", (file,), len(points), len(points), extra={"cells": len(found)})}


@dataclass(frozen=True)
class CellScoresWork:
    """The cell of each row of one shard; its item is a shard number."""

    url: str
    cells_url: str
    pool_url: str
    folder: str
    vector: str

    def __call__(self, value: int, todo: Sequence[str]) -> dict[str, Part]:
        artifact_at(self.cells_url)
        data = filesystem.read_bytes(join(self.cells_url, FILE))
        centroids = np.load(io.BytesIO(data), allow_pickle=False)
        vectors = read_vectors(self.pool_url, self.folder, self.vector, value)
        table = assign(vectors, centroids)
        file = write_table(self.url, f"columns/{part_name(value)}.parquet", table)
        return {"": Part(part_name(value), (file,), table.num_rows, table.num_rows)}


def centres(
    points: npt.NDArray[np.floating], k: int, seed: int, iterations: int
) -> npt.NDArray[np.float32]:
    """The directions of the means of at most k cells of unit rows [n, d]: float32 [k, d], unit.

    Copies make no cells of their own. A cell whose points cancel out has no direction and is none.
    """
    means = kmeans.fit(points, k, (NAME, seed), iterations).astype(np.float64)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    there = lengths[:, 0] > 1e-9
    return (means[there] / lengths[there]).astype(np.float32)


def assign(vectors: npt.NDArray[np.floating], centroids: npt.NDArray[np.float32]) -> pa.Table:
    """COLUMNS of the rows [n, d]: the centroid of the largest cosine, the first of equals."""
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1) & bool(len(centroids))
    cell, cosine = np.zeros(len(vectors), np.int32), np.zeros(len(vectors), np.float32)
    if usable.any():
        similarity, index = nearest(vectors[usable], centroids, 1)
        cell[usable], cosine[usable] = index[:, 0], similarity[:, 0]
    return pa.table([pa.array(cell, mask=~usable), pa.array(cosine, mask=~usable)], schema=COLUMNS)
