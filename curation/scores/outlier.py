"""Outlier score: how far an embedding lies from a Gaussian fit to those of a reference split."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.score import Batch, Scores, Vectors, filled
from curation.scores.reference import Reference, percentiles, read_reference
from curation.units import WORSE, column
from infra.errors import SluiceError

FOLDS = 5  # a reference point is measured with a fit to the other folds
FEWEST = 2 * FOLDS  # points, below which there is nothing to fit
FLOOR = 1e-6  # of the mean variance: what a direction without any is given
NO_SPREAD = 1e-20  # of the mean square: variance that rounding leaves where all points are equal

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OutlierScorer:
    """Columns, null for rows without a vector:

    distance      float32 >= 0, Mahalanobis distance to the Gaussian of the reference's vectors;
                  for points of that Gaussian some sqrt(dimensions)
    percentile    float32 0..100, share of the reference's points that lie no farther, each
                  measured with a fit to the other four fifths of them: of ordinary samples 1 %
                  come above 99, however few the points are

    The covariance is shrunk to a multiple of the identity (Ledoit and Wolf 2004,
    doi:10.1016/S0047-259X(03)00096-4), so that fewer points than dimensions still give a
    distance. components: that many principal directions count alone; None: all do.
    """

    name: str
    reference: Reference
    vector: str = "clip/image"
    components: int | None = None
    limit: int = 50_000

    code = 2
    reads_images = False
    vectors = ()
    columns = pa.schema(
        [
            column("distance", pa.float32(), "Mahalanobis distance", WORSE),
            column("percentile", pa.float32(), "percentile of the trusted split", WORSE),
        ]
    )

    @property
    def reads_vectors(self) -> tuple[str, ...]:
        return (self.vector,)

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "outlier",
            "vector": self.vector,
            "reference": self.reference.digest,
            "components": self.components,
            "limit": self.limit,
        }

    def score(self, batch: Batch) -> Scores:
        vectors = batch.vectors[self.vector]
        positions = np.flatnonzero(vectors.any(axis=1)).tolist()
        distance = percentile = np.empty(0, np.float32)
        if positions:
            fit = fit_reference(self.reference, self.vector, self.components, self.limit)
            distance = fit.gaussian.distances(vectors[positions]).astype(np.float32)
            percentile = percentiles(distance, fit.distances)
        columns = {
            "distance": filled(len(batch), positions, distance, pa.float32()),
            "percentile": filled(len(batch), positions, percentile, pa.float32()),
        }
        return Scores(pa.table(columns))


@dataclass(frozen=True)
class Gaussian:
    """mean [dim]; whitening [dim, k]: distances are lengths of (x - mean) @ whitening."""

    mean: Doubles
    whitening: Doubles

    @staticmethod
    def fit(points: Vectors, components: int | None = None) -> "Gaussian":
        """Of points [n, dim]; SluiceError where they are too few or all equal."""
        points = points.astype(np.float64)
        mean = points.mean(axis=0)
        values, directions = np.linalg.eigh(shrunk_covariance(points - mean))
        if len(points) < 2 or values.mean() <= NO_SPREAD * (points**2).mean():
            raise SluiceError(
                f"the {len(points)} vectors of the reference split have no spread: all are equal",
                "give a reference split of different samples",
            )
        if components is not None and components > len(values):
            raise SluiceError(
                f"{components} components of vectors of {len(values)} numbers",
                f"set components to at most {len(values)}",
            )
        kept = slice(None) if components is None else slice(-components, None)
        values = np.maximum(values, FLOOR * values.mean())
        return Gaussian(mean, directions[:, kept] / np.sqrt(values[kept]))

    def distances(self, points: Vectors) -> Doubles:
        """Mahalanobis distances of points [n, dim]."""
        if points.shape[1] != len(self.mean):
            raise SluiceError(
                f"the vectors have {points.shape[1]} numbers, the reference's {len(self.mean)}",
                "compare vectors of one model: remove those score folders and run again",
            )
        return np.linalg.norm((points.astype(np.float64) - self.mean) @ self.whitening, axis=1)


def shrunk_covariance(centred: Doubles) -> Doubles:
    """Covariance [dim, dim] of points [n, dim] around zero, by Ledoit and Wolf 2004."""
    count, dim = centred.shape
    sample = centred.T @ centred / count
    target = np.trace(sample) / dim * np.eye(dim)
    away = ((sample - target) ** 2).sum()
    fourth = ((centred**2).sum(axis=1) ** 2).sum()
    noise = (fourth / count - (sample**2).sum()) / count
    share = min(max(noise / away, 0.0), 1.0) if away > 0 else 0.0
    return share * target + (1 - share) * sample


@dataclass(frozen=True)
class Fit:
    """A Gaussian, and the sorted distances of its own points, held out; float32 [n]."""

    gaussian: Gaussian
    distances: Vectors


def fit(points: Vectors, components: int | None = None) -> Fit:
    """Of points [n, dim] in an order that says nothing of them: every fifth makes a fold."""
    if len(points) < FEWEST:
        raise SluiceError(
            f"the reference split has {len(points)} vectors, an outlier score needs {FEWEST}",
            "give a larger reference split: thousands tell more",
        )
    fold = np.arange(len(points)) % FOLDS
    held_out = [
        Gaussian.fit(points[fold != each], components).distances(points[fold == each])
        for each in range(FOLDS)
    ]
    distances = np.sort(np.concatenate(held_out).astype(np.float32))
    return Fit(Gaussian.fit(points, components), distances)


@lru_cache(maxsize=4)
def fit_reference(reference: Reference, vector: str, components: int | None, limit: int) -> Fit:
    """The fit to a reference's vectors SCORER/VECTOR, made once per process."""
    rows = read_reference(reference, vector.rpartition("/")[2], limit)
    return fit(rows.vectors, components)
