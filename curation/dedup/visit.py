"""The walk through all rows in order of preference: see `curation.dedup.choice`."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = NDArray[np.signedinteger[Any]]
Chosen = tuple[Places, NDArray[np.float32], Places]

FEW = 5_000  # rows: 20 ms in Python, for which importing numba does not pay


def walk(rows: int) -> Callable[..., Chosen]:
    """`visit` for so many rows: compiled where there are more than FEW."""
    return visit if rows <= FEW else _compiled()


@cache
def _compiled() -> Callable[..., Chosen]:
    from infra.compiled import compiled

    return compiled(visit)


def visit(
    order: Places,
    rank: Places,
    hashes_of: Places,
    starts: Places,
    early: Places,
    values: NDArray[np.float32],
    kinds: Places,
    close_starts: Places,
    close: Places,
    close_values: NDArray[np.float32],
    hashed: int,
) -> Chosen:
    """Twin (-1: kept), similarity and rung of each of n nodes, visited in `order`.

    The neighbours of node i that come before it are early[starts[i]:starts[i + 1]], the best
    first, with `values` and `kinds`; those of the node that stands for equal hashes, both ways,
    close[close_starts[i]:close_starts[i + 1]], of rung `hashed`.
    """
    count = len(rank)
    twin, rung = np.full(count, -1, rank.dtype), np.zeros(count, kinds.dtype)
    similarity = np.zeros(count, np.float32)
    kept = np.ones(count, np.bool_)
    holder = np.full(count, -1, rank.dtype)  # of equal hashes: the one that is kept
    target = np.full(count, -1, rank.dtype)  # of equal hashes: the kept row they go for, and
    target_value = np.ones(count, np.float32)  # how close it is
    for node in order:
        same = hashes_of[node]
        if target[same] < 0:
            for at in range(close_starts[same], close_starts[same + 1]):
                found, best = holder[close[at]], target[same]
                if found < 0:
                    continue
                nearer = best < 0 or close_values[at] > target_value[same]
                if nearer or (close_values[at] == target_value[same] and rank[found] < rank[best]):
                    target[same], target_value[same] = found, close_values[at]
        if target[same] >= 0:
            twin[node], similarity[node] = target[same], target_value[same]
            rung[node], kept[node] = hashed, False
            continue
        for at in range(starts[node], starts[node + 1]):
            if kept[early[at]]:
                twin[node], similarity[node], rung[node] = early[at], values[at], kinds[at]
                kept[node] = False
                break
        if kept[node]:
            holder[same] = target[same] = node
    return twin, similarity, rung
