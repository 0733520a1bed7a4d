"""Embeddings that a score compares with: those of the trusted split, or of the version itself."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from curation.columns import dataset_at, folder_digest, read_vectors
from curation.score import Vectors, check_unit
from curation.scores.clip import ClipScorer
from infra.dataset import part_name
from infra.errors import SluiceError
from infra.filesystem import join


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
    """At most `limit` rows that have a vector, sorted by the SHA-256 of their uid.

    Shards are read in the order of the SHA-256 of their names until there are `limit` rows, so
    that a large version costs no more than a small one. vector: its plain name, as `image`.
    """
    dataset = dataset_at(reference.dataset_url)
    names = {shard: part_name(shard) for shard in dataset.shards}
    keyed: list[tuple[bytes, str]] = []
    arrays: list[Vectors] = []
    for shard in sorted(names, key=lambda shard: _hash(names[shard])):
        vectors = read_vectors(reference.dataset_url, reference.folder, vector, shard)
        folder = join(reference.dataset_url, "scores", reference.folder)
        check_unit(vectors, join(folder, vector, f"{names[shard]}.npy"))
        present = np.flatnonzero(vectors.any(axis=1))
        rows = dataset.rows(shard, ["uid", "caption"]).take(present).to_pylist()
        keyed += [(_hash(row["uid"]), row["caption"] or "") for row in rows]
        arrays.append(vectors[present])
        if len(keyed) >= limit:
            break
    if not keyed:
        raise SluiceError(
            f"no sample of {reference.dataset_url} has a vector {vector!r} in {reference.folder}",
            "give a reference split with samples that can be decoded",
        )
    order = sorted(range(len(keyed)), key=keyed.__getitem__)[:limit]
    return ReferenceRows(np.concatenate(arrays)[order], [keyed[row][1] for row in order])


def percentiles(values: Vectors, reference: Vectors) -> Vectors:
    """For each value the share of `reference`, sorted, that is at most as large, in per cent."""
    ranks = np.searchsorted(reference, values, side="right")
    return (100 * ranks / len(reference)).astype(np.float32)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
