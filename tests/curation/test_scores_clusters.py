"""Clusters of vectors, and the references that fall into them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.score import Batch
from curation.scores.clusters import ClustersScorer
from infra.errors import SluiceError


def save(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def test_a_vector_falls_to_its_nearest_centroid(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centroids, references, vectors = (
        rng.normal(size=(count, 8)).astype(np.float16) for count in (6, 9, 20)
    )
    vectors[3] = 0  # nothing was embedded
    scorer = ClustersScorer(
        "imagenet", save(tmp_path / "c.npy", centroids), save(tmp_path / "r.npy", references)
    )
    batch = Batch(pa.table({"status": ["ok"] * 20}), [None] * 20, [None] * 20)
    batch = Batch(batch.rows, batch.images, batch.errors, {"clip/image": vectors})
    table = scorer.score(batch).columns
    expected = (vectors.astype(np.float64) @ centroids.astype(np.float64).T).argmax(axis=1)
    theirs = (references.astype(np.float64) @ centroids.astype(np.float64).T).argmax(axis=1)
    for row, (cluster, count) in enumerate(
        zip(table["cluster"].to_pylist(), table["references"].to_pylist(), strict=True)
    ):
        assert cluster == (None if row == 3 else expected[row])
        assert count == (None if row == 3 else (theirs == expected[row]).sum())
    empty = Batch(pa.table({"status": ["ok"]}), [None], [None], {"clip/image": vectors[3:4]})
    assert scorer.score(empty).columns["cluster"].to_pylist() == [None]


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((0, 3)), np.full((1, 3), np.nan), None])
def test_what_are_no_vectors_is_named(array: np.ndarray | None, tmp_path: Path) -> None:
    path = tmp_path / "c.npy"
    if array is not None:
        np.save(path, array)
    scorer = ClustersScorer("near", str(path), str(path))
    vectors = {"clip/image": np.ones((1, 3), np.float16)}
    batch = Batch(pa.table({"status": ["ok"]}), [None], [None], vectors)
    with pytest.raises(SluiceError, match=r"c\.npy"):
        scorer.score(batch)
