"""Duplicates: a graph of pairs, stored once, and the greedy choice of who stays.

Pairs are stored down to a floor, with their kind and similarity, so that the threshold can be
moved without a new search. The choice goes through the rows in order of preference and drops a
row if, and only if, a pair at or above the threshold joins it to a row already kept. So every
dropped row has a kept twin, and no chain drops a row whose only close neighbour was itself
dropped (as SemDeDup does, Abbas et al. 2023, arXiv:2303.09540).

Rows with equal bytes are stored as a star around the one with the lowest id, and only that one
takes part in the search: a placeholder found a million times costs a million pairs, not 10^12.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import dataset_at, folder_digest, read_vectors, score_folder
from curation.rules_settings import DedupSettings
from indexes.neighbours import EXACT_LIMIT, pair_recall, range_pairs
from infra.artifacts import Part, Spec
from infra.dataset import ROW_BITS, Dataset, write_table
from infra.errors import SluiceError
from infra.filesystem import join
from infra.stage import Draft, Item

CODE = 1
EDGES_FILE = "edges.parquet"
EDGES = pa.schema(
    [
        ("a", pa.int64()),  # index ids, shard << 20 | row; a < b
        ("b", pa.int64()),
        ("kind", pa.string()),  # "exact": equal bytes; "near": similar descriptors
        ("similarity", pa.float32()),  # cosine, 1 for exact pairs
    ]
)
ALL = Item("all", None)  # the one unit of work of a stage that must see everything

Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def edges_draft(
    dataset_url: str,
    dataset_digest: str,
    score_folders: Mapping[str, str],
    settings: DedupSettings,
) -> Draft:
    """The pairs of a dataset; `near`, `exact` and `priority` are decided later, on them."""
    parents = (dataset_digest,)
    search: dict[str, Any] = {"descriptor": None}
    if settings.near is not None:
        folder = _descriptor_folder(score_folders, settings)
        search = {"descriptor": settings.descriptor, "floor": settings.floor}
        parents = (dataset_digest, folder_digest(folder))
    spec = Spec("edges", "curation.dedup", search, parents, CODE)
    return Draft(join(dataset_url, "edges", spec.digest), spec)


def _descriptor_folder(score_folders: Mapping[str, str], settings: DedupSettings) -> str:
    return score_folder(score_folders, settings.descriptor.partition("/")[0], "dedup.descriptor")


@dataclass(frozen=True)
class EdgesWork:
    """Finds all pairs of a dataset: one unit of work, `ALL`."""

    url: str
    dataset_url: str
    score_folders: Mapping[str, str]
    settings: DedupSettings

    def __call__(self, value: object, todo: Sequence[str]) -> dict[str, Part]:
        dataset = dataset_at(self.dataset_url)
        ids, hashes = _identities(dataset)
        leaders = exact_leaders(ids, hashes)
        copies = leaders != ids
        tables = [_edges(leaders[copies], ids[copies], "exact", np.ones(copies.sum(), np.float32))]
        figures: dict[str, Any] = {"images": len(ids), "exact": int(copies.sum()), "near": 0}
        if self.settings.near is not None:
            near, recall = self._near(dataset, ids[~copies])
            figures |= {"near": near.num_rows, "recall": recall}
            tables.append(near)
        edges = pa.concat_tables(tables).sort_by([("a", "ascending"), ("b", "ascending")])
        file = write_table(self.url, EDGES_FILE, edges)
        part = Part(ALL.name, (file,), edges.num_rows, edges.num_rows, extra=figures)
        return {"": part}

    def _near(self, dataset: Dataset, ids: Ids) -> tuple[pa.Table, float]:
        """The near pairs among `ids`, and the share of all near pairs they are."""
        folder = _descriptor_folder(self.score_folders, self.settings)
        vectors = gather_vectors(dataset, folder, self.settings.descriptor, ids)
        floor = self.settings.floor
        try:
            a, b, similarity = range_pairs(vectors, floor)
        except SluiceError as error:
            raise SluiceError(
                f"{dataset.url}: {error.what}", "raise dedup.floor (and dedup.near with it)"
            ) from error
        # Up to the limit all pairs are compared; beyond, a sample tells what was missed.
        recall = 1.0
        if len(ids) > EXACT_LIMIT:
            recall = round(pair_recall(vectors, a, b, floor), 4)
        return _edges(ids[a], ids[b], "near", np.minimum(similarity, 1)), recall


def gather_vectors(dataset: Dataset, folder: str, name: str, ids: Ids) -> npt.NDArray[np.float16]:
    """The vectors `name` (SCORER/VECTOR) of the rows `ids`, sorted: float16 [len(ids), dim]."""
    found: list[npt.NDArray[np.float16]] = []
    for shard in sorted(dataset.shards):
        vectors = read_vectors(dataset.url, folder, name.partition("/")[2], shard)
        low, high = np.searchsorted(ids, [shard << ROW_BITS, (shard + 1) << ROW_BITS])
        found.append(vectors[ids[low:high] & (1 << ROW_BITS) - 1])
    return np.concatenate(found) if found else np.empty((0, 1), np.float16)


def _edges(a: Ids, b: Ids, kind: str, similarity: npt.NDArray[np.float32]) -> pa.Table:
    return pa.table([a, b, pa.repeat(kind, len(a)), similarity], schema=EDGES)


def _identities(dataset: Dataset) -> tuple[Ids, npt.NDArray[np.uint64]]:
    """Ids [n], ascending, of all rows that hold an image, and 128 bits of their hash [n, 2]."""
    ids: list[Ids] = [np.empty(0, np.int64)]
    hashes: list[npt.NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)]
    for shard in sorted(dataset.shards):
        rows = dataset.rows(shard, ["row", "status", "sha256"])
        rows = rows.filter((pc.field("status") == "ok") & pc.field("sha256").is_valid())
        ids.append(rows["row"].to_numpy().astype(np.int64) | shard << ROW_BITS)
        digits = "".join(rows["sha256"].to_pylist())
        hashes.append(np.frombuffer(bytes.fromhex(digits), np.uint64).reshape(-1, 4)[:, :2])
    return np.concatenate(ids), np.concatenate(hashes)


def exact_leaders(ids: Ids, hashes: npt.NDArray[np.uint64]) -> Ids:
    """For each row the lowest id with the same hash. ids [n], hashes [n, 2] -> int64 [n]."""
    order = np.lexsort((ids, hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    starts = np.ones(len(ids), bool)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ids)), 0))
    leaders = np.empty_like(ids)
    leaders[order] = ids[order][first]
    return leaders


@dataclass(frozen=True)
class Duplicates:
    """The rows that are duplicates of a row before them, sorted by id; all arrays [n]."""

    ids: Ids
    twins: Ids  # the row that stands for the group; kept, where the duplicate passed the rules
    similarity: npt.NDArray[np.float32]  # to the twin
    exact: Bools  # its bytes equal an earlier row's
    near: Bools  # a pair at or above the threshold joins it to its twin

    def part(self, place: slice) -> "Duplicates":
        return Duplicates(
            self.ids[place],
            self.twins[place],
            self.similarity[place],
            self.exact[place],
            self.near[place],
        )


def edge_nodes(edges: pa.Table) -> Ids:
    """The ids that take part in any pair, sorted."""
    return np.unique(np.concatenate([edges["a"].to_numpy(), edges["b"].to_numpy()]))


def find_duplicates(
    edges: pa.Table,
    nodes: Ids,
    passing: Bools,
    priority: npt.NDArray[np.float64],
    settings: DedupSettings,
) -> Duplicates:
    """Choose greedily who stays: rows that pass the rules first, then priority, then lowest id.

    nodes: the ids in `edges`, sorted; passing, priority: of those rows (NaN comes last).
    The order of `edges` does not matter.
    """
    kinds = edges["kind"].to_numpy(zero_copy_only=False)
    a = np.searchsorted(nodes, edges["a"].to_numpy())
    b = np.searchsorted(nodes, edges["b"].to_numpy())
    similarity = edges["similarity"].to_numpy()
    count = len(nodes)
    preferred = np.where(np.isnan(priority), -np.inf, priority)
    rank = np.empty(count, np.int64)
    rank[np.lexsort((nodes, -preferred, ~passing))] = np.arange(count)

    # Rows with equal bytes act as one, in the place of the best of them.
    group = np.arange(count)
    exact = kinds == "exact"
    if settings.exact or settings.near is not None:
        group[b[exact]] = a[exact]
    best_rank = np.full(count, count)
    np.minimum.at(best_rank, group, rank)
    by_rank = np.argsort(rank)
    best = by_rank[np.minimum(best_rank, count - 1)]

    threshold = np.inf if settings.near is None else np.float32(settings.near)
    near = (kinds == "near") & (similarity >= threshold)
    twin, twin_similarity = greedy(group[a[near]], group[b[near]], similarity[near], best_rank)

    copy = best[group] != np.arange(count)
    dropped = twin[group] >= 0
    found = np.flatnonzero(copy | dropped)
    theirs = group[found]
    standing = np.where(dropped[found], best[twin[theirs]], best[theirs])
    return Duplicates(
        ids=nodes[found],
        twins=nodes[standing],
        similarity=np.where(dropped[found], twin_similarity[theirs], np.float32(1)),
        exact=copy[found] & settings.exact,
        near=dropped[found] | (copy[found] & (not settings.exact)),
    )


def greedy(
    a: Ids, b: Ids, similarity: npt.NDArray[np.float32], rank: Ids
) -> tuple[Ids, npt.NDArray[np.float32]]:
    """Visit nodes by ascending rank; drop one iff a pair joins it to a node already kept.

    a, b, similarity: the pairs [m], of nodes 0..n-1; rank: [n]. Returns for each node the kept
    node it was dropped for, the most similar one (-1: it is kept), and their similarity.
    """
    twin = np.full(len(rank), -1)
    twin_similarity = np.zeros(len(rank), np.float32)
    swap = rank[a] > rank[b]
    early, late = np.where(swap, b, a), np.where(swap, a, b)
    order = np.lexsort((rank[early], -similarity, rank[late]))
    kept = bytearray(b"\1") * len(rank)
    # All pairs of a node come together, the best first, and after those of all nodes before it.
    for position, x, y in zip(
        order.tolist(), early[order].tolist(), late[order].tolist(), strict=True
    ):
        if kept[x] and kept[y]:
            kept[y] = 0
            twin[y], twin_similarity[y] = x, similarity[position]
    return twin, twin_similarity
