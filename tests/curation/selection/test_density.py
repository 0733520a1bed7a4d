"""Density-based pruning: the quotas against the quadratic program, and what it prefers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.selection.density import share, softmax
from tests.curation.conftest import Maker


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 5)), min_size=1), st.integers(0, 300))
def test_quotas_solve_the_quadratic_program(clusters, target) -> None:
    sizes = np.array([size for size, _ in clusters])
    wanted = softmax(np.array([value for _, value in clusters]), sizes > 0)
    quotas = share(sizes, wanted, target)
    whole = min(target, sizes.sum())
    assert quotas.sum() == whole
    least = np.minimum(sizes, 1) * (whole >= (sizes > 0).sum())
    assert (quotas >= least).all() and (quotas <= sizes).all()

    def loss(found: np.ndarray) -> float:
        return float(((found - wanted * whole) ** 2).sum())

    for a in range(min(len(sizes), 6)):  # no row moved from one cluster to another does better
        for b in range(min(len(sizes), 6)):
            if a != b and quotas[a] > least[a] and quotas[b] < sizes[b]:
                moved = quotas.copy()
                moved[a] -= 1
                moved[b] += 1
                assert loss(moved) >= loss(quotas) - 1e-6


def test_shares_are_a_softmax() -> None:
    found = softmax(np.array([1.0, 2.0, 9.0]), np.array([True, True, False]))
    assert found == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e), 0])
    assert softmax(np.zeros(2), np.zeros(2, bool)).tolist() == [0, 0]


def test_dense_clusters_give_less(maker: Maker, selecting) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    spread = np.where(labels == 0, 0.01, 0.3)[:, None]
    vectors = np.eye(8)[labels] + rng.normal(size=(120, 8)) * spread
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    maker = Maker(maker.store, 50)
    made = maker.dataset("pool", [{}] * 120)
    maker.score(made, "clip", {"fine": [True] * 120}, {"image": vectors})
    plan = {"kind": "density", "clusters": 2, "target": 40, "temperature": 1}
    artifact = selecting.select(made, plan)
    chosen = np.array(selecting.table(artifact.url, made)["selected"].to_pylist())
    dense, loose = np.bincount(labels[chosen], minlength=2)
    assert dense + loose == 40 and 1 <= dense < loose
    far = np.linalg.norm(vectors - vectors[labels == 1].mean(axis=0), axis=1)
    assert far[chosen & (labels == 1)].min() >= far[~chosen & (labels == 1)].max() - 0.05
    (part,) = artifact.parts
    assert part.extra["selectors"][0]["expected"] == 40
