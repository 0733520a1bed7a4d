"""Inner products of stored vectors and queries, compiled (numba): no copy, no interpreter's lock.

Stored vectors are float16, given as uint16 [n, d]. A half's exponent and fraction, moved to a
float's place, are the number over 2^112.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

HALF, SIGN, SHIFT, UP = (np.uint32(bits) for bits in (0x7FFF, 0x8000, 13, 16))
SCALE = np.float32(2.0**112)
LANES = 64  # partial sums of a product: what vector units add at a time

Halves = NDArray[np.uint16]
Floats = NDArray[np.float32]

# No `fastmath`: the order of a sum is as written, so that a similarity has the same bits however
# the pair was found.
loop = partial(compiled, nogil=True)


@loop
def widen(row: Any, held: Any, wide: Any) -> None:
    """wide [d] float32 = row; held uint32 is the same memory."""
    for k in range(len(row)):
        half = np.uint32(row[k])
        held[k] = ((half & HALF) << SHIFT) | ((half & SIGN) << UP)
    for k in range(len(row)):
        wide[k] *= SCALE


@loop
def product(wide: Any, query: Any, lanes: Any) -> Any:
    """The sum over LANES partial sums, which are added in halves: one order for every caller."""
    size = len(wide)
    whole = size - size % LANES
    lanes[:] = np.float32(0)
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += wide[start + lane] * query[start + lane]
    for lane in range(size - whole):
        lanes[lane] += wide[whole + lane] * query[whole + lane]
    half = LANES // 2
    while half:
        for lane in range(half):
            lanes[lane] += lanes[half + lane]
        half //= 2
    return lanes[0]


@loop
def pair_products(
    vectors: Halves, rows: Any, queries: Floats, asked: Any, places: Any, products: Floats
) -> None:
    """products[places[i]] = vectors[rows[i]] . queries[asked[i]]"""
    held = np.empty(vectors.shape[1], np.uint32)
    wide, lanes = held.view(np.float32), np.empty(LANES, np.float32)
    for i in range(len(rows)):
        widen(vectors[rows[i]], held, wide)
        products[places[i]] = product(wide, queries[asked[i]], lanes)


@loop
def all_products(vectors: Halves, rows: Any, queries: Floats, products: Floats) -> None:
    """products[j, i] = vectors[rows[i]] . queries[j]"""
    held = np.empty(vectors.shape[1], np.uint32)
    wide, lanes = held.view(np.float32), np.empty(LANES, np.float32)
    for i in range(len(rows)):
        widen(vectors[rows[i]], held, wide)
        for j in range(len(queries)):
            products[j, i] = product(wide, queries[j], lanes)
