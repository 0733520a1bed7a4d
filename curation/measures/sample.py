"""Samples of a version that depend on what is in it alone, not on shards or their order."""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import dataset_at, read_vectors
from curation.measures.formulas import unit

COLUMNS = ["uid", "sha256", "status"]


@dataclass(frozen=True)
class Place:
    """Vectors of a version: of its own score folder, or of the one it was taken from."""

    version_url: str
    scored_url: str  # the dataset whose scores are row-aligned with the version
    folder: str
    vector: str


def keys(rows: pa.Table, seed: int) -> npt.NDArray[np.uint64]:
    """A number for each row (uid, sha256), even over 64 bits.

    Rows of one uid may hold different images; equal keys mean equal images.
    """
    pairs = zip(rows["uid"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
    hashes = [
        hashlib.sha256(f"{seed}\0{uid}\0{image}".encode()).digest()[:8] for uid, image in pairs
    ]
    return np.frombuffer(b"".join(hashes), np.uint64)


def sample_vectors(place: Place, size: int, seed: int) -> npt.NDArray[np.float64]:
    """The unit vectors [at most size, d] of the samples with the lowest keys, in their order.

    Of all samples that are "ok"; those among the chosen that have no vector are left out.
    """
    dataset = dataset_at(place.version_url)
    best = np.empty((0, 3), np.uint64)  # key, shard, row
    for shard in sorted(dataset.shards):
        rows = dataset.rows(shard, COLUMNS)
        kept = np.flatnonzero(pc.equal(rows["status"], "ok").to_numpy())
        found = np.empty((len(kept), 3), np.uint64)
        found[:, 0], found[:, 1], found[:, 2] = keys(rows.take(pa.array(kept)), seed), shard, kept
        best = np.concatenate([best, found])
        best = best[np.argsort(best[:, 0], kind="stable")][:size]
    return unit(_gather(place, best[:, 1].astype(np.int64), best[:, 2].astype(np.int64)))


def _gather(
    place: Place, shards: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.floating]:
    """The vectors of these rows, in this order; each shard's file is read once."""
    pieces: list[npt.NDArray[np.floating]] = []
    order: list[npt.NDArray[np.int64]] = []
    for shard in np.unique(shards):
        mine = np.flatnonzero(shards == shard)
        vectors = read_vectors(place.scored_url, place.folder, place.vector, int(shard))
        pieces.append(vectors[rows[mine]])
        order.append(mine)
    return _in_order(pieces, order)


def _in_order(
    pieces: Sequence[npt.NDArray[np.floating]], order: Sequence[npt.NDArray[np.int64]]
) -> npt.NDArray[np.floating]:
    if not pieces:
        return np.empty((0, 0), np.float64)
    stacked = np.concatenate(pieces)
    placed = np.empty_like(stacked)
    placed[np.concatenate(order)] = stacked
    return placed
