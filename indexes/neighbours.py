"""Who is close to whom: pairs over a threshold, nearest neighbours, best matches.

Vectors are the rows of a float16 or float32 array, usually of unit length; similarity is the
inner product. An all-zero row stands for a missing vector and is close to nothing. Candidates
are found by block-wise matrix products or by codes (`bands.py`); what is returned is scored again,
pair by pair in float64, so that it does not depend on block sizes, threads or the method.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes import bands
from infra.errors import SluiceError

EXACT_LIMIT = 20_000  # rows up to which all pairs are compared; 512-d: 6 s on one core
EXACT_COST = 0.05, 1.0  # nanoseconds a pair: for each dimension, and besides
MISSES = 5e-4  # share of the pairs just at the threshold that may be lost, above EXACT_LIMIT
LONGEST = 1.01  # beyond, an inner product is no cosine
MAX_PAIRS = 50_000_000  # or one a row, where there are more rows; 1 GB while it is worked on
BLOCK = 2048
COLUMNS = 8192
RESCORED = 1024  # pairs scored at once: their vectors stay in the cache
SLACK = 1e-4  # candidates come from float32 sums of any order: keep those just below, too

Floats = npt.NDArray[np.floating[Any]]
Ids = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]


def range_pairs(
    vectors: Floats,
    threshold: float,
    *,
    known: int = 0,
    exact_limit: int = EXACT_LIMIT,
    misses: float = MISSES,
    max_pairs: int | None = None,
    device: str = "cpu",
) -> tuple[Ids, Ids, Similarities]:
    """All pairs of rows a < b with inner product >= threshold, sorted by (a, b).

    vectors: [n, d], in memory or mapped. known: rows before this one were searched before; pairs
    of two of them are left out. Returns int64 a, int64 b, float32 similarity, one entry per pair.
    Exact up to `exact_limit` rows. Above, a pair is lost with probability `misses` at most; measure
    with `pair_recall`. device: where the products of codes are made, "cpu" or "cuda".
    Raises SluiceError where there are more than `max_pairs` (None: MAX_PAIRS, or one a row):
    something is in the data many thousand times; and for values that are not numbers, or vectors
    longer than 1 above the limit.
    """
    lengths = _lengths(vectors, "vectors")
    max_pairs = max(MAX_PAIRS, len(vectors)) if max_pairs is None else max_pairs
    if not threshold > 0:
        raise SluiceError(f"threshold {threshold} would pair everything", "use one above 0")
    if len(vectors) <= exact_limit:
        batches = _exact_candidates(vectors, threshold - SLACK, known)
    else:
        batches = _band_candidates(vectors, lengths, threshold, known, misses, device)
    del lengths
    index = np.int32 if len(vectors) < 2**31 else np.int64
    kept_a, kept_b = [np.empty(0, index)], [np.empty(0, index)]
    certain = 0
    for low, high in batches:
        products = _products_of(vectors, low, high)
        likely = products >= threshold - SLACK
        kept_a.append(low[likely].astype(index))
        kept_b.append(high[likely].astype(index))
        certain += int((products >= threshold + SLACK).sum())
        if certain > max_pairs:
            raise SluiceError(
                f"more than {max_pairs} pairs of {len(vectors)} vectors have a similarity of "
                f"{threshold} or more",
                "raise the threshold, or drop blank images and exact duplicates first",
            )
    a, b = np.concatenate(kept_a), np.concatenate(kept_b)
    del kept_a, kept_b
    similarity = _similarity(vectors, vectors, a, b)
    near = similarity >= np.float32(threshold)
    a, b, similarity = a[near], b[near], similarity[near]
    order = np.lexsort((b, a))
    return a[order].astype(np.int64), b[order].astype(np.int64), similarity[order]


def pair_similarity(vectors: Floats, a: Ids, b: Ids, other: Floats | None = None) -> Similarities:
    """Inner product of row a[i] of `vectors` with row b[i] of `other` (or of `vectors`)."""
    return _similarity(vectors, vectors if other is None else other, a, b)


def _similarity(vectors: Floats, base: Floats, a: Any, b: Any) -> Similarities:
    similarity = np.empty(len(a), np.float32)
    for rows in _ranges(len(a), RESCORED):
        left = vectors[a[rows]].astype(np.float64)
        right = base[b[rows]].astype(np.float64)
        similarity[rows] = np.einsum("ij,ij->i", left, right)
    return similarity


def pair_recall(
    vectors: Floats,
    a: Ids,
    b: Ids,
    threshold: float,
    *,
    known: int = 0,
    sample: int = 512,
    seed: int = 0,
) -> float:
    """Share of the true pairs of `sample` random rows that are among (a, b), by brute force.

    a, b: what `range_pairs` returned, for the same `known`: the rows are drawn from those after.
    """
    count = len(vectors)
    chosen = known + np.random.default_rng(seed).permutation(count - known)[:sample]
    rows = np.sort(chosen)
    queries = np.asarray(vectors[rows], np.float32)
    wanted: list[Ids] = []
    for columns in _ranges(count, COLUMNS):
        i, j = np.nonzero(_product(queries, vectors[columns]) >= threshold - SLACK)
        x, y = rows[i], j + columns.start
        low, high = np.minimum(x, y)[x != y], np.maximum(x, y)[x != y]
        near = pair_similarity(vectors, low, high) >= np.float32(threshold)
        wanted.append(low[near] * count + high[near])
    true = np.unique(np.concatenate(wanted)) if wanted else np.empty(0, np.int64)
    return float(np.isin(true, a * count + b).mean()) if len(true) else 1.0


def nearest(queries: Floats, base: Floats, k: int) -> tuple[Similarities, Ids]:
    """The k rows of `base` with the largest inner product, for each query; exact.

    queries [n, d], base [m, d] -> similarity float32 [n, min(k, m)], index int64 [n, min(k, m)],
    best first, ties by the lower index.
    """
    _lengths(queries, "queries")
    _lengths(base, "base")
    if queries.shape[1] != base.shape[1]:
        raise SluiceError(
            f"queries have {queries.shape[1]} dimensions, the base has {base.shape[1]}",
            "use vectors of the same encoder",
        )
    k = min(k, len(base))
    similarity = np.empty((len(queries), k), np.float32)
    index = np.empty((len(queries), k), np.int64)
    for rows in _ranges(len(queries), BLOCK // 4):
        candidates = _candidates(queries[rows], base, k)
        flat = np.repeat(np.arange(len(candidates)), candidates.shape[1])
        scores = pair_similarity(queries[rows], flat, candidates.ravel(), base)
        scores = scores.reshape(candidates.shape)
        order = np.lexsort((candidates, -scores), axis=1)[:, :k]
        similarity[rows] = np.take_along_axis(scores, order, 1)
        index[rows] = np.take_along_axis(candidates, order, 1)
    return similarity, index


def above(queries: Floats, base: Floats, threshold: float) -> tuple[Ids, Similarities]:
    """The best match of each query in `base`: its row, or -1 where it is below `threshold`.

    Returns index int64 [n] and similarity float32 [n]; the similarity is the best there is
    (-inf for an empty base) even where the index is -1, so that thresholds can be swept.
    """
    if not len(base):
        return np.full(len(queries), -1, np.int64), np.full(len(queries), -np.inf, np.float32)
    similarity, index = nearest(queries, base, 1)
    best = similarity[:, 0]
    return np.where(best >= np.float32(threshold), index[:, 0], -1), best


def _candidates(queries: Floats, base: Floats, k: int) -> Ids:
    """At least the true k best of each query, give or take a rounding error: [n, >= k]."""
    spare = k + 8  # near-ties that float32 may have put in the wrong order
    found: list[Ids] = []
    scores: list[Similarities] = []
    for columns in _ranges(len(base), COLUMNS):
        products = _product(queries, base[columns])
        keep = min(spare, products.shape[1])
        best = np.argpartition(-products, keep - 1, axis=1)[:, :keep]
        found.append(best + columns.start)
        scores.append(np.take_along_axis(products, best, 1))
    every, score = np.concatenate(found, axis=1), np.concatenate(scores, axis=1)
    keep = min(spare, every.shape[1])
    order = np.lexsort((every, -score), axis=1)[:, :keep]
    return np.take_along_axis(every, order, 1)


def _exact_candidates(vectors: Floats, threshold: float, known: int) -> Iterator[tuple[Ids, Ids]]:
    """Pairs a < b, b >= known, over the threshold, from the upper triangle, block by block."""
    count = len(vectors)
    for rows in _ranges(count, BLOCK):
        left = np.asarray(vectors[rows], np.float32)
        for columns in _ranges(count, COLUMNS, max(rows.start, known)):
            i, j = np.nonzero(_product(left, vectors[columns]) >= threshold)
            a, b = i + rows.start, j + columns.start
            upper = a < b
            yield a[upper], b[upper]


def _band_candidates(
    vectors: Floats, lengths: Similarities, threshold: float, known: int, misses: float, device: str
) -> Iterator[tuple[Ids, Ids]]:
    """Pairs a < b, b >= known, that codes find; all pairs where that would be no slower."""
    longest = float(lengths.max())
    if longest > LONGEST:
        row = int(lengths.argmax())
        raise SluiceError(
            f"row {row} of the vectors has length {longest:.4g}: similarity is a cosine, of "
            "vectors of length 1",
            "normalise the vectors; all-zero rows stand for missing ones",
        )
    # Rows too short for any pair get codes of their own, or missing ones would all be alike.
    short = np.flatnonzero(lengths * longest < threshold - SLACK)
    del lengths  # memory is for the codes
    if len(short) > len(vectors) - 2:
        return
    codes = bands.codes(vectors, device)
    codes[short] = np.random.default_rng(2).integers(0, 2**64, (len(short), 4), np.uint64)
    plan = bands.plan(codes, threshold / longest**2, misses)
    each, besides = EXACT_COST
    if plan.seconds * 1e9 > (each * vectors.shape[1] + besides) * len(vectors) ** 2 / 2:
        yield from _exact_candidates(vectors, threshold - SLACK, known)
        return
    yield from bands.candidates(codes, plan, known)


def _products_of(vectors: Floats, a: Ids, b: Ids) -> Similarities:
    """Inner products of rows a[i] and b[i] in float32, quickly: within SLACK of the true ones."""
    if vectors.dtype == np.float16 and len(a) > RESCORED:
        from indexes.band_kernels import half_products

        return half_products(np.asarray(vectors).view(np.uint16), a, b)
    products = np.empty(len(a), np.float32)
    for rows in _ranges(len(a), RESCORED):
        left, right = vectors[a[rows]].astype(np.float32), vectors[b[rows]].astype(np.float32)
        products[rows] = np.einsum("ij,ij->i", left, right)
    return products


def _product(left: Floats, right: Floats) -> Similarities:
    return np.asarray(left, np.float32) @ np.asarray(right, np.float32).T


def _ranges(count: int, step: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, count, step):
        yield slice(first, min(first + step, count))


def _lengths(vectors: Floats, name: str) -> Similarities:
    """The Euclidean length of each row: [n, d] -> [n]."""
    if vectors.ndim != 2:
        raise SluiceError(f"{name} has shape {vectors.shape}, not [rows, dimensions]", "")
    lengths = np.empty(len(vectors), np.float32)
    for rows in _ranges(len(vectors), BLOCK):
        block = np.asarray(vectors[rows], np.float32)
        lengths[rows] = np.sqrt(np.einsum("ij,ij->i", block, block))
    bad = np.flatnonzero(~np.isfinite(lengths))
    if len(bad):
        raise SluiceError(
            f"{name} holds values that are not numbers, in {len(bad)} rows, first in row {bad[0]}",
            "write all-zero rows where there is no vector",
        )
    return lengths
