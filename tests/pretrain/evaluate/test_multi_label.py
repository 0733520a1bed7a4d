import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from infra.digests import generator
from infra.errors import SluiceError
from pretrain.evaluate import multi_label
from pretrain.evaluate.labelled import Labelled


def test_the_mean_average_precision_is_scikit_learns():
    rng = generator("map")
    truth = (rng.random((80, 6)) < 0.3).astype(float)
    truth[:, 5] = 0  # a class without a positive does not count
    scores = np.round(rng.normal(size=(80, 6)) + truth, 1)  # with ties
    expected = [average_precision_score(truth[:, place], scores[:, place]) for place in range(5)]
    assert multi_label.mean_average_precision(scores, truth)[0] == pytest.approx(np.mean(expected))
    weights = rng.integers(0, 3, 80).astype(float)
    expected = [
        average_precision_score(truth[:, place], scores[:, place], sample_weight=weights)
        for place in range(5)
    ]
    found = multi_label.mean_average_precision(scores, truth, np.stack([weights, np.ones(80)]))
    assert found[0] == pytest.approx(np.mean(expected))
    assert np.isnan(multi_label.mean_average_precision(scores, 0 * truth)[0])


def test_the_probe_learns_each_class_for_itself():
    rng = generator("multi label test")
    rows = rng.normal(size=(300, 8)).astype(np.float32)
    truth = (rows[:, :3] > 0.5).astype(float)
    truth = np.concatenate([truth, np.ones((300, 1))], axis=1)  # one that all have
    scores, chosen = multi_label.probe(rows[:200], truth[:200], rows[200:], (1e-3, 1.0), 0)
    assert multi_label.mean_average_precision(scores[:, :3], truth[200:, :3])[0] > 0.95
    assert chosen in (1e-3, 1.0) and (scores[:, 3] == 0).all()


def test_targets_and_a_sample_without_a_list():
    split = Labelled(np.zeros((3, 2), np.float32), ["u", "v", "w"], [""] * 3, 0, [()] * 3, [])
    split.tags.extend([("cat", "dog"), (), ("dog",)])
    found = multi_label.targets(split, ["cat", "dog"], "labels", "test")
    assert found.tolist() == [[1, 1], [0, 0], [0, 1]]
    split.tags[1] = None
    with pytest.raises(SluiceError, match="sample v of the test split has no list 'labels'"):
        multi_label.targets(split, ["cat", "dog"], "labels", "test")
