"""Embeddings that a score compares with: those of the trusted split, or of the version itself."""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import dataset_at, folder_digest, read_vectors_of
from curation.draws import draws, uid_words
from curation.score import Vectors, check_unit
from curation.scores.clip import ClipScorer
from infra.dataset import ROW_BITS, Dataset, part_name
from infra.errors import SluiceError
from infra.filesystem import join

DRAWN = "reference"  # what the draws of reference rows are keyed by


@dataclass(frozen=True)
class Reference:
    """A dataset version and the folder `<scorer>-<digest>` of the vectors stored beside it."""

    dataset_url: str
    folder: str

    @property
    def digest(self) -> str:
        """Over the vectors' model and the dataset both."""
        return folder_digest(self.folder)


@dataclass(frozen=True)
class Given:
    """What scores over embeddings may build on: the model that made them, and their splits.

    trusted is None where the recipe has no trusted split.
    """

    clip: ClipScorer
    pool: Reference
    trusted: Reference | None


@dataclass(frozen=True)
class ReferenceRows:
    """vectors: float16 [n, dim], unit. captions: of the same rows."""

    vectors: Vectors
    captions: Sequence[str]


@lru_cache(maxsize=4)
def read_reference(reference: Reference, vector: str, limit: int) -> ReferenceRows:
    """The `limit` samples whose uids draw the lowest numbers, in that order, if they have a vector.

    Which they are depends on uids alone, not on shards. vector: its plain name, as `image`.
    """
    dataset = dataset_at(reference.dataset_url)
    folder = join(reference.dataset_url, "scores", reference.folder)
    drawn, captions, arrays = [np.empty(0, np.uint64)], list[str](), list[Vectors]()
    ids = _lowest(dataset, limit)
    for shard in np.unique(ids >> ROW_BITS).tolist():
        rows = np.sort(ids[ids >> ROW_BITS == shard]) & (1 << ROW_BITS) - 1
        vectors = read_vectors_of(reference.dataset_url, reference.folder, vector, shard, rows)
        check_unit(vectors, join(folder, vector, f"{part_name(shard)}.npy"))
        there = vectors.any(axis=1)
        table = dataset.rows(shard, ["uid", "caption"]).take(pa.array(rows[there]))
        drawn.append(draws(uid_words(table["uid"]), DRAWN))
        captions += [caption or "" for caption in table["caption"].to_pylist()]
        arrays.append(vectors[there])
    if not captions:
        raise SluiceError(
            f"no sample of {reference.dataset_url} has a vector {vector!r} in {reference.folder}",
            "give a reference split with samples that can be decoded",
        )
    keys = list(zip(np.concatenate(drawn).tolist(), captions, strict=True))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return ReferenceRows(np.concatenate(arrays)[order], [captions[row] for row in order])


def _lowest(dataset: Dataset, limit: int) -> npt.NDArray[np.int64]:
    """The ids (shard << 20 | row) of the `limit` samples whose uids draw the lowest numbers."""
    drawn, ids = np.empty(0, np.uint64), np.empty(0, np.int64)
    for shard in dataset.shards:
        rows = dataset.rows(shard, ["uid", "row", "status"])
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        drawn = np.concatenate([drawn, draws(uid_words(rows["uid"]), DRAWN)])
        ids = np.concatenate([ids, rows["row"].to_numpy().astype(np.int64) | shard << ROW_BITS])
        order = np.argsort(drawn, kind="stable")[:limit]
        drawn, ids = drawn[order], ids[order]
    return ids


def percentiles(values: Vectors, reference: Vectors) -> Vectors:
    """For each value the share of `reference`, sorted, that is at most as large, in per cent."""
    ranks = np.searchsorted(reference, values, side="right")
    return (100 * ranks / len(reference)).astype(np.float32)
