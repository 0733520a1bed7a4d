"""Importance of patches as a score: row-aligned, unit, the same in any batch."""

import numpy as np
import pyarrow as pa
import pytest

from curation.patches import GRID
from curation.score import Batch
from curation.scores.reference import Given, Reference
from curation.scores.registry import chosen_scorer
from curation.scores.settings import PatchesSettings
from tests.curation.test_scores_clip import batch, scorer, store

__all__ = ["store"]  # a fixture


def test_importance_stands_at_its_rows(store) -> None:
    clip = scorer(store)
    given = Given(clip, Reference("pool", "clip-0"), None)
    patches = chosen_scorer("where", PatchesSettings(kind="patches"), given)
    found = patches.score(batch())
    vectors = found.vectors["importance"]
    assert found.columns.schema == patches.columns and vectors.shape == (4, GRID * GRID)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 0, 1], abs=1e-5)
    focus = found.columns["focus"].to_pylist()
    assert focus[1:3] == [None, None] and all(0.19 < focus[row] <= 1 for row in (0, 3))
    whole = batch()
    last = Batch(whole.rows.slice(3), whole.images[3:], whole.errors[3:])
    assert (patches.score(last).vectors["importance"][0] == vectors[3]).all()
    nothing = Batch(pa.table({"status": ["rejected"], "caption": ["x"]}), [None], [None])
    assert not patches.score(nothing).vectors["importance"].any()
    other = chosen_scorer("where", PatchesSettings(kind="patches"), given)
    assert other.settings() == patches.settings() and "model" in patches.settings()
