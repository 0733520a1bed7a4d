"""The compiled loops of `indexes.hamming` (numba): arrays in, arrays out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

ODD, PAIRS, NIBBLES, BYTES = (
    np.uint64(mask)
    for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
)
S1, S2, S4, S56 = (np.uint64(bits) for bits in (1, 2, 4, 56))
ONE = np.uint64(1)
ROW_BITS = np.uint64(38)  # of a key, below the bits of a band
ROW_MASK = (ONE << ROW_BITS) - ONE


@compiled
def ones(word: np.uint64) -> np.uint64:
    """How many bits of a word are set."""
    word = word - ((word >> S1) & ODD)
    word = (word & PAIRS) + ((word >> S2) & PAIRS)
    word = (word + (word >> S4)) & NIBBLES
    return (word * BYTES) >> S56


@compiled
def distance(left: NDArray[np.uint64], i: int, right: NDArray[np.uint64], j: int) -> int:
    """The largest distance of the hashes of row i and of row j."""
    largest = 0
    for place in range(left.shape[1]):
        largest = max(largest, int(ones(left[i, place] ^ right[j, place])))
    return largest


@compiled
def met_before(difference: np.uint64, bands: NDArray[np.int64], band: int) -> bool:
    """Whether two hashes were compared already, being close in a band before this one."""
    for earlier in range(band):
        part = difference >> np.uint64(bands[earlier, 0])
        part &= (ONE << np.uint64(bands[earlier, 1])) - ONE
        if ones(part) <= bands[earlier, 2]:
            return True
    return False


@compiled
def bucket_keys(table: NDArray[np.uint64], first: int, width: int) -> NDArray[np.uint64]:
    """The bucket of each row's first hash, `width` bits from `first` on, and the row below it."""
    keys = np.empty(len(table), np.uint64)
    mask = (ONE << np.uint64(width)) - ONE
    for row in range(len(table)):
        bucket = (table[row, 0] >> np.uint64(first)) & mask
        keys[row] = (bucket << ROW_BITS) | np.uint64(row)
    return keys


@compiled
def split_keys(
    keys: NDArray[np.uint64], table: NDArray[np.uint64], order: Any, starts: Any
) -> None:
    """From sorted keys where each bucket starts, and their rows; in their place the first hashes.

    order [n], starts [buckets + 1]: filled.
    """
    starts[:] = 0
    for place in range(len(keys)):
        starts[np.int64(keys[place] >> ROW_BITS) + 1] += 1
        order[place] = np.int64(keys[place] & ROW_MASK)
        keys[place] = table[order[place], 0]
    for bucket in range(len(starts) - 1):
        starts[bucket + 1] += starts[bucket]


@compiled
def band_pairs(
    table: NDArray[np.uint64],
    hashes: NDArray[np.uint64],
    order: Any,
    starts: Any,
    flips: NDArray[np.int64],
    bands: NDArray[np.int64],
    band: int,
    radius: int,
    known: int,
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    distances: NDArray[np.uint8],
    most: int,
) -> int:
    """Write the pairs of one band while there is room, and return how many there are.

    table [n, k]; hashes [n]: the first of each row, by bucket of the band; order [n]: their rows;
    starts: where each bucket starts; flips: what close buckets differ in. Pairs of two rows
    before `known` are left out. Stops soon after `most`.
    """
    count = 0
    # Where few rows are new, buckets are looked up for these alone; else for the lower of two.
    few = 2 * known > len(order)
    for bucket in range(len(starts) - 1):
        for i in range(starts[bucket], starts[bucket + 1]):
            if few and order[i] < known:
                continue
            hashed = hashes[i]
            for flip in flips:
                other = bucket ^ flip
                if other < bucket and not few:
                    continue
                start = i + 1 if flip == 0 and not few else starts[other]
                for j in range(start, starts[other + 1]):
                    if few and order[j] >= order[i]:
                        break
                    difference = hashed ^ hashes[j]
                    if ones(difference) > radius or met_before(difference, bands, band):
                        continue
                    far = distance(table, order[i], table, order[j])
                    low, high = min(order[i], order[j]), max(order[i], order[j])
                    if far > radius or high < known:
                        continue
                    if count < len(a):
                        a[count], b[count], distances[count] = low, high, far
                    count += 1
            if count > most:
                return count
    return count


@compiled
def closest(
    queries: NDArray[np.uint64],
    base: NDArray[np.uint64],
    index: NDArray[np.int64],
    distances: NDArray[np.uint8],
) -> None:
    """For each query the row of `base` with the smallest distance, the lowest of equals."""
    for i in range(len(queries)):
        best = 65
        for j in range(len(base)):
            far = distance(queries, i, base, j)
            if far < best:
                best = far
                index[i] = j
        distances[i] = best
