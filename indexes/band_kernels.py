"""The compiled loops of the pair search (numba): codes in, pairs of rows out.

A code is the 256 bits of a row, as four words. Nothing here holds the interpreter's lock.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

Words = NDArray[np.uint64]

ONE, TWO, FOUR, TOP = (np.uint64(bits) for bits in (1, 2, 4, 56))
PAIRS = np.uint64(0x5555555555555555)
NIBBLES = np.uint64(0x3333333333333333)
BYTES = np.uint64(0x0F0F0F0F0F0F0F0F)
SUM = np.uint64(0x0101010101010101)
HALF, SIGN, SHIFT, UP = (np.uint32(bits) for bits in (0x7FFF, 0x8000, 13, 16))
# any odd numbers: a multilinear hash, of which the high bits are used
ODD_0, ODD_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
ODD_2, ODD_3 = np.uint64(0x94D049BB133111EB), np.uint64(0xD6E8FEB86659FD93)


# Sums of floats may be taken in any order: they only choose what is scored again.
fast = partial(compiled, nogil=True, fastmath=True)


@fast
def ones(x: Any) -> Any:
    """How many bits of the word are set (compiled to one instruction)."""
    x = x - ((x >> ONE) & PAIRS)
    x = (x & NIBBLES) + ((x >> TWO) & NIBBLES)
    x = (x + (x >> FOUR)) & BYTES
    return (x * SUM) >> TOP


@fast
def key(codes: Words, row: Any, mask: Words, shift: Any) -> Any:
    """A hash of the bits of a row's code that are in the mask: 64 - shift bits."""
    value = (codes[row, 0] & mask[0]) * ODD_0 + (codes[row, 1] & mask[1]) * ODD_1
    value += (codes[row, 2] & mask[2]) * ODD_2 + (codes[row, 3] & mask[3]) * ODD_3
    return np.int64(value >> shift)


@fast
def count_keys(codes: Words, mask: Words, shift: Any, first: int, starts: Any) -> int:
    """Where each of the keys first ... first + len(starts) - 2 starts, were the rows sorted.

    Returns how many rows have such a key. starts [keys + 1] is filled for `sort_by_key`, which
    moves each start on by one row of its key after the other: it is one entry ahead.
    """
    size = len(starts) - 1
    starts[:] = 0
    for row in range(len(codes)):
        place = key(codes, row, mask, shift) - first
        if 0 <= place < size:
            starts[place + 1] += 1
    for place in range(size):
        starts[place + 1] += starts[place]
    return starts[size]


@fast
def sort_by_key(codes: Words, mask: Words, shift: Any, first: int, starts: Any, rows: Any) -> None:
    """Fill `rows` by key, then by row; those of key k are rows[starts[k] : starts[k + 1]]."""
    size = len(starts) - 1
    for row in range(len(codes)):
        place = key(codes, row, mask, shift) - first
        if 0 <= place < size:
            rows[starts[place]] = row
            starts[place] += 1
    for place in range(size, 0, -1):  # each start has moved to its end
        starts[place] = starts[place - 1]
    starts[0] = 0


@fast
def first_table(x0: Any, x1: Any, x2: Any, x3: Any, masks: Words, last: int) -> int:
    """The first table, up to `last`, of whose key no bit is in x; last + 1 if there is none."""
    for table in range(last + 1):
        both = (x0 & masks[table, 0]) | (x1 & masks[table, 1])
        both |= (x2 & masks[table, 2]) | (x3 & masks[table, 3])
        if both == 0:
            return table
    return last + 1


@fast
def close_pairs(
    codes: Words,
    masks: Words,
    table: int,
    limit: int,
    known: int,
    starts: Any,
    rows: Any,
    state: NDArray[np.int64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
) -> int:
    """Fill a, b with pairs a < b, b >= known, that agree in a table's bits, `limit` bits apart.

    masks [t, 4]: the bits of each table; a pair is left to the first table that has it.
    state: bucket and place in it where to go on; it is moved. Returns how many pairs; the end
    is reached when state[0] == len(starts) - 1. Needs len(a) >= the largest bucket.
    """
    found = 0
    for bucket in range(state[0], len(starts) - 1):
        start, stop = starts[bucket], starts[bucket + 1]
        for place in range(max(start, state[1]), stop):
            high = rows[place]
            if high < known:
                continue
            if found + place - start > len(a):
                state[0], state[1] = bucket, place
                return found
            c0, c1, c2, c3 = codes[high, 0], codes[high, 1], codes[high, 2], codes[high, 3]
            for other in range(start, place):
                low = rows[other]
                x0, x1 = c0 ^ codes[low, 0], c1 ^ codes[low, 1]
                x2, x3 = c2 ^ codes[low, 2], c3 ^ codes[low, 3]
                if ones(x0) + ones(x1) + ones(x2) + ones(x3) > limit:
                    continue
                if first_table(x0, x1, x2, x3, masks, table) == table:
                    a[found], b[found] = low, high
                    found += 1
    state[0] = len(starts) - 1
    return found


@fast
def half_products(vectors: Any, a: Any, b: Any) -> Any:
    """Inner products float32 [m] of rows a[i] and b[i] of float16 vectors, given as uint16 [n, d].

    A half's exponent and fraction, moved to a float's place, are the number over 2^112.
    Fast where the same b comes many times in a row.
    """
    dimension = vectors.shape[1]
    left, right = np.empty(dimension, np.uint32), np.empty(dimension, np.uint32)
    x, y = left.view(np.float32), right.view(np.float32)
    products = np.empty(len(a), np.float32)
    scale = np.float32(2.0**112)
    for i in range(len(a)):
        if i == 0 or b[i] != b[i - 1]:
            row = vectors[b[i]]
            for k in range(dimension):
                half = np.uint32(row[k])
                right[k] = ((half & HALF) << SHIFT) | ((half & SIGN) << UP)
            for k in range(dimension):
                y[k] *= scale
        row = vectors[a[i]]
        for k in range(dimension):
            half = np.uint32(row[k])
            left[k] = ((half & HALF) << SHIFT) | ((half & SIGN) << UP)
        for k in range(dimension):
            x[k] *= scale
        total = np.float32(0)
        for k in range(dimension):
            total += x[k] * y[k]
        products[i] = total
    return products
