"""Which 64-bit hashes are close: all pairs within a radius, and the closest of a set.

Multi-index hashing (Norouzi, Punjani, Fleet 2012, arXiv:1307.2982): the bits are cut into m
bands. If two hashes differ in at most r = q m + a bits (a < m), then they differ in at most q
bits in one of the first a + 1 bands, or in at most q - 1 in one of the others. So only buckets
of a band that are that close are compared: exact, with no candidate missed.
"""

import importlib
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.errors import SluiceError

BITS = 64
MAX_PAIRS = 50_000_000  # or one a row, where there are more rows; 1.3 GB while they are sorted
WIDEST = 24  # bits of a band: a table of 2**24 buckets takes 64 MB, of 2**31 rows or more 128
FLIPS = 1 << 16  # numbers looked through at once
LOOKUP = 4  # what finding a bucket costs, in comparisons of two hashes

Hashes = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.int64]
Distances = npt.NDArray[np.uint8]


def hamming_pairs(
    hashes: Hashes, radius: int, *, known: int = 0, max_pairs: int | None = None
) -> tuple[Ids, Ids, Distances]:
    """All pairs of rows a < b within `radius`, sorted by (a, b): int64 a, int64 b, uint8 distance.

    hashes: [n] or [n, k]. Of k hashes each must be within the radius; the distance of two rows
    is the largest of theirs. known: rows before this one were searched before; pairs of two of them
    are left out, and not looked at. Raises SluiceError where there are more than `max_pairs`
    (None: MAX_PAIRS, or one a row): group equal rows first.
    """
    table = _table(hashes)
    max_pairs = max(MAX_PAIRS, len(table)) if max_pairs is None else max_pairs
    if not 0 <= radius < BITS:
        raise SluiceError(f"a radius of {radius} bits of {BITS}", f"use one from 0 to {BITS - 1}")
    bands = _bands(len(table), radius, known)
    found = [
        _band_pairs(table, radius, bands, band, known, max_pairs)
        for band in range(len(bands))
        if bands[band, 2] >= 0
    ]
    a, b, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if len(a) > max_pairs:
        raise _too_many(table, radius, max_pairs)
    del found
    order = np.lexsort((b, a))
    return a[order], b[order], distance[order]


def closest(queries: Hashes, base: Hashes) -> tuple[Ids, Distances]:
    """The row of `base` closest to each query (the lowest of equals), and its distance.

    queries [n] or [n, k], base [m] or [m, k]; m > 0. Compares all: n m popcounts.
    """
    left, right = _table(queries), _table(base)
    index, distance = np.zeros(len(left), np.int64), np.full(len(left), BITS, np.uint8)
    _kernels().closest(left, right, index, distance)
    return index, distance


def _table(hashes: Hashes) -> Hashes:
    """[n] or [n, k] -> [n, k]"""
    return np.ascontiguousarray(hashes if hashes.ndim > 1 else hashes[:, None], np.uint64)


def _kernels() -> Any:
    """The compiled loops; numba is imported when they are first needed."""
    return importlib.import_module("indexes.hamming_kernels")


def _bands(count: int, radius: int, known: int) -> npt.NDArray[np.int64]:
    """The cut that costs least: int64 [m, 3], each band's first bit, width and radius."""
    cuts = [_cut(bands, radius) for bands in range(1, BITS + 1)]
    cuts = [cut for cut in cuts if cut[:, 1].max() <= WIDEST]
    return min(cuts, key=lambda cut: _cost(cut, count, known))


def _cut(bands: int, radius: int) -> npt.NDArray[np.int64]:
    edges = np.arange(bands + 1) * BITS // bands
    each, extra = divmod(radius, bands)
    radii = np.where(np.arange(bands) <= extra, each, each - 1)
    return np.stack([edges[:-1], np.diff(edges), radii], axis=1)


def _cost(cut: npt.NDArray[np.int64], count: int, known: int) -> float:
    """Comparisons of hashes, about, were the hashes random."""
    total = 0.0
    for _, width, radius in cut.tolist():
        close = sum(comb(width, bits) for bits in range(radius + 1))
        buckets = min(2 * (count - known), count, 2**width)
        pairs = (count * count - known * known) / 2 ** (width + 1)
        total += close * (buckets * LOOKUP + pairs) + 2**width
    return total


def _band_pairs(
    table: Hashes,
    radius: int,
    bands: npt.NDArray[np.int64],
    band: int,
    known: int,
    max_pairs: int,
) -> tuple[Ids, Ids, Distances]:
    """The pairs that are close in this band and in none before it."""
    first, width, near = bands[band].tolist()
    # Bucket and row in one number: eight bytes a row, sorted where they are, and then the hashes.
    hashed = _kernels().bucket_keys(table, first, width)
    hashed.sort()
    index = np.int32 if len(table) < 2**31 else np.int64
    order, starts = np.empty(len(table), index), np.empty((1 << width) + 1, index)
    _kernels().split_keys(hashed, table, order, starts)
    search = (table, hashed, order, starts, _flips(width, near), bands, band, radius, known)
    room = min(len(table) + 1024, max_pairs + 1)
    while True:
        a, b = np.empty((2, room), np.int64)
        distance = np.empty(room, np.uint8)
        count = _kernels().band_pairs(*search, a, b, distance, max_pairs)
        if count > max_pairs:  # the bands after it would meet all of them again
            raise _too_many(table, radius, max_pairs)
        if count <= room:
            return a[:count], b[:count], distance[:count]
        room = count


def _flips(width: int, near: int) -> Ids:
    """All numbers of `width` bits of which `near` or fewer are set, ascending."""
    found: list[Ids] = []
    for start in range(0, 1 << width, FLIPS):
        numbers = np.arange(start, min(start + FLIPS, 1 << width))
        found.append(numbers[np.bitwise_count(numbers) <= near])
    return np.concatenate(found)


def _too_many(table: Hashes, radius: int, max_pairs: int) -> SluiceError:
    return SluiceError(
        f"more than {max_pairs} pairs of {len(table)} hashes are within {radius} bits",
        "lower the radius",
    )
