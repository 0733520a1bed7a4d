"""k-means: against the definition, and the same answer whatever the blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation import kmeans
from curation.kmeans import assign, first_centroids, fit

KEY = (0, "test")


def blobs(count: int = 600, k: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, 16))
    labels = rng.integers(0, k, count)
    points = centres[labels] + rng.normal(size=(count, 16)) * 0.05
    return points.astype(np.float16), labels


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_every_point_is_given_its_closest_centroid(seed, count, k, grid) -> None:
    rng = np.random.default_rng(seed)
    if grid:  # exact ties
        points, centroids = (rng.integers(0, 3, (n, 2)).astype(np.float32) for n in (count, k))
    else:
        points, centroids = (rng.normal(size=(n, 8)).astype(np.float32) for n in (count, k))
    labels, distances = assign(points, centroids)
    square = ((points[:, None].astype(float) - centroids[None].astype(float)) ** 2).sum(axis=2)
    assert labels.tolist() == square.argmin(axis=1).tolist()
    assert distances == pytest.approx(square.min(axis=1))


def test_blobs_are_found_and_blocks_do_not_matter(monkeypatch) -> None:
    points, truth = blobs()
    centroids = fit(points, 6, KEY, 50)
    labels = assign(points, centroids)[0]
    assert len({(a, b) for a, b in zip(labels.tolist(), truth.tolist(), strict=True)}) == 6
    monkeypatch.setattr(kmeans, "BLOCK", 37)
    again = fit(points, 6, KEY, 50)
    assert np.allclose(again, centroids, atol=1e-6)
    assert (assign(points, again)[0] == labels).all()


def test_each_centroid_is_the_mean_of_its_points() -> None:
    points, _ = blobs(seed=1)
    centroids = fit(points, 20, KEY, 100)
    labels = assign(points, centroids)[0]
    assert len(centroids) == 20
    for cell in range(20):
        assert centroids[cell] == pytest.approx(
            points[labels == cell].astype(float).mean(axis=0), abs=1e-5
        )


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_points_than_centroids(distinct: int) -> None:
    points = np.repeat(np.eye(8, dtype=np.float16)[:distinct], 50, axis=0)
    centroids = fit(points, 10, KEY, 20)
    assert sorted(map(tuple, centroids)) == sorted(map(tuple, np.eye(8)[:distinct]))


def test_no_points_no_centroids() -> None:
    empty = np.empty((0, 4), np.float16)
    assert fit(empty, 3, KEY, 5).shape == (0, 4)
    labels, distances = assign(empty, np.ones((2, 4), np.float32))
    assert len(labels) == len(distances) == 0


def test_first_centroids_are_distinct_points() -> None:
    points, _ = blobs(400, seed=2)
    found = first_centroids(points, 200, KEY)
    assert len(np.unique(found, axis=0)) == 200
    assert set(map(tuple, found)) <= set(map(tuple, points.astype(np.float32)))
