"""Coarse quantization in two levels: groups of centroids, and the centroids of each group.

With about twice the root of as many groups as lists, and a few groups looked into, a vector is
assigned in time that grows with the fourth root of n, where n vectors have four times the root of
n lists. The assignment is approximate: a vector may come into the second nearest list.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from indexes import gpu
from indexes.kinds import faiss
from infra.runner import own_processors

GROUPS_PROBED = 4
ONE_LEVEL = 64  # lists, for which groups would not pay
ITERATIONS = 10  # of k-means
GROUP_SAMPLE = (
    128  # training vectors for each group: poor groups are of unequal size, which costs more
)
BLOCK = 2**14  # rows assigned at a time

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Coarse:
    """centroids [lists, d] in the order of groups; of group g those from starts[g] on."""

    centroids: Floats
    leaders: Floats  # [groups, d]
    starts: Numbers  # [groups + 1]

    def assign(self, vectors: Floats) -> Numbers:
        """The number of a list for each of vectors [n, d], on one thread.

        On a GPU every centroid is compared.
        """
        if gpu.resources() is not None:
            return gpu.nearest(vectors, self.centroids, 1)[1][:, 0]
        found = np.empty(len(vectors), np.int64)
        with threadpool_limits(1):  # sums keep their order, whatever the machine has
            for start in range(0, len(vectors), BLOCK):
                block = slice(start, start + BLOCK)
                found[block] = self._assign(np.ascontiguousarray(vectors[block]))
        return found

    def _assign(self, vectors: Floats) -> Numbers:
        groups = _most_similar(vectors, self.leaders, GROUPS_PROBED)
        best = np.full(len(vectors), -np.inf, np.float32)
        found = np.zeros(len(vectors), np.int64)
        order = np.argsort(groups, axis=None, kind="stable")
        bounds = np.searchsorted(groups.ravel()[order], np.arange(len(self.leaders) + 1))
        rows = order // groups.shape[1]
        for group in np.flatnonzero(np.diff(bounds)).tolist():
            own = rows[bounds[group] : bounds[group + 1]]
            first, last = self.starts[group : group + 2]
            products = vectors[own] @ self.centroids[first:last].T
            nearest = products.argmax(axis=1)
            values = products[np.arange(len(own)), nearest]
            better = values > best[own]
            best[own[better]] = values[better]
            found[own[better]] = first + nearest[better]
        return found


def single_threads() -> ThreadPoolExecutor:
    """As many threads as this process has processors; arithmetic in each stays on that one."""
    return ThreadPoolExecutor(own_processors(), initializer=lambda: faiss().omp_set_num_threads(1))


def _most_similar(vectors: Floats, leaders: Floats, k: int) -> Numbers:
    products = vectors @ leaders.T
    if k >= len(leaders):
        return np.broadcast_to(np.arange(len(leaders)), products.shape)
    return np.argpartition(products, len(leaders) - k, axis=1)[:, -k:]


def train(sample: npt.NDArray[np.float16], lists: int, seed: int) -> Coarse:
    """Centroids of a sample [n, d] of unit vectors, by spherical k-means, each on one thread.

    There are fewer lists than asked for where the sample is smaller.
    """
    lists = min(lists, len(sample))
    groups = 1 if lists <= ONE_LEVEL else int(np.ceil(2 * lists**0.5))
    with threadpool_limits(1), single_threads() as threads:
        if groups == 1:
            centroids = _k_means(sample.astype(np.float32), lists, seed)
            return Coarse(centroids, centroids.mean(0, keepdims=True), np.array([0, lists]))
        step = max(len(sample) // (groups * GROUP_SAMPLE), 1)
        leaders = _k_means(sample[::step].astype(np.float32), groups, seed)

        def nearest(start: int) -> Numbers:
            return (sample[start : start + BLOCK].astype(np.float32) @ leaders.T).argmax(axis=1)

        member = np.concatenate(list(threads.map(nearest, range(0, len(sample), BLOCK))))
        counts = _shares(np.bincount(member, minlength=groups), lists)
        order = np.argsort(member, kind="stable")
        ends = np.cumsum(np.bincount(member, minlength=groups))

        def of_group(group: int) -> Floats:
            rows = np.sort(order[ends[group - 1] if group else 0 : ends[group]])
            return _k_means(sample[rows].astype(np.float32), int(counts[group]), seed)

        kept = np.flatnonzero(counts)
        parts = list(threads.map(of_group, kept.tolist()))
    leaders = np.stack([part.mean(0) / np.linalg.norm(part.mean(0)) for part in parts])
    starts = np.concatenate([[0], np.cumsum(counts[kept])])
    return Coarse(np.concatenate(parts), leaders.astype(np.float32), starts)


def _shares(sizes: Numbers, total: int) -> Numbers:
    """`total` divided like `sizes`, none above its size; at least 1 for each that has any."""
    shares = np.minimum(np.maximum(total * sizes // sizes.sum(), sizes > 0), sizes)
    while (rest := total - shares.sum()) > 0:  # at most a few rounds: one more for the largest
        room = np.argsort(shares - sizes * (total / sizes.sum()), kind="stable")
        room = room[shares[room] < sizes[room]][:rest]
        shares[room] += 1
    return shares


def _k_means(vectors: Floats, count: int, seed: int) -> Floats:
    """Unit centroids [count, d]."""
    if count >= len(vectors):
        return vectors[:count]
    options: dict[str, Any] = {"min_points_per_centroid": 1, "max_points_per_centroid": 2**20}
    made = faiss().Kmeans(
        vectors.shape[1], count, niter=ITERATIONS, spherical=True, seed=seed, **options
    )
    made.train(vectors)
    return made.centroids


def quantizer(centroids: Floats) -> Any:
    """The coarse quantizer of an inverted file: asked by every query for the lists to look into."""
    index = faiss().IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    return index
