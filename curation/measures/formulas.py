"""The measures themselves: pure functions of unit vectors and of counts in cells.

Whatever is not defined (a distance of one sample, a share of nothing) is None.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

SIGMA, SCALE = 10.0, 1000.0  # of CMMD, as published
BLOCK = 1024  # rows compared with all others at a time

Floats = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.int64]


def unit(vectors: Floats) -> npt.NDArray[np.float64]:
    """The rows [n, d] that are vectors, at length 1; all-zero and non-finite rows are left out."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    return wide[usable] / lengths[usable, None]


def mean_cosine_distance(vectors: npt.NDArray[np.float64]) -> float | None:
    """The mean of 1 - cosine over all pairs of unit rows [n, d], 0 to 2; O(n d)."""
    n = len(vectors)
    if n < 2:
        return None
    total = vectors.sum(axis=0)
    own = float(np.einsum("ij,ij->", vectors, vectors))
    return 1.0 - (float(total @ total) - own) / (n * (n - 1))


def vendi_score(vectors: npt.NDArray[np.float64]) -> float | None:
    """The effective number of different samples: exp of the entropy of the eigenvalues of K / n.

    K is the matrix of cosines of unit rows [n, d] (Friedman & Dieng 2022, arXiv:2210.02410). Its
    eigenvalues are those of the d x d covariance about the origin: O(n d^2). From 1, where all
    are equal, to min(n, d).
    """
    if not len(vectors):
        return None
    values = np.linalg.eigvalsh(vectors.T @ vectors / len(vectors))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def cmmd(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float | None:
    """CMMD of two sets of unit rows, [n, d] and [m, d]: 0 where they are of one distribution.

    1000 times the unbiased estimate of the squared maximum mean discrepancy, with the kernel
    exp(-|x - y|^2 / (2 * 10^2)) (Jayasumana et al. 2024, arXiv:2401.09603, equation 4). Being
    unbiased it may come out a little below 0. Sums are of 1 - kernel: the kernel is so wide that
    its values differ in the third decimal alone.
    """
    if len(ours) < 2 or len(theirs) < 2:
        return None
    n, m = len(ours), len(theirs)
    within = _spread(ours, ours) / (n * (n - 1)) + _spread(theirs, theirs) / (m * (m - 1))
    return SCALE * (2 * _spread(ours, theirs) / (n * m) - within)


def _spread(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """The sum of 1 - kernel over all pairs of unit rows; a row with itself adds nothing."""
    sums = []
    for rows in _blocks(len(left)):
        squared = np.maximum(2 - 2 * (left[rows] @ right.T), 0)
        sums.append(float(-np.expm1(-squared / (2 * SIGMA**2)).sum()))
    return float(np.sum(sums))


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, start + BLOCK)


# ---- cells: counts [k] of the pool and of what is kept ----


def coverage(pool: Counts, kept: Counts) -> float | None:
    """The share of the pool's cells that hold at least one kept sample."""
    there = pool > 0
    return float((kept[there] > 0).mean()) if there.any() else None


def sparse_share(pool: Counts, kept: Counts, few: int) -> float | None:
    """The share of the pool's cells that hold fewer than `few` kept samples.

    SELECT's LT@500 (Feuer et al. 2024, arXiv:2410.05057) with cells in place of classes, `few`
    in place of 500, and as a share, so that numbers of cells compare.
    """
    there = pool > 0
    return float((kept[there] < few).mean()) if there.any() else None


def head_share(pool: Counts, kept: Counts, share: float) -> float | None:
    """The share of the kept samples that are in the largest `share` of the cells.

    SELECT's LS@5pct, with the pool's cells in place of classes: the fewer, the more balanced. At
    least one cell; what it would be in balance is `share`.
    """
    occupied, total = int((pool > 0).sum()), int(kept.sum())
    if not (occupied and total):
        return None
    largest = max(1, round(share * occupied))
    return float(np.sort(kept)[::-1][:largest].sum() / total)


def tail(pool: Counts, share: float) -> npt.NDArray[np.bool_]:
    """Which cells are the pool's tail: the smallest that together hold at most `share` of it.

    Equally large cells come in by their numbers.
    """
    order = np.argsort(pool, kind="stable")
    inside = np.cumsum(pool[order]) <= share * pool.sum()
    chosen = np.zeros(len(pool), bool)
    chosen[order[inside]] = True
    return chosen & (pool > 0)


def tail_share(pool: Counts, kept: Counts, share: float) -> float | None:
    """The share of the kept samples that are in the pool's tail.

    Below the raw pool's own figure, rare things were lost more often than common ones.
    """
    total = int(kept.sum())
    return float(kept[tail(pool, share)].sum() / total) if total else None
