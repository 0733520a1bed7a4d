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

from curation.columns import artifact_at, folder_digest, read_vectors
from curation.measures.sample import Place, sample_vectors
from curation.measures.settings import MeasureSettings
from indexes.neighbours import nearest
from infra import filesystem
from infra.artifacts import Part, Spec
from infra.dataset import part_name, write_table
from infra.filesystem import join
from infra.stage import Draft

CODE = 1
POINTS = 10  # of a cell, on average: below it, cells count single samples
NAME, FILE = "cells", "centroids.npy"
COLUMNS = pa.schema(
    [
        ("cell", pa.int32()),  # null where the row has no vector
        ("centrality", pa.float32()),  # cosine to the cell's centroid
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
            found = kmeans(points.astype(np.float32), k, self.settings.iterations)
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


def assign(vectors: npt.NDArray[np.floating], centroids: npt.NDArray[np.float32]) -> pa.Table:
    """COLUMNS of the rows [n, d]: the centroid of the largest cosine, the first of equals."""
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1) & bool(len(centroids))
    cell, cosine = np.zeros(len(vectors), np.int32), np.zeros(len(vectors), np.float32)
    if usable.any():
        similarity, index = nearest(vectors[usable], centroids, 1)
        cell[usable], cosine[usable] = index[:, 0], similarity[:, 0]
    return pa.table([pa.array(cell, mask=~usable), pa.array(cosine, mask=~usable)], schema=COLUMNS)


def kmeans(points: npt.NDArray[np.float32], k: int, iterations: int) -> npt.NDArray[np.float32]:
    """Spherical k-means (Lloyd) of unit rows [n, d]: centroids float32 [at most k, d], unit.

    Starts from the first k different points, so that copies make no cells of their own; the
    points come in random order. A cell that empties keeps its centroid.
    """
    _, first = np.unique(points, axis=0, return_index=True)
    centroids = points[np.sort(first)[:k]].copy()
    if len(centroids) < 2:
        return centroids
    before = np.empty(0, np.int64)
    for _ in range(iterations):
        cell = np.concatenate(
            [
                np.argmax(points[start : start + 4096] @ centroids.T, axis=1)
                for start in range(0, len(points), 4096)
            ]
        )
        if np.array_equal(cell, before):
            break
        centroids, before = _means(points, cell, centroids), cell
    return centroids


def _means(
    points: npt.NDArray[np.float32], cell: npt.NDArray[np.int64], old: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """The mean direction of each cell's points; where there is none, the old centroid."""
    sums = np.zeros(old.shape)
    np.add.at(sums, cell, points.astype(np.float64))
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > 1e-9, sums / np.maximum(lengths, 1e-9), old).astype(np.float32)
