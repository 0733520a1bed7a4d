"""Build a searchable index over one embedding of a dataset version.

<store>/<dataset>/<version>/index/<digest>/index.faiss         ids are shard << 20 | row
<store>/<dataset>/<version>/index/<digest>/metadata/00000.arrow    one row per vector, by id

Its figures (kind, probes, recall against brute force) are in its manifest.
"""
# pyarrow has no type stubs:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.embeddings import Embedding, vectors_of
from indexes.files import smoke_search, write_index
from indexes.kinds import KINDS, choose, lists_of, search
from indexes.metadata import shard_metadata, write_metadata
from indexes.neighbours import nearest
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import ROW_BITS, Dataset, index_id, of_shard
from infra.digests import generator
from infra.errors import SluiceError
from infra.filesystem import FilePart, join
from infra.stage import Draft, Item

STAGE = "indexes.build"
CODE = 2  # raised when the same vectors give other files
INDEX = "index.faiss"
PART = "index"
RECALL_AT = 10
TIE = 1e-6  # float32 sums of another order

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


def index_draft(dataset_url: str, dataset_digest: str, settings: IndexSettings) -> Draft:
    """The index of a dataset version; its embedding is named by `settings`."""
    spec = Spec("index", STAGE, settings.model_dump(mode="json"), (dataset_digest,), CODE)
    return Draft(join(dataset_url, "index", spec.digest), spec)


def index_items() -> list[Item]:
    """An index is one unit of work."""
    return [Item(PART, None)]


@dataclass(frozen=True)
class IndexWork:
    """Builds the index at `url`: kept rows of `dataset_url` that have a vector."""

    url: str
    dataset_url: str
    settings: IndexSettings

    def __call__(self, value: Any, todo: list[str]) -> Mapping[str, Part]:
        artifact = artifacts.load(self.dataset_url)
        if artifact is None:
            raise SluiceError(f"no dataset version at {self.dataset_url}", "ingest it first")
        dataset = Dataset(artifact)
        embedding = vectors_of(dataset, self.settings.embedding)
        rows, dropped, ids, vectors = _kept_vectors(dataset, embedding)
        if not len(ids):
            raise SluiceError(
                f"{self.dataset_url} has no kept row with a vector {embedding.name}",
                "look at the report's funnel: the rules may drop everything",
            )
        kind = choose(self.settings.kind, len(ids))
        index = KINDS[kind].new(vectors, self.settings.lists, self.settings.seed)
        index.add_with_ids(vectors, ids)
        figures = measure(index, ids, vectors, _texts(embedding, ids), self.settings)
        files = [
            write_index(index, self.url, INDEX),
            *(
                write_metadata(self.url, shard, shard_metadata(dataset, embedding, shard, chosen))
                for shard, chosen in _by_shard(ids)
            ),
        ]
        smoke_search(self.url, files[0], vectors.shape[1], len(ids))
        extra = {
            "embedding": embedding.name,
            "vectors": len(ids),
            "dimension": int(vectors.shape[1]),
            "kind": kind,
            **figures,
            "bytes_per_vector": round(files[0].bytes / len(ids), 1),
        }
        return {"": _part(files, rows, dropped, extra)}


def _by_shard(ids: Ids) -> Iterator[tuple[int, Ids]]:
    """Each shard that has ids, and the row numbers of these."""
    for shard in np.unique(ids >> np.int64(ROW_BITS)).tolist():
        yield shard, ids[of_shard(ids, shard)] - index_id(shard, 0)


def _part(
    files: list[FilePart], rows: int, dropped: Mapping[str, int], extra: Mapping[str, Any]
) -> Part:
    kept = rows - sum(dropped.values())
    return Part(PART, tuple(files), rows, kept, dict(dropped), dict(extra))


