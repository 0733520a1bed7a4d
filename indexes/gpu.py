"""faiss on the GPU of this process, where it has one: nearest vectors by brute force.

What is said here needs no model and no index. A shard is compared with the centroids and with the
held-out queries while an index is built; an opened index is searched by comparing every vector.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.embeddings import Embedding
from indexes.kinds import faiss
from infra.dataset import ROW_BITS, of_shard
from infra.errors import SluiceError

MOST = 2048  # results that faiss gives on a GPU, for one query
BLOCK = 2**16  # vectors sent at a time

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@cache
def resources() -> Any:
    """What faiss computes with on this process's first GPU; None where it has none."""
    there = hasattr(faiss(), "StandardGpuResources") and faiss().get_num_gpus() > 0
    return faiss().StandardGpuResources() if there else None


def nearest(queries: Floats, base: Floats, k: int) -> tuple[Floats, Ids]:
    """Inner products and rows of `base` [n, d]: the k best for each of queries [m, d]."""
    k = min(k, len(base))
    queries, base = np.ascontiguousarray(queries), np.ascontiguousarray(base)
    inner_product = faiss().METRIC_INNER_PRODUCT
    return faiss().knn_gpu(resources(), queries, base, k, metric=inner_product, device=0)


def flat_index(dimension: int) -> Any:
    """An empty index in the GPU's memory, of float16; SluiceError where there is no GPU."""
    if resources() is None:
        raise SluiceError(
            "faiss finds no GPU in this process",
            "leave out the device, or see that a driver and a GPU are there (nvidia-smi) and that "
            "CUDA_VISIBLE_DEVICES does not hide it",
        )
    config = faiss().GpuIndexFlatConfig()
    config.useFloat16, config.device = True, 0
    index = faiss().GpuIndexFlatIP(resources(), dimension, config)
    index.referenced_objects = [resources()]
    return index


@dataclass(frozen=True)
class Resident:
    """Stored vectors in an index of faiss that compares all; ids: of its positions, ascending."""

    index: Any
    ids: Ids
    _one: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def candidates(self, queries: Floats, k: int) -> Ids:
        """The ids [n, k] of the k vectors that are nearest in float16, -1 where there are fewer."""
        with self._one:  # the GPU's scratch memory is for one search at a time
            positions = self.index.search(np.ascontiguousarray(queries, np.float32), k)[1]
        return np.where(positions < 0, -1, self.ids[positions])


def resident(index: Any, embedding: Embedding, ids: Ids) -> Resident:
    """Add the stored vectors of `ids`, which ascend, to an empty index that compares all."""
    try:
        for block in _blocks(embedding, ids):
            index.add(block)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        size = len(ids) * index.d * 2 / 2**30
        raise SluiceError(
            f"{len(ids):,} vectors of {embedding.name} ({size:.1f} GiB) do not go into the GPU's "
            f"memory: {reason}",
            "leave out the device: the index on disk answers without a GPU",
        ) from error
    return Resident(index, ids)


def _blocks(embedding: Embedding, ids: Ids) -> Iterator[Floats]:
    for shard in np.unique(ids >> np.int64(ROW_BITS)).tolist():
        own = ids[of_shard(ids, shard)]
        for start in range(0, len(own), BLOCK):
            yield embedding.take(own[start : start + BLOCK]).astype(np.float32)
