import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from infra.digests import generator
from pretrain.evaluate import out_of_distribution as ood


def test_auroc_is_scikit_learns_with_ties_and_weights():
    rng = generator("auroc")
    inside, outside = np.round(rng.normal(0, 1, 60), 1), np.round(rng.normal(0.7, 1, 40), 1)
    truth, scores = np.repeat([0, 1], [60, 40]), np.concatenate([inside, outside])
    assert ood.auroc(inside, outside)[0] == pytest.approx(roc_auc_score(truth, scores))
    weights = rng.integers(0, 4, 100).astype(float)
    expected = roc_auc_score(truth, scores, sample_weight=weights)
    found = ood.auroc(inside, outside, np.stack([weights, np.ones(100)]))
    assert found[0] == pytest.approx(expected)
    assert (
        ood.auroc(np.zeros(3), np.ones(2))[0] == 1 and ood.auroc(np.ones(3), np.ones(2))[0] == 0.5
    )


def test_the_distance_to_the_kth_neighbour_against_a_plain_loop(monkeypatch):
    rng = generator("distance")
    bank, queries = (rng.normal(size=(count, 5)).astype(np.float32) for count in (30, 11))
    monkeypatch.setattr(ood, "CHUNK", 4)
    found = ood.knn_distance(bank, queries, 3)
    for query, distance in zip(queries, found, strict=True):
        parts = [
            np.linalg.norm(row / np.linalg.norm(row) - query / np.linalg.norm(query))
            for row in bank
        ]
        assert distance == pytest.approx(sorted(parts)[2], abs=1e-5)
    assert ood.knn_distance(bank[:2], queries, 20).shape == (11,)
