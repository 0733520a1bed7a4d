"""Who is close to whom: pairs over a threshold, nearest neighbours, best matches.

Vectors are the rows of a float16 or float32 array, usually of unit length; similarity is the
inner product. An all-zero row stands for a missing vector and is close to nothing. Candidates
are found by block-wise matrix products or an inverted file; what is returned is scored again,
pair by pair in float64, so that it does not depend on block sizes, threads or the method.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from indexes.kinds import faiss as load_faiss
from infra.errors import SluiceError

EXACT_LIMIT = 50_000  # rows up to which all pairs are compared; 256-d: 12 s on one core
PROBES = 64  # lists of the inverted file that a row looks into, above EXACT_LIMIT
MAX_PAIRS = 50_000_000  # 1 GB while it is worked on
BLOCK = 2048
COLUMNS = 8192
SLACK = 1e-4  # candidates come from float32 sums of any order: keep those just below, too

Floats = npt.NDArray[np.floating[Any]]
Ids = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]


def range_pairs(
    vectors: Floats,
    threshold: float,
    *,
    exact_limit: int = EXACT_LIMIT,
    probes: int = PROBES,
    max_pairs: int = MAX_PAIRS,
) -> tuple[Ids, Ids, Similarities]:
    """All pairs of rows a < b with inner product >= threshold, sorted by (a, b).

    vectors: [n, d]. Returns int64 a, int64 b, float32 similarity, one entry per pair.
    Exact up to `exact_limit` rows. Above, each row looks into `probes` lists of an inverted
    file and a pair counts when either side finds the other; measure with `pair_recall`.
    Raises SluiceError where there are more than `max_pairs`: something is in the data many
    thousand times.
    """
    _check(vectors, "vectors")
    if not threshold > 0:
        raise SluiceError(f"threshold {threshold} would pair everything", "use one above 0")
    count = len(vectors)
    if count <= exact_limit:
        blocks = _exact_candidates(vectors, threshold - SLACK)
    else:
        blocks = _ivf_candidates(vectors, threshold - SLACK, probes)
    kept: list[Ids] = []
    total = 0
    for low, high in blocks:
        keys = np.unique(low * count + high)
        kept.append(keys)
        total += len(keys)
        if total > 2 * max_pairs:  # the inverted file may find a pair from both sides
            break
    keys = np.unique(np.concatenate(kept)) if kept else np.empty(0, np.int64)
    if len(keys) > max_pairs:
        raise SluiceError(
            f"more than {max_pairs} pairs of {count} vectors have a similarity of {threshold} "
            "or more",
            "raise the threshold, or drop blank images and exact duplicates first",
        )
    a, b = keys // count, keys % count
    similarity = pair_similarity(vectors, a, b)
    near = similarity >= np.float32(threshold)
    return a[near], b[near], similarity[near]


def pair_similarity(vectors: Floats, a: Ids, b: Ids, other: Floats | None = None) -> Similarities:
    """Inner product of row a[i] of `vectors` with row b[i] of `other` (or of `vectors`)."""
    base = vectors if other is None else other
    similarity = np.empty(len(a), np.float32)
    for start in range(0, len(a), COLUMNS):
        rows = slice(start, start + COLUMNS)
        left = vectors[a[rows]].astype(np.float64)
        right = base[b[rows]].astype(np.float64)
        similarity[rows] = np.einsum("ij,ij->i", left, right)
    return similarity


def pair_recall(
    vectors: Floats, a: Ids, b: Ids, threshold: float, *, sample: int = 512, seed: int = 0
) -> float:
    """Share of the true pairs of `sample` random rows that are among (a, b), by brute force."""
    count = len(vectors)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:sample])
    found = set(zip(a.tolist(), b.tolist(), strict=True))
    hits = total = 0
    for start in range(0, len(chosen), 64):
        rows = chosen[start : start + 64]
        for columns in _ranges(count, COLUMNS):
            products = _product(vectors[rows], vectors[columns])
            i, j = np.nonzero(products >= threshold)
            pairs = zip(rows[i].tolist(), (j + columns.start).tolist(), strict=True)
            wanted = [(min(x, y), max(x, y)) for x, y in pairs if x != y]
            total += len(wanted)
            hits += sum(pair in found for pair in wanted)
    return hits / total if total else 1.0


def nearest(queries: Floats, base: Floats, k: int) -> tuple[Similarities, Ids]:
    """The k rows of `base` with the largest inner product, for each query; exact.

    queries [n, d], base [m, d] -> similarity float32 [n, min(k, m)], index int64 [n, min(k, m)],
    best first, ties by the lower index.
    """
    _check(queries, "queries")
    _check(base, "base")
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


def _exact_candidates(vectors: Floats, threshold: float) -> Iterator[tuple[Ids, Ids]]:
    """Pairs a < b over the threshold, from the upper triangle, block by block."""
    count = len(vectors)
    for rows in _ranges(count, BLOCK):
        left = np.asarray(vectors[rows], np.float32)
        for columns in _ranges(count, COLUMNS, rows.start):
            i, j = np.nonzero(_product(left, vectors[columns]) >= threshold)
            a, b = i + rows.start, j + columns.start
            upper = a < b
            yield a[upper], b[upper]


def _ivf_candidates(vectors: Floats, threshold: float, probes: int) -> Iterator[tuple[Ids, Ids]]:
    """Pairs over the threshold that either side finds in an inverted file."""
    faiss = load_faiss()
    count, dimension = vectors.shape
    lists = int(4 * count**0.5)
    coarse = faiss.IndexFlatIP(dimension)
    # float16 holds the vectors as they are stored, in half the memory
    index = faiss.IndexIVFScalarQuantizer(
        coarse, dimension, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.spherical = True
    index.cp.niter = 10
    index.cp.min_points_per_centroid = 1  # it would warn; few points a list are fine here
    sample = np.sort(np.random.default_rng(0).permutation(count)[: lists * 40])
    index.train(np.asarray(vectors[sample], np.float32))
    for rows in _ranges(count, BLOCK * 16):
        index.add(np.asarray(vectors[rows], np.float32))
    parameters = faiss.SearchParametersIVF(nprobe=min(probes, lists))
    for rows in _ranges(count, BLOCK):
        queries = np.asarray(vectors[rows], np.float32)
        limits, _, found = index.range_search(queries, threshold, params=parameters)
        own = cast(Ids, np.arange(rows.start, rows.stop))
        a = np.repeat(own, np.diff(np.asarray(limits, np.int64)))
        low, high = np.minimum(a, found), np.maximum(a, found)
        different = low != high
        yield low[different], high[different]


def _product(left: Floats, right: Floats) -> Similarities:
    return np.asarray(left, np.float32) @ np.asarray(right, np.float32).T


def _ranges(count: int, step: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, count, step):
        yield slice(first, min(first + step, count))


def _check(vectors: Floats, name: str) -> None:
    if vectors.ndim != 2:
        raise SluiceError(f"{name} has shape {vectors.shape}, not [rows, dimensions]", "")
    for rows in _ranges(len(vectors), BLOCK * 16):
        if not bool(np.isfinite(vectors[rows]).all()):
            raise SluiceError(
                f"{name} holds values that are not numbers, in rows {rows.start} to {rows.stop}",
                "write all-zero rows where there is no vector",
            )
