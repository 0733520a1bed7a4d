"""The choice of who stays: thresholds and the keep order applied to stored pairs.

Rows are visited in order of preference; one is dropped if, and only if, a pair at or above the
threshold of its kind joins it to a row already kept. So every dropped row has a kept twin, and
no chain drops a row whose only close neighbour was itself dropped (as SemDeDup does, Abbas et
al. 2023, arXiv:2303.09540).
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.dedup.visit import walk
from curation.rules_settings import DedupSettings

EXACT_RUNG, PIXELS_RUNG, PERCEPTUAL_RUNG, NEAR_RUNG = range(4)  # then one for each of `near`
STARS = ("exact", "pixels", "perceptual")

Ids = npt.NDArray[np.int64]
Nodes = npt.NDArray[np.signedinteger[Any]]  # places among nodes, int32 where these are few enough
Rungs = npt.NDArray[np.signedinteger[Any]]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Duplicates:
    """The rows that are duplicates of a row before them, sorted by id; all arrays [n]."""

    ids: Ids
    twins: Ids  # the row that stands for the group; kept, where the duplicate passed the rules
    similarity: Floats  # to the twin
    rung: Rungs  # what joins it to its twin: 0 bytes, 1 pixels, 2 hashes, 3 ... the searches `near`
    exact: Bools  # its bytes equal those of a row before it
    pixels: Bools  # its pixels equal those of a row before it that has other bytes

    def part(self, place: slice) -> "Duplicates":
        return Duplicates(*(getattr(self, name)[place] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Pairs:
    """Pairs of nodes 0..n-1 at or above their threshold; all arrays [m]."""

    a: Nodes
    b: Nodes
    similarity: Floats
    rung: Rungs


@dataclass(frozen=True)
class Graph:
    """Who stands for whom among nodes 0..n-1, and their pairs; all arrays [n]."""

    bytes_of: Nodes  # the node that stands for those of equal bytes
    pixels_of: Nodes  # of equal pixels
    group: Nodes  # of those that act as one
    hashes_of: Nodes  # of equal perceptual hashes
    pairs: Pairs


def edge_nodes(edges: pa.Table) -> Ids:
    """The ids that take part in any pair, sorted."""
    # One end after the other, so that what is sorted at once is less.
    ends = [np.unique(edges[name].to_numpy()) for name in ("a", "b")]
    return np.union1d(*ends)


def tie_words(uids: Sequence[str], sha256: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """Words [n, 3] that order rows by uid, and rows of one uid by their bytes."""
    words = np.empty((len(uids), 3), np.uint64)
    words[:, :2] = np.frombuffer(_uids_bytes(uids), ">u8").reshape(-1, 2)
    contents = bytes.fromhex("".join([(content or "0" * 16)[:16] for content in sha256]))
    words[:, 2] = np.frombuffer(contents, ">u8")
    return words


def _uids_bytes(uids: Sequence[str]) -> bytes:
    """All at once, which takes a fifth of the time, where each is 32 hex digits."""
    if {len(uid) for uid in uids} == {32}:
        with contextlib.suppress(ValueError):
            found = bytes.fromhex("".join(uids))
            if len(found) == 16 * len(uids):  # white space is skipped
                return found
    return b"".join(map(_uid_bytes, uids))


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
    return choose(nodes, graph_of(edges, nodes, settings), ranks(passing, priority), settings)


def ranks(passing: Bools, priority: npt.NDArray[np.float64]) -> Nodes:
    """The place of each node among all, in the order they are visited: [n]."""
    order = np.lexsort((np.where(np.isnan(priority), np.inf, -priority), ~passing))
    return _inverse(order.astype(_index(len(order))))


def choose(nodes: Ids, graph: Graph, rank: Nodes, settings: DedupSettings) -> Duplicates:
    """`find_duplicates` of a graph that is made, by the ranks of its nodes."""
    # Copies act as one, in the place of the best of them.
    best = _best(graph.group, rank)
    chosen, similarity, rung = greedy(graph.pairs, rank[best], graph.hashes_of)
    found = np.flatnonzero((best != np.arange(len(nodes))) | (chosen[graph.group] >= 0))
    theirs = graph.group[found]
    dropped = chosen[theirs] >= 0
    twins = np.where(dropped, best[chosen[theirs]], best[found])
    similarity = np.where(dropped, similarity[theirs], np.float32(1))
    rung = rung[theirs]
    del best, chosen, theirs
    bytes_of, pixels_of = graph.bytes_of, graph.pixels_of
    own = _copy_rung(bytes_of[found] == bytes_of[twins], settings)
    is_exact = (_best(bytes_of, rank)[found] != found) & settings.exact
    standing = _best(pixels_of, rank)[found]
    is_pixels = (bytes_of[found] != bytes_of[standing]) & settings.pixels
    return Duplicates(
        ids=nodes[found],
        twins=nodes[twins],
        similarity=similarity,
        rung=np.where(dropped, rung, own),
        exact=is_exact,
        pixels=is_pixels,
    )


def greedy(
    pairs: Pairs, rank: Nodes, hashes_of: Nodes | None = None
) -> tuple[Nodes, Floats, Rungs]:
    """Visit nodes by ascending rank; drop one iff a pair joins it to a node already kept.

    rank: [n]. hashes_of: the node that stands for those of equal perceptual hashes, [n]; pairs
    of the perceptual rung are given for these alone, and count for all they stand for.
    Returns for each node the kept node it was dropped for (-1: it is kept), their similarity and
    rung: the first rung that has one, then the most similar, then the lowest rank.
    """
    count = len(rank)
    hashes_of = np.arange(count, dtype=rank.dtype) if hashes_of is None else hashes_of
    hashed = pairs.rung == PERCEPTUAL_RUNG
    touched = np.bincount(hashes_of, minlength=count)[hashes_of] > 1
    touched[pairs.a] = touched[pairs.b] = True
    visited = np.flatnonzero(touched).astype(rank.dtype)
    order = visited[np.argsort(rank[visited])]
    del touched, visited
    earlier = _earlier(pairs, ~hashed, rank)
    return walk(len(order))(
        order, rank, hashes_of, *earlier, *_both_ways(pairs, hashed, count), PERCEPTUAL_RUNG
    )


def graph_of(edges: pa.Table, nodes: Ids, settings: DedupSettings) -> Graph:
    """Stored edges as stars and pairs at or above their thresholds, by places among `nodes`."""
    index = _index(len(nodes))
    a, b = (np.searchsorted(nodes, edges[end].to_numpy()).astype(index) for end in ("a", "b"))
    similarity = edges["similarity"].to_numpy()
    alone = np.arange(len(nodes), dtype=index)

    def star(taken: Bools) -> Nodes:
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
    pairs = Pairs(a[hits], b[hits], similarity[hits], rung[hits])
    return Graph(by_bytes, by_pixels, group, star(equal), pairs)


def _rungs(kinds: pa.ChunkedArray, names: Sequence[str]) -> Rungs:
    """The rung of each pair, the place of its kind among `names`; -1 where it is not there."""
    width = np.min_scalar_type(-len(names) - 1)
    found = [np.empty(0, width)]
    for chunk in kinds.chunks:
        coded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        rungs = pc.index_in(coded.dictionary, pa.array(names, pa.string())).fill_null(-1)
        found.append(rungs.to_numpy().astype(width)[coded.indices.to_numpy()])
    return np.concatenate(found)


def _both_ways(pairs: Pairs, chosen: Bools, count: int) -> tuple[Nodes, Nodes, Floats]:
    """Where the neighbours of each node start, the neighbours, and their similarities."""
    a, b, similarity = pairs.a[chosen], pairs.b[chosen], pairs.similarity[chosen]
    node = np.concatenate([a, b])
    order = np.argsort(node, kind="stable")
    starts = _starts(node, count)
    del node
    other, value = np.concatenate([b, a]), np.concatenate([similarity, similarity])
    return starts, other[order], value[order]


def _earlier(pairs: Pairs, chosen: Bools, rank: Nodes) -> tuple[Nodes, Nodes, Floats, Rungs]:
    """Where the earlier neighbours of each node start; they, by rung, similarity and rank.

    And their similarities and rungs.
    """
    a, b = pairs.a[chosen], pairs.b[chosen]
    similarity, rung = pairs.similarity[chosen], pairs.rung[chosen]
    swap = rank[a] > rank[b]
    early, late = np.where(swap, b, a), np.where(swap, a, b)
    del a, b, swap
    order = np.lexsort((rank[early], -similarity, rung, late))
    return _starts(late, len(rank)), early[order], similarity[order], rung[order]


def _starts(nodes: Nodes, count: int) -> Nodes:
    """Where each of 0..count-1 starts among `nodes` when they are sorted: [count + 1]."""
    starts = np.zeros(count + 1, _index(len(nodes)))
    np.cumsum(np.bincount(nodes, minlength=count), out=starts[1:])
    return starts


def _best(group: Nodes, rank: Nodes) -> Nodes:
    """For each node the node of the lowest rank in its group: [n]."""
    lowest = np.full(len(rank), len(rank), rank.dtype)
    np.minimum.at(lowest, group, rank)
    return _inverse(rank)[lowest[group]]


def _inverse(order: Nodes) -> Nodes:
    """The place of each of 0..n-1 in an order of them all: [n]."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order), dtype=order.dtype)
    return places


def _index(count: int) -> type[np.signedinteger[Any]]:
    """The type of places among so many."""
    return np.int32 if count < 2**31 else np.int64


def _copy_rung(same_bytes: Bools, settings: DedupSettings) -> Rungs:
    """What to call copies of a row that stays: the first rung that is on and joins them."""
    active = settings.active
    later = next((rung for rung in range(PERCEPTUAL_RUNG, len(active)) if active[rung]), 0)
    copied = PIXELS_RUNG if settings.pixels else later
    return np.where(same_bytes & settings.exact, EXACT_RUNG, copied)
