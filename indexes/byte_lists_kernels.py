"""Sums of products of bytes and 16-bit factors, and the best of them, compiled (numba)."""

from functools import partial
from typing import Any

import numpy as np
from numba import int32
from numpy.typing import NDArray

from infra.compiled import compiled

NOTHING = np.int64(-(2**62))  # the score of a place that holds no candidate
TILE = 32  # codes that stay in the first cache while several queries look at them

Bytes = NDArray[np.uint8]
Factors = NDArray[np.int16]
Ids = NDArray[np.int64]

loop = partial(compiled, nogil=True)


@loop
def dot(code: Any, factors: Any) -> Any:
    """The sum of products; every cast keeps the loop in 32 bits, where it is one instruction."""
    total = int32(0)
    for k in range(len(factors)):
        total = int32(total + int32(int32(code[k]) * int32(factors[k])))
    return total


@loop
def list_scores(codes: Bytes, factors: Factors, scores: NDArray[np.int32]) -> None:
    """scores[i, j] of query i and code j: which lists to look into."""
    for first in range(0, len(codes), TILE):
        for query in range(len(factors)):
            for j in range(first, min(first + TILE, len(codes))):
                scores[query, j] = dot(codes[j], factors[query])


@loop
def worse(scores: Any, positions: Any, a: Any, b: Any) -> Any:
    """Whether the candidate at place a comes after that at b."""
    return scores[a] < scores[b] or (scores[a] == scores[b] and positions[a] > positions[b])


@loop
def sink(scores: Any, positions: Any, size: Any) -> None:
    """Make a heap again whose first place, that of the worst, was changed."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            return
        if child + 1 < size and worse(scores, positions, child + 1, child):
            child += 1
        if not worse(scores, positions, child, place):
            return
        scores[place], scores[child] = scores[child], scores[place]
        positions[place], positions[child] = positions[child], positions[place]
        place = child


@loop
def position_at(data: Bytes, place: Any) -> Any:
    """Eight bytes, little-endian: they lie at any place."""
    found = np.int64(0)
    for k in range(8):
        found |= np.int64(data[place + k]) << np.int64(8 * k)
    return found


@loop
def consider(score: Any, position: Any, members: Bytes, scores: Any, positions: Any) -> None:
    """Take a candidate among the best of a query if it is better than the worst of them."""
    if score == scores[0] and position > positions[0]:
        return
    if len(members):
        if not 0 <= position < 8 * len(members):  # a damaged file must not end the process
            return
        if not (members[position >> 3] >> (position & 7)) & 1:
            return
    scores[0], positions[0] = score, position
    sink(scores, positions, len(scores))


@loop
def descend(scores: Any, positions: Any) -> None:
    """Turn a heap into its order, best first."""
    for last in range(len(scores) - 1, 0, -1):
        scores[0], scores[last] = scores[last], scores[0]
        positions[0], positions[last] = positions[last], positions[0]
        sink(scores, positions, last)


@loop
def scan(
    data: Bytes,
    starts: Ids,
    sizes: Ids,
    lists: Ids,
    asked: Ids,
    factors: Factors,
    members: Bytes,
    scores: Ids,
    positions: Ids,
) -> None:
    """scores, positions [n, k]: the best codes that n queries see, best first.

    Visit v is that of query asked[v] to list lists[v]; visits to one list follow each other.
    """
    scores[:] = NOTHING
    positions[:] = -1
    size = factors.shape[1]
    visit = 0
    while visit < len(lists):
        number, first = lists[visit], visit
        while visit < len(lists) and lists[visit] == number:
            visit += 1
        count, start = sizes[number], starts[number]
        codes = data[start : start + count * size].reshape((count, size))
        behind = start + count * size
        for tile in range(0, count, TILE):
            for v in range(first, visit):
                query = asked[v]
                for i in range(tile, min(tile + TILE, count)):
                    score = np.int64(dot(codes[i], factors[query]))
                    if score >= scores[query, 0]:
                        position = position_at(data, behind + 8 * i)
                        consider(score, position, members, scores[query], positions[query])
    for query in range(len(factors)):
        descend(scores[query], positions[query])
