"""Samples to scores, verdicts and curated versions.

>>> import curation
>>> swept = curation.sweep("store/pool", "clip.similarity")
>>> swept.samples(0.28)
>>> curation.labels(centres, "store/pool")
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy.typing as npt

    from curation.scores.labels import Label
    from curation.swept import Sweep

__all__ = ["labels", "sweep"]


def sweep(
    version: str, column: str, *, points: int = 100, scores: Mapping[str, str] | None = None
) -> "Sweep":
    """How much of a dataset version would stay at every threshold of a score; nothing is written.

    version: `<store>/<name>` (its latest version), `<store>/<name>@<version>`, or its folder.
    column: a score, or any SQL expression over scores that is a number, as in a rule.
    points: thresholds on the curve.
    scores: scorer -> score folder, where a version has several of one scorer.
    """
    from curation.swept import open_sweep  # DuckDB and its friends load when they are needed

    return open_sweep(version, column, points, scores or {})


def labels(
    vectors: "npt.ArrayLike",
    version: str,
    *,
    scores: Mapping[str, str] | None = None,
    limit: int = 50_000,
    model: str | None = None,
    pretrained: str | None = None,
) -> "list[Label]":
    """Name clusters or samples by words of the captions nearest to them; no list of classes.

    >>> centres = np.load("centroids.npy")
    >>> for centre, found in enumerate(curation.labels(centres, "store/pool")):
    ...     print(centre, found.label, f"{found.score:.2f}")
    0 harbour 0.61
    1 zebra 0.74

    vectors: [n, dimension], image vectors or means of them, of the model that embedded the
        version; what is zero or not finite is named None.
    version: whose captions name things, as for `sweep`; it must hold the vectors of its captions.
    scores: {"clip": its score folder}, where a version was embedded by several models.
    limit: samples whose captions are looked at, at most.
    model, pretrained: as open_clip takes them; only where the model lies outside the store.
    """
    from curation.named import name_vectors  # PyTorch loads when it is needed

    return name_vectors(vectors, version, scores or {}, limit, model, pretrained)
