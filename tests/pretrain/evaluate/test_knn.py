import math

import numpy as np
import pytest

from infra.digests import generator
from pretrain.evaluate import knn


def test_votes_are_weighted_by_similarity():
    # Two near neighbours of class 1 outweigh three far ones of class 0 only by temperature.
    angles = np.array([0.1, 0.1, 0.6, 0.6, 0.6])
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([1, 1, 0, 0, 0])
    query = np.array([[3.0, 0.0]], np.float32)  # its length must not matter
    assert knn.classify(bank, labels, query, 2, 5, temperature=0.07).tolist() == [1]
    assert knn.classify(bank, labels, query, 2, 5, temperature=100).tolist() == [0]


def test_agrees_with_a_plain_loop():
    rng = generator("knn")
    bank, queries = (rng.normal(size=(count, 8)).astype(np.float32) for count in (300, 50))
    labels = rng.integers(0, 7, 300)
    expected = []
    for query in queries:
        cosines = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        votes = [0.0] * 7
        for index in sorted(range(300), key=lambda row: -cosines[row])[:20]:
            votes[labels[index]] += math.exp(cosines[index] / 0.07)
        expected.append(votes.index(max(votes)))
    assert knn.classify(bank, labels, queries, 7).tolist() == expected


@pytest.mark.parametrize("size", [1, 3])
def test_a_bank_smaller_than_k(size):
    bank = np.eye(3, dtype=np.float32)[:size]
    assert knn.classify(bank, np.arange(size), bank, 3, neighbours=20).tolist() == [*range(size)]


def test_chunks_do_not_matter(monkeypatch):
    rng = generator("chunks")
    bank, queries = (rng.normal(size=(count, 4)).astype(np.float32) for count in (60, 40))
    labels = rng.integers(0, 5, 60)
    whole = knn.classify(bank, labels, queries, 5)
    monkeypatch.setattr(knn, "CHUNK", 7)
    np.testing.assert_array_equal(knn.classify(bank, labels, queries, 5), whole)
