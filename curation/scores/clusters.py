"""Clusters of vectors, and whether references fall into them: DataComp's image-based filter."""

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.score import Batch, Scores, filled
from curation.scores.clip import content_name
from curation.units import BETTER, column
from indexes.neighbours import nearest
from infra import filesystem
from infra.errors import SluiceError

Floats = npt.NDArray[np.float16]


@dataclass(frozen=True)
class ClustersScorer:
    """Columns (null for rows without a vector):

    cluster       int32, the centroid of largest inner product (its row in the file)
    similarity    float32, that product
    references    int32, how many references have the same nearest centroid

    Keeping `references >= 1` is the image-based filter of DataComp (Gadre et al. 2023,
    arXiv:2304.14108), with the centroids and references that the files name: .npy, [k, dim] and
    [m, dim], of the model that made the vectors.
    """

    name: str
    centroids: str
    reference_file: str
    vector: str = "clip/image"

    code = 1
    reads_images = False
    vectors = ()
    columns = pa.schema(
        [
            pa.field("cluster", pa.int32()),
            column("similarity", pa.float32(), "inner product", BETTER),
            column("references", pa.int32(), "references", BETTER),
        ]
    )

    @property
    def reads_vectors(self) -> tuple[str, ...]:
        return (self.vector,)

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "clusters",
            "vector": self.vector,
            "centroids": content_name(self.centroids),
            "references": content_name(self.reference_file),
        }

    def score(self, batch: Batch) -> Scores:
        vectors = batch.vectors[self.vector]
        positions = np.flatnonzero(vectors.any(axis=1)).tolist()
        centroids = load_vectors(self.centroids)
        counts = load_counts(self.centroids, self.reference_file)
        similarity, cluster = _nearest(vectors[positions].astype(np.float16), centroids)
        values = {"cluster": cluster, "similarity": similarity, "references": counts[cluster]}
        columns = {
            field.name: filled(len(batch), positions, values[field.name], field.type)
            for field in self.columns
        }
        return Scores(pa.table(columns))


def _nearest(
    vectors: Floats, centroids: Floats
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Similarity and number of the nearest centroid of each vector, [n] and [n]."""
    if not len(vectors):
        return np.empty(0, np.float32), np.empty(0, np.int64)
    similarity, index = nearest(vectors.astype(np.float32), centroids.astype(np.float32), 1)
    return similarity[:, 0], index[:, 0]


@functools.lru_cache(maxsize=4)
def load_counts(centroids: str, references: str) -> npt.NDArray[np.int64]:
    """How many references fall to each centroid, [k]; once per process."""
    centres = load_vectors(centroids)
    _, cluster = _nearest(load_vectors(references), centres)
    return np.bincount(cluster, minlength=len(centres))


@functools.lru_cache(maxsize=4)
def load_vectors(url: str) -> Floats:
    """float16 [n, dim] of a .npy file. Raises SluiceError where it holds something else."""
    try:
        array = np.load(io.BytesIO(filesystem.read_bytes(url)), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SluiceError(f"{url} is no .npy of vectors: {error}", "check the path") from error
    usable = array.ndim == 2 and len(array) and np.issubdtype(array.dtype, np.floating)
    if not usable or not np.isfinite(array).all():
        raise SluiceError(
            f"{url} holds {array.dtype} of shape {array.shape}, or no finite numbers",
            "give vectors as float16 or float32 [n, dim]",
        )
    return array.astype(np.float16)
