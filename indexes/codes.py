"""The codes of one shard: what an index is merged from, and what its recall is measured by.

<version>/codes/<digest>/rows/00000.npy        the rows that are indexed, ascending, int32 [n]
<version>/codes/<digest>/codes/00000.npy       CODES [n] by list, then place; none for `flat`
<version>/codes/<digest>/truth/00000.npy       TRUTH: rows near the held-out queries, by brute force
<version>/codes/<digest>/metadata/00000.arrow  what is known of each row: indexes.metadata
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from indexes import gpu
from indexes.arrays import write_array
from indexes.embeddings import Embedding, open_version, vectors_of
from indexes.metadata import columns_digest, shard_metadata, write_metadata
from indexes.quantizer import NEIGHBOURS, Trained, kept_rows, open_quantizer
from indexes.removed import removed_ids
from indexes.settings import IndexSettings
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import index_id, part_name
from infra.errors import SluiceError
from infra.feeding import waiting, working
from infra.filesystem import FilePart, join, read_bytes, write_bytes
from infra.stage import Draft, Item

STAGE = "indexes.codes"
TAKEN = ("truth/", "codes/")  # files that depend on vectors alone, and not on scores
CODE = 2  # raised when the same vectors give other files
BLOCK = 2**13  # rows compared with the queries at a time
TRUTH = np.dtype([("query", "<i4"), ("row", "<i4"), ("similarity", "<f4")])

Halves = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]


def code_type(size: int) -> np.dtype[Any]:
    """An entry: its list, its place among the shard's indexed rows, its code of `size` bytes."""
    return np.dtype([("list", "<i4"), ("place", "<i4"), ("code", "u1", (size,))])


def codes_draft(
    dataset_url: str,
    dataset_digest: str,
    quantizer_digest: str,
    settings: IndexSettings,
    removed: Sequence[str] = (),
) -> Draft:
    """The codes of a dataset version's shards by a quantizer, without rows that were removed."""
    named: dict[str, Any] = {"embedding": settings.embedding}
    if removed:
        named["removed"] = [file.rpartition("/")[2] for file in removed]
    spec = Spec("codes", STAGE, named, (dataset_digest, quantizer_digest), CODE)
    return Draft(join(dataset_url, "codes", spec.digest), spec)


def codes_items(dataset_url: str) -> Callable[[], Sequence[Item]]:
    """Each shard of a version that will be there when this is called."""
    return lambda: [Item(part_name(shard), shard) for shard in open_version(dataset_url).shards]


@dataclass(frozen=True)
class CodesWork:
    """Encodes a shard of `dataset_url` by the quantizer at `quantizer_url`.

    older_urls: codes by the same quantizer; what they hold of a shard that has not changed since
    is taken from the first that holds it. removed: files that name the rows to leave out.
    """

    url: str
    dataset_url: str
    quantizer_url: str
    embedding: str
    older_urls: Sequence[str] = ()
    removed: Sequence[str] = ()

    def __call__(self, shard: int, todo: Sequence[str]) -> Mapping[str, Part]:
        dataset, trained = open_version(self.dataset_url), open_quantizer(self.quantizer_url)
        embedding = vectors_of(dataset, self.embedding)
        check_scores(embedding, trained)
        with waiting():
            vectors, rows, dropped = kept_rows(dataset, embedding, shard)
        rows, gone = self._left(shard, rows)
        if gone:
            dropped["removed"] = gone
        name, seen = part_name(shard), len(rows) + sum(dropped.values())
        content = content_of(vectors, rows)
        files = self._taken(name, content)
        if files is None:
            with working():
                truth = near(vectors, rows, trained)
                entries = None if trained.cells is None else encoded(vectors[rows], trained)
            files = [write_array(self.url, f"truth/{name}.npy", truth)]
            if entries is not None:
                files.append(write_array(self.url, f"codes/{name}.npy", entries))
        known = shard_metadata(dataset, embedding, shard, rows)
        files += [
            write_array(self.url, f"rows/{name}.npy", rows.astype("<i4")),
            write_metadata(self.url, shard, known),
        ]
        extra = {"content": content, "columns": columns_digest(known)}
        return {"": Part(name, tuple(files), seen, len(rows), dropped, extra)}

    def _left(self, shard: int, rows: Rows) -> tuple[Rows, int]:
        """The rows that were not removed, and how many were."""
        if not self.removed:
            return rows, 0
        gone = removed_ids(self.removed)
        left = rows[~np.isin(index_id(shard, 0) + rows, gone)]
        return left, len(rows) - len(left)

    def _taken(self, name: str, content: str) -> list[FilePart] | None:
        """Truth and codes of the shard from older codes; None where there are none of its kind."""
        for older_url in self.older_urls:
            part = _parts_of(older_url).get(name)
            if part is not None and part.extra["content"] == content:
                taken = [each.path for each in part.files if each.path.startswith(TAKEN)]
                return [write_bytes(self.url, p, read_bytes(join(older_url, p))) for p in taken]
        return None


