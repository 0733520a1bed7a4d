"""The compiled loops that find rows with equal words: see `curation.dedup.stars` and `older`."""

from typing import Any

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


@compiled
def matches(
    keys: Words, older_keys: Words, bits: np.uint64, words: Words, older: Words, found: Any
) -> None:
    """Fill found [n]: of each of `words` the row of `older` that it gets, -1 where there is none.

    keys, older_keys: sorted, of both; the older ones lose their order. What an older key's row was
    given to is moved in front of its run, so that no row is looked at again.
    """
    mask = (np.uint64(1) << bits) - np.uint64(1)
    free = stop = 0  # of older keys: the run of the hash at hand that is not given away
    for place in range(len(keys)):
        hashed = keys[place] >> bits
        while free < len(older_keys) and older_keys[free] >> bits < hashed:
            free += 1
        stop = max(stop, free)
        while stop < len(older_keys) and older_keys[stop] >> bits == hashed:
            stop += 1
        row = np.int64(keys[place] & mask)
        found[row] = -1
        for at in range(free, stop):
            taken = older_keys[at]
            other = np.int64(taken & mask)
            if older[other, 0] == words[row, 0] and older[other, 1] == words[row, 1]:
                for back in range(at, free, -1):
                    older_keys[back] = older_keys[back - 1]
                older_keys[free] = taken
                found[row] = other
                free += 1
                break
