"""The codes of one shard: what an index is merged from, and what its recall is measured by.

<version>/codes/<digest>/rows/00000.npy        the rows that are indexed, ascending, int32 [n]
<version>/codes/<digest>/codes/00000.npy       CODES [n] by list, then place; none for `flat`
<version>/codes/<digest>/truth/00000.npy       TRUTH: rows near the held-out queries, by brute force
<version>/codes/<digest>/metadata/00000.arrow  what is known of each row: indexes.metadata
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from indexes.arrays import write_array
from indexes.embeddings import open_version, vectors_of
from indexes.metadata import shard_metadata, write_metadata
from indexes.quantizer import Trained, kept_rows, open_quantizer
from indexes.settings import IndexSettings
from infra.artifacts import Part, Spec
from infra.dataset import part_name
from infra.filesystem import join
from infra.stage import Draft, Item

STAGE = "indexes.codes"
CODE = 1  # raised when the same vectors give other files
BLOCK = 2**13  # rows compared with the queries at a time
TRUTH = np.dtype([("query", "<i4"), ("row", "<i4"), ("similarity", "<f4")])

Halves = npt.NDArray[np.float16]
Rows = npt.NDArray[np.int64]


def code_type(size: int) -> np.dtype[Any]:
    """An entry: its list, its place among the shard's indexed rows, its code of `size` bytes."""
    return np.dtype([("list", "<i4"), ("place", "<i4"), ("code", "u1", (size,))])


def codes_draft(
    dataset_url: str, dataset_digest: str, quantizer_digest: str, settings: IndexSettings
) -> Draft:
    """The codes of a dataset version's shards by a quantizer."""
    named = {"embedding": settings.embedding}
    spec = Spec("codes", STAGE, named, (dataset_digest, quantizer_digest), CODE)
    return Draft(join(dataset_url, "codes", spec.digest), spec)


def codes_items(dataset_url: str) -> Callable[[], Sequence[Item]]:
    """Each shard of a version that will be there when this is called."""
    return lambda: [Item(part_name(shard), shard) for shard in open_version(dataset_url).shards]


@dataclass(frozen=True)
class CodesWork:
    """Encodes a shard of `dataset_url` by the quantizer at `quantizer_url`."""

    url: str
    dataset_url: str
    quantizer_url: str

    def __call__(self, shard: int, todo: Sequence[str]) -> Mapping[str, Part]:
        dataset, trained = open_version(self.dataset_url), open_quantizer(self.quantizer_url)
        embedding = vectors_of(dataset, trained.figures["embedding"])
        vectors, rows, dropped = kept_rows(dataset, embedding, shard)
        name = part_name(shard)
        files = [
            write_array(self.url, f"rows/{name}.npy", rows.astype("<i4")),
            write_array(self.url, f"truth/{name}.npy", near(vectors, rows, trained)),
            write_metadata(self.url, shard, shard_metadata(dataset, embedding, shard, rows)),
        ]
        if trained.cells is not None:
            entries = encoded(vectors[rows], trained)
            files.append(write_array(self.url, f"codes/{name}.npy", entries))
        seen = len(rows) + sum(dropped.values())
        return {"": Part(name, tuple(files), seen, len(rows), dropped)}


def encoded(vectors: Halves, trained: Trained) -> npt.NDArray[Any]:
    """Entries (`code_type`) of vectors [n, d], by list, then by place."""
    lists, codes = trained.encode(vectors)
    order = np.argsort(lists, kind="stable")
    entries = np.empty(len(vectors), code_type(codes.shape[1]))
    entries["list"], entries["place"], entries["code"] = lists[order], order, codes[order]
    return entries


def near(vectors: Halves, rows: Rows, trained: Trained) -> npt.NDArray[Any]:
    """TRUTH: all rows at least as similar to a query as its bound, by query."""
    found: list[npt.NDArray[Any]] = []
    with threadpool_limits(1):
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            products = trained.queries @ vectors[block].astype(np.float32).T
            query, place = np.nonzero(products >= trained.bounds[:, None])
            entries = np.empty(len(query), TRUTH)
            entries["query"], entries["row"] = query, block[place]
            entries["similarity"] = products[query, place]
            found.append(entries)
    every = np.concatenate(found) if found else np.empty(0, TRUTH)
    return every[np.argsort(every["query"], kind="stable")]
