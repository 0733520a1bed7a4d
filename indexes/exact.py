"""Similarities by the stored vectors themselves: of candidates, and of all of some rows."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from indexes.embeddings import Embedding
from infra.dataset import ROW_BITS, index_id

BLOCK = 2**15  # products held at a time, for each query

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def similarities(embedding: Embedding, queries: Floats, ids: Ids) -> Floats:
    """Inner products [n, k] of queries [n, d] and the vectors of ids [n, k]; -inf for id -1."""
    from indexes.exact_kernels import pair_products

    products = np.full(ids.size, -np.inf, np.float32)
    order = np.argsort(ids, axis=None, kind="stable")
    ordered = ids.ravel()[order]
    for shard, own in _by_shard(ordered):
        halves, rows = embedding.halves(shard, ordered[own] - index_id(shard, 0))
        places = order[own]
        pair_products(halves, rows, queries, places // ids.shape[1], places, products)
    return products.reshape(ids.shape)


def nearest(embedding: Embedding, queries: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
    """The k most similar of the rows `ids`, which ascend, for each query; ties by id.

    Every one of them is compared. Similarities and ids [n, min(k, len(ids))], best first.
    """
    from indexes.exact_kernels import all_products

    best = np.empty((len(queries), 0), np.float32)
    found = np.empty((len(queries), 0), np.int64)
    for shard, own in _by_shard(ids):
        for start in range(own.start, own.stop, BLOCK):
            block = ids[start : min(start + BLOCK, own.stop)]
            halves, rows = embedding.halves(shard, block - index_id(shard, 0))
            products = np.empty((len(queries), len(block)), np.float32)
            all_products(halves, rows, queries, products)
            best = np.concatenate([best, products], axis=1)
            found = np.concatenate([found, np.broadcast_to(block, products.shape)], axis=1)
            if best.shape[1] > BLOCK:
                best, found = top(best, found, k)
    return top(best, found, k)


def _by_shard(ids: Ids) -> Iterator[tuple[int, slice]]:
    """Each shard that has ids, which ascend, and where; ids below 0 are left out."""
    bounds = np.flatnonzero(np.diff(ids >> np.int64(ROW_BITS))) + 1
    for start, stop in pairwise([0, *bounds.tolist(), len(ids)]):
        if stop > start and ids[start] >= 0:
            yield int(ids[start]) >> ROW_BITS, slice(start, stop)


def top(similarity: Floats, ids: Ids, k: int) -> tuple[Floats, Ids]:
    """The k best of each row, best first, ties by id."""
    if similarity.shape[1] > 4 * k:  # a sort of all would cost more
        edge = -np.partition(-similarity, k - 1, axis=1)[:, k - 1 : k]
        count = int((similarity >= edge).sum(axis=1).max())  # k, and those alike
        chosen = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        similarity = np.take_along_axis(similarity, chosen, 1)
        ids = np.take_along_axis(ids, chosen, 1)
    order = np.lexsort((ids, -similarity), axis=1)[:, :k]
    return np.take_along_axis(similarity, order, 1), np.take_along_axis(ids, order, 1)
