"""The choice of who stays: thresholds and the keep order applied to stored pairs.

Rows are visited in order of preference; one is dropped if, and only if, a pair at or above the
threshold of its kind joins it to a row already kept. So every dropped row has a kept twin, and
no chain drops a row whose only close neighbour was itself dropped (as SemDeDup does, Abbas et
al. 2023, arXiv:2303.09540).
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.dedup.visit import walk
from curation.rules_settings import DedupSettings

EXACT_RUNG, PIXELS_RUNG, PERCEPTUAL_RUNG, NEAR_RUNG = range(4)  # then one for each of `near`
STARS = ("exact", "pixels", "perceptual")

Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Duplicates:
    """The rows that are duplicates of a row before them, sorted by id; all arrays [n]."""

    ids: Ids
    twins: Ids  # the row that stands for the group; kept, where the duplicate passed the rules
    similarity: Floats  # to the twin
    rung: Ids  # what joins it to its twin: 0 bytes, 1 pixels, 2 hashes, 3 ... the searches `near`
    exact: Bools  # its bytes equal those of a row before it
    pixels: Bools  # its pixels equal those of a row before it that has other bytes

    def part(self, place: slice) -> "Duplicates":
        return Duplicates(*(getattr(self, name)[place] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Pairs:
    """Pairs of nodes 0..n-1 at or above their threshold; all arrays [m]."""

    a: Ids
    b: Ids
    similarity: Floats
    rung: Ids


def edge_nodes(edges: pa.Table) -> Ids:
    """The ids that take part in any pair, sorted."""
    return np.unique(np.concatenate([edges["a"].to_numpy(), edges["b"].to_numpy()]))


def tie_words(uids: Sequence[str], sha256: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """Words [n, 3] that order rows by uid, and rows of one uid by their bytes."""
    data = b"".join(
        _uid_bytes(uid) + bytes.fromhex((content or "0" * 16)[:16])
        for uid, content in zip(uids, sha256, strict=True)
    )
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 3)


def _uid_bytes(uid: str) -> bytes:
    """A uid is 32 hex digits; where a source has others, they are hashed."""
    try:
        found = bytes.fromhex(uid)
    except ValueError:
        found = b""
    return found if len(found) == 16 else hashlib.sha256(uid.encode()).digest()[:16]


def preference(
    columns: Sequence[npt.NDArray[np.float64]], ties: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float64]:
    """One number a row, all different, the highest for the row to keep: float64 [n].

    columns: each [n], in order, the highest first and NaN last; ties: words [n, k], lowest first.
    """
    count = len(ties)
    keys = [np.where(np.isnan(column), np.inf, -column) for column in columns]
    order = np.lexsort((*ties.T[::-1], *keys[::-1])) if count else np.empty(0, np.int64)
    found = np.empty(count)
    found[order] = np.arange(count, 0, -1)
    return found


def find_duplicates(
    edges: pa.Table,
    nodes: Ids,
    passing: Bools,
    priority: npt.NDArray[np.float64],
    settings: DedupSettings,
) -> Duplicates:
    """Choose greedily who stays: rows that pass the rules first, then priority, then lowest id.

    nodes: the ids in `edges`, sorted; passing, priority: of those rows (NaN comes last).
    The order of `edges` does not matter. Edges of a rung that is switched off count for nothing.
    """
    count = len(nodes)
    preferred = np.where(np.isnan(priority), -np.inf, priority)
    rank = np.empty(count, np.int64)
    rank[np.lexsort((nodes, -preferred, ~passing))] = np.arange(count)

    bytes_of, pixels_of, group, hashes_of, pairs = _graph(edges, nodes, settings)
    # Copies act as one, in the place of the best of them.
    best = _best(group, rank)
    standing = _best(bytes_of, rank), _best(pixels_of, rank)
    chosen, similarity, rung = greedy(pairs, rank[best], hashes_of)

    copy = best != np.arange(count)
    dropped = chosen[group] >= 0
    found = np.flatnonzero(copy | dropped)
    theirs = group[found]
    twins = np.where(dropped[found], best[chosen[theirs]], best[found])
    own = _copy_rung(bytes_of[found] == bytes_of[twins], settings)
    is_exact = (standing[0] != np.arange(count))[found] & settings.exact
    is_pixels = (bytes_of != bytes_of[standing[1]])[found] & settings.pixels
    return Duplicates(
        ids=nodes[found],
        twins=nodes[twins],
        similarity=np.where(dropped[found], similarity[theirs], np.float32(1)),
        rung=np.where(dropped[found], rung[theirs], own),
        exact=is_exact,
        pixels=is_pixels,
    )


def greedy(pairs: Pairs, rank: Ids, hashes_of: Ids | None = None) -> tuple[Ids, Floats, Ids]:
    """Visit nodes by ascending rank; drop one iff a pair joins it to a node already kept.

    rank: [n]. hashes_of: the node that stands for those of equal perceptual hashes, [n]; pairs
    of the perceptual rung are given for these alone, and count for all they stand for.
    Returns for each node the kept node it was dropped for (-1: it is kept), their similarity and
    rung: the first rung that has one, then the most similar, then the lowest rank.
    """
    count = len(rank)
    hashes_of = np.arange(count) if hashes_of is None else hashes_of
    hashed = pairs.rung == PERCEPTUAL_RUNG
    touched = np.bincount(hashes_of, minlength=count)[hashes_of] > 1
    touched[pairs.a] = touched[pairs.b] = True
    visited = np.flatnonzero(touched)
    order = visited[np.argsort(rank[visited])]
    earlier = _earlier(pairs, ~hashed, rank)
    return walk(len(order))(
        order, rank, hashes_of, *earlier, *_both_ways(pairs, hashed, count), PERCEPTUAL_RUNG
    )


def _graph(
    edges: pa.Table, nodes: Ids, settings: DedupSettings
) -> tuple[Ids, Ids, Ids, Ids, Pairs]:
    """The stars and pairs of stored edges, as places among `nodes`.

    Returns for each node who stands for its equals: by bytes, by pixels, in the group that acts
    as one, by perceptual hashes; and the pairs at or above their thresholds.
    """
    a = np.searchsorted(nodes, edges["a"].to_numpy())
    b = np.searchsorted(nodes, edges["b"].to_numpy())
    similarity = edges["similarity"].to_numpy()
    alone = np.arange(len(nodes))

    def star(taken: Bools) -> Ids:
        centre = alone.copy()
        centre[b[taken]] = a[taken]
        return centre

    active = settings.active
    names = [*STARS, *(each.vectors for each in settings.near)]
    rung = _rungs(edges["kind"], names)
    by_bytes = star(rung == EXACT_RUNG)
    # Copies are duplicates on every later rung, too: what they are is asked of one of them.
    by_pixels = star(rung == PIXELS_RUNG)[by_bytes] if any(active[1:]) else by_bytes
    group = by_pixels if any(active) else alone
    a, b = group[a], group[b]
    bounds = [np.inf, np.inf, *settings.thresholds[PERCEPTUAL_RUNG:], np.inf]  # last: no rung
    least = np.where([*active, False], bounds, np.inf).astype(np.float32)
    hits = similarity >= least[rung]
    equal = hits & (rung == PERCEPTUAL_RUNG) & (similarity == 1)
    hits &= ~equal
    pairs = Pairs(a[hits], b[hits], similarity[hits], rung[hits].astype(np.int64))
    return by_bytes, by_pixels, group, star(equal), pairs


def _rungs(kinds: pa.ChunkedArray, names: Sequence[str]) -> npt.NDArray[np.int32]:
    """The rung of each pair, the place of its kind among `names`; -1 where it is not there."""
    rungs = pc.index_in(kinds.cast(pa.string()), pa.array(names, pa.string()))
    return rungs.fill_null(-1).to_numpy()


def _both_ways(pairs: Pairs, chosen: Bools, count: int) -> tuple[Ids, Ids, Floats]:
    """Where the neighbours of each node start, the neighbours, and their similarities."""
    a, b, similarity = pairs.a[chosen], pairs.b[chosen], pairs.similarity[chosen]
    node = np.concatenate([a, b])
    order = np.argsort(node, kind="stable")
    other, value = np.concatenate([b, a]), np.concatenate([similarity, similarity])
    return _starts(node, count), other[order], value[order]


def _earlier(pairs: Pairs, chosen: Bools, rank: Ids) -> tuple[Ids, Ids, Floats, Ids]:
    """Where the earlier neighbours of each node start; they, by rung, similarity and rank.

    And their similarities and rungs.
    """
    a, b = pairs.a[chosen], pairs.b[chosen]
    similarity, rung = pairs.similarity[chosen], pairs.rung[chosen]
    swap = rank[a] > rank[b]
    early, late = np.where(swap, b, a), np.where(swap, a, b)
    order = np.lexsort((rank[early], -similarity, rung, late))
    return _starts(late, len(rank)), early[order], similarity[order], rung[order]


def _starts(nodes: Ids, count: int) -> Ids:
    """Where each of 0..count-1 starts among `nodes` when they are sorted: int64 [count + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(nodes, minlength=count))])


def _best(group: Ids, rank: Ids) -> Ids:
    """For each node the node of the lowest rank in its group: int64 [n]."""
    lowest = np.full(len(rank), len(rank))
    np.minimum.at(lowest, group, rank)
    return np.argsort(rank)[lowest[group]] if len(rank) else group


def _copy_rung(same_bytes: Bools, settings: DedupSettings) -> Ids:
    """What to call copies of a row that stays: the first rung that is on and joins them."""
    active = settings.active
    later = next((rung for rung in range(PERCEPTUAL_RUNG, len(active)) if active[rung]), 0)
    copied = PIXELS_RUNG if settings.pixels else later
    return np.where(same_bytes & settings.exact, EXACT_RUNG, copied)