@lru_cache(maxsize=4)
def _parts_of(url: str) -> Mapping[str, Part]:
    """The parts of codes by name; none where there are no codes."""
    artifact = artifacts.load(url)
    return {} if artifact is None else {part.name: part for part in artifact.parts}


def content_of(vectors: Halves, rows: Rows) -> str:
    """What the codes of a shard depend on besides the quantizer: which rows, and their vectors."""
    hashed = hashlib.sha256(rows.astype("<i8").tobytes())
    for start in range(0, len(rows), BLOCK):
        hashed.update(np.ascontiguousarray(vectors[rows[start : start + BLOCK]]).data)
    return hashed.hexdigest()


def check_scores(embedding: Embedding, trained: Trained) -> None:
    """SluiceError where a quantizer was trained on vectors of another model."""
    if dict(embedding.scores.settings) != trained.figures["scores"]:
        raise SluiceError(
            f"{embedding.name} was made by another model than what the quantizer was trained on",
            "leave out index.after, so that one is trained for these vectors",
        )


def encoded(vectors: Halves, trained: Trained) -> npt.NDArray[Any]:
    """Entries (`code_type`) of vectors [n, d], by list, then by place."""
    lists, codes = trained.encode(vectors)
    order = np.argsort(lists, kind="stable")
    entries = np.empty(len(vectors), code_type(codes.shape[1]))
    entries["list"], entries["place"], entries["code"] = lists[order], order, codes[order]
    return entries


def near(vectors: Halves, rows: Rows, trained: Trained) -> npt.NDArray[Any]:
    """TRUTH: all rows at least as similar to a query as its bound, by query.

    On a GPU at most those of each BLOCK that could be among the neighbours looked for.
    """
    compared = _above if gpu.resources() is None else _nearest_above
    found: list[npt.NDArray[Any]] = []
    with threadpool_limits(1):
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            query, place, similarity = compared(trained, vectors[block].astype(np.float32))
            entries = np.empty(len(query), TRUTH)
            entries["query"], entries["row"] = query, block[place]
            entries["similarity"] = similarity
            found.append(entries)
    every = np.concatenate(found) if found else np.empty(0, TRUTH)
    return every[np.argsort(every["query"], kind="stable")]


Above = tuple[Rows, Rows, npt.NDArray[np.float32]]  # queries, rows of a block, similarities


def _above(trained: Trained, block: npt.NDArray[np.float32]) -> Above:
    products = trained.queries @ block.T
    query, place = np.nonzero(products >= trained.bounds[:, None])
    return query, place, products[query, place]


def _nearest_above(trained: Trained, block: npt.NDArray[np.float32]) -> Above:
    similarity, places = gpu.nearest(trained.queries, block, NEIGHBOURS + 1)
    query, column = np.nonzero(similarity >= trained.bounds[:, None])
    return query, places[query, column], similarity[query, column]
