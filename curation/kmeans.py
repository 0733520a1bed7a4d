"""k-means whose answer is a function of the points alone, not of blocks or threads.

Squared L2 distance. Candidates come from float32 matrix products; where two centroids are nearly
as close as each other, they are compared anew in float64.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.digests import generator

BLOCK = 4096  # points compared with all centroids at once
ROUNDS = 16  # of the choice of first centroids, where there are more of them than that
SLACK = 1e-4  # relative; float32 products of 1,024 dimensions are ten times as precise

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Points = npt.NDArray[np.floating[Any]]
Centroids = npt.NDArray[np.float32]


def fit(points: Points, k: int, key: tuple[object, ...], iterations: int) -> Centroids:
    """At most k centroids [k, d] of points [n, d]; fewer where fewer points are distinct.

    The order of the points counts: give them in one that does not depend on where they lie.
    """
    centroids = first_centroids(points, k, key)
    before = np.full(len(points), -1)
    for _ in range(iterations):
        labels, distances = assign(points, centroids)
        if (labels == before).all():
            break
        centroids = means(points, labels, centroids, distances)
        before = labels
    return centroids


def first_centroids(points: Points, k: int, key: tuple[object, ...]) -> Centroids:
    """Distinct points drawn in proportion to their squared distance to those drawn before.

    k-means++ (Arthur and Vassilvitskii 2007) with several draws a round where k is large, as in
    k-means|| (Bahmani et al. 2012).
    """
    if not len(points):
        return np.empty((0, points.shape[1]), np.float32)
    chosen = [int(generator(*key, "first").integers(len(points)))]
    distances = np.full(len(points), np.inf)
    new, step = chosen, 0
    while len(chosen) < k:
        added = np.asarray(points[new], np.float32)
        distances = np.minimum(distances, assign(points, added)[1])
        distances[chosen] = 0
        count = min(max(1, k // ROUNDS), k - len(chosen), int((distances > 0).sum()))
        if not count:
            break
        uniform = generator(*key, "next", step).random(len(points))
        with np.errstate(divide="ignore", invalid="ignore"):
            waits = np.where(distances > 0, -np.log1p(-uniform) / distances, np.inf)
        new = np.argsort(waits, kind="stable")[:count].tolist()
        chosen, step = chosen + new, step + 1
    drawn = np.asarray(points[chosen], np.float32)
    places = np.sort(np.unique(drawn, axis=0, return_index=True)[1])
    return drawn[places]


def assign(points: Points, centroids: Centroids) -> tuple[Ints, Floats]:
    """The closest centroid of each point, ties by the lower, and the squared distance to it."""
    labels, distances = np.empty(len(points), np.int64), np.empty(len(points))
    exact = centroids.astype(np.float64)
    half = np.einsum("ij,ij->i", exact, exact) / 2
    for rows in _blocks(len(points)):
        block = np.asarray(points[rows], np.float32)
        score = block @ centroids.T - half.astype(np.float32)
        best = score.argmax(axis=1)
        every = np.arange(len(block))
        top = score[every, best]
        score[every, best] = -np.inf
        scale = np.einsum("ij,ij->i", block, block) + 2 * half[best]
        least = top - SLACK * scale
        for row in np.flatnonzero(score.max(axis=1) >= least).tolist():
            # The best one's own score was taken out above.
            rivals = np.union1d(np.flatnonzero(score[row] >= least[row]), best[row])
            away = exact[rivals] - block[row]
            best[row] = rivals[np.einsum("ij,ij->i", away, away).argmin()]
        away = block - exact[best]
        labels[rows], distances[rows] = best, np.einsum("ij,ij->i", away, away)
    return labels, distances


def means(points: Points, labels: Ints, centroids: Centroids, distances: Floats) -> Centroids:
    """The mean of each cluster; one without points moves to a point that is far from its own."""
    count = len(centroids)
    sums = np.zeros(centroids.shape)
    for rows in _blocks(len(points)):
        order = np.argsort(labels[rows], kind="stable")
        found, starts = np.unique(labels[rows][order], return_index=True)
        sums[found] += np.add.reduceat(points[rows][order].astype(np.float64), starts, axis=0)
    sizes = np.bincount(labels, minlength=count)
    moved = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(sizes == 0)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    moved[empty] = points[farthest]
    return moved


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))
