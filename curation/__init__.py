"""Samples to scores, verdicts and curated versions.

>>> import curation
>>> swept = curation.sweep("store/pool", "clip.similarity")
>>> swept.samples(0.28)
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curation.swept import Sweep

__all__ = ["sweep"]


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
