"""The compiled loops that find rows with equal words: see `curation.dedup.stars`."""

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

Ids = NDArray[np.int64]
Words = NDArray[np.uint64]

# any odd numbers: a multilinear hash, of which the high bits are used
ODD_0, ODD_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
MIXED = np.uint64(0x94D049BB133111EB)
HALF = np.uint64(32)


@compiled
def row_keys(words: Words, bits: np.uint64) -> Words:
    """Of each row a hash of its words in the high bits, its number in the low `bits`."""
    keys = np.empty(len(words), np.uint64)
    for row in range(len(words)):
        value = (words[row, 0] ^ (words[row, 0] >> HALF)) * ODD_0
        value += (words[row, 1] ^ (words[row, 1] >> HALF)) * ODD_1
        value = (value ^ (value >> HALF)) * MIXED
        keys[row] = ((value >> bits) << bits) | np.uint64(row)
    return keys


@compiled
def possible_copies(keys: Words, bits: np.uint64) -> int:
    """How many sorted keys have the hash of the one before."""
    count = 0
    for place in range(1, len(keys)):
        count += keys[place] >> bits == keys[place - 1] >> bits
    return count


@compiled
def copies(keys: Words, bits: np.uint64, words: Words, first: Ids, copy: Ids) -> int:
    """Fill first, copy from sorted keys, which lose their order; returns how many there are.

    The different words of one hash, hardly ever two, are kept in front of their run.
    """
    mask = (np.uint64(1) << bits) - np.uint64(1)
    count = start = differing = 0
    for place in range(len(keys)):
        if place == 0 or keys[place] >> bits != keys[start] >> bits:
            start, differing = place, 0
        row = np.int64(keys[place] & mask)
        if words[row, 0] == 0 and words[row, 1] == 0:
            continue
        found = -1
        for other in range(start, start + differing):
            before = np.int64(keys[other] & mask)
            if words[before, 0] == words[row, 0] and words[before, 1] == words[row, 1]:
                found = before
                break
        if found >= 0:
            first[count], copy[count] = found, row
            count += 1
        else:
            front = start + differing
            keys[front], keys[place] = keys[place], keys[front]
            differing += 1
    return count