def _kept_vectors(
    dataset: Dataset, embedding: Embedding
) -> tuple[int, dict[str, int], Ids, Floats]:
    """Rows seen, rows left out by reason, and the ids and vectors of the rest, by id."""
    rows = 0
    dropped = {"not_kept": 0, "no_vector": 0}
    ids: list[Ids] = []
    vectors: list[npt.NDArray[np.float16]] = []
    for shard in dataset.shards:
        status: list[str] = dataset.rows(shard, ["status"]).column("status").to_pylist()
        shard_vectors = embedding.shard(shard)
        if len(status) != len(shard_vectors):
            raise SluiceError(
                f"shard {shard} of {dataset.url} has {len(status)} rows, {embedding.name} "
                f"{len(shard_vectors)} vectors",
                "the scores belong to another version: name the ones of this version",
            )
        kept = np.array([state == "ok" for state in status], bool)
        present = shard_vectors.any(axis=1)
        chosen = np.flatnonzero(kept & present)
        rows += len(status)
        dropped["not_kept"] += int((~kept).sum())
        dropped["no_vector"] += int((kept & ~present).sum())
        ids.append(index_id(shard, 0) | chosen.astype(np.int64))
        vectors.append(shard_vectors[chosen])
    left_out = {reason: count for reason, count in dropped.items() if count}
    if not ids:
        return rows, left_out, np.empty(0, np.int64), np.empty((0, 0), np.float32)
    return rows, left_out, np.concatenate(ids), np.concatenate(vectors).astype(np.float32)


def _texts(embedding: Embedding, ids: Ids) -> Floats | None:
    """The text vectors of the same rows, where the scorer wrote some beside its image vectors."""
    texts = embedding.sibling("text") if embedding.vector == "image" else None
    if texts is None:
        return None
    shards = ids >> np.int64(ROW_BITS)
    found = [
        texts.shard(int(shard))[ids[shards == shard] - index_id(int(shard), 0)]
        for shard in np.unique(shards)
    ]
    return np.concatenate(found).astype(np.float32)


@dataclass(frozen=True)
class _Queries:
    """Real queries and, by brute force, how similar the last of their true neighbours is."""

    vectors: Floats  # [n, dimension]
    own: Ids  # [n], the row a query was taken from and may not find; -1 for none
    last: Floats  # [n], similarity of the RECALL_AT-th neighbour

    def part(self, start: int) -> "_Queries":
        """Every other query: one half to choose with, one to measure with."""
        return _Queries(self.vectors[start::2], self.own[start::2], self.last[start::2])


def _queries(queries: Floats, own: Ids, ids: Ids, vectors: Floats, k: int) -> _Queries:
    similarity, position = nearest(queries, vectors, k + 1)
    neighbours = _without_own(similarity, ids[position], own, k)
    return _Queries(queries, own, neighbours[:, -1])


def _without_own(similarity: Floats, found: Ids, own: Ids, k: int) -> Floats:
    """The similarities of the first k results that are not the query itself."""
    mask = (found == own[:, None]) | (found < 0)
    order = np.argsort(mask, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(np.where(mask, -np.inf, similarity), order, 1).astype(np.float32)


def _recall(index: Any, queries: _Queries, k: int, probes: int) -> float:
    """Share of the true k neighbours found; one as similar as the last counts as true."""
    similarity, found = search(index, queries.vectors, k + 1, probes)
    got = _without_own(similarity, found, queries.own, k)
    return float((got >= queries.last[:, None] - TIE).mean())


def measure(
    index: Any, ids: Ids, vectors: Floats, texts: Floats | None, settings: IndexSettings
) -> dict[str, Any]:
    """Choose how many lists to probe on half of the queries, measure recall on the others."""
    k = min(RECALL_AT, len(ids) - 1)
    order = generator(settings.seed, STAGE, "queries").permutation(len(ids))
    rows = np.sort(order[: settings.queries])
    kinds: dict[str, _Queries] = {}
    if k:
        kinds["image"] = _queries(vectors[rows], ids[rows], ids, vectors, k)
        with_text = rows if texts is None else rows[texts[rows].any(axis=1)]
        if texts is not None and len(with_text):
            nobody = np.full(len(with_text), -1, np.int64)
            kinds["text"] = _queries(texts[with_text], nobody, ids, vectors, k)
    halves = [queries.part(0) for queries in kinds.values()]
    probes = _fewest(
        lists_of(index),
        lambda probes: (
            min((_recall(index, half, k, probes) for half in halves), default=1.0)
            >= settings.recall_target
        ),
    )
    recall = {
        name: round(_recall(index, queries.part(1), k, probes), 6)
        for name, queries in kinds.items()
        if len(queries.own) > 1
    }
    return {"lists": lists_of(index), "probes": probes, "recall@10": recall}


def _fewest(lists: int, enough: Callable[[int], bool]) -> int:
    """The least number of probes that is enough, by doubling and halving; 0 without lists."""
    high = min(1, lists)
    while high < lists and not enough(high):
        high = min(2 * high, lists)
    low = high // 2
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
