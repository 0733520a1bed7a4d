import numpy as np
import pytest

from infra.digests import generator
from pretrain.evaluate.intervals import accuracies, bootstrap, over_seeds


def test_the_interval_of_a_proportion_is_the_binomial_one():
    right = (np.arange(1000) % 10 < 8).astype(np.float64)
    found = accuracies(right, np.zeros(1000, np.int64), 2000, 0.95, seed=0)["accuracy"]
    assert found.value == pytest.approx(0.8) and found.n == 1000
    reach = 1.96 * (0.8 * 0.2 / 1000) ** 0.5
    assert found.low == pytest.approx(0.8 - reach, abs=0.004)
    assert found.high == pytest.approx(0.8 + reach, abs=0.004)


def test_the_interval_holds_what_it_says():
    inside = 0
    for trial in range(200):
        right = (generator("coverage", trial).random(150) < 0.7).astype(np.float64)
        found = accuracies(right, np.zeros(150, np.int64), 200, 0.9, seed=trial)["accuracy"]
        inside += found.low <= 0.7 <= found.high
    assert 0.82 <= inside / 200 <= 0.97


def test_rare_classes_count_as_much_in_the_mean_per_class():
    labels = np.array([0] * 90 + [1] * 10)
    right = (labels == 0).astype(np.float64)
    found = accuracies(right, labels, 300, 0.95, seed=0)
    assert found["accuracy"].value == pytest.approx(0.9)
    assert found["mean_per_class"].value == pytest.approx(0.5)
    assert found["mean_per_class"].low == found["mean_per_class"].high == pytest.approx(0.5)


def test_a_paired_difference_is_surer_than_two_figures():
    rng = generator("paired")
    labels = np.zeros(400, np.int64)
    worse = (rng.random(400) < 0.5).astype(np.float64)
    better = worse.copy()
    better[np.flatnonzero(worse == 0)[:20]] = 1
    found = accuracies(better - worse, labels, 1000, 0.95, seed=0)["accuracy"]
    assert found.value == pytest.approx(0.05)
    assert found.low > 0.02  # two separate intervals of +-0.05 would overlap
    same = accuracies(worse - worse, labels, 100, 0.95, seed=0)["accuracy"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_over_seeds_is_students_t():
    found = over_seeds([0.1, 0.2, 0.3], 0.95)
    assert found.value == pytest.approx(0.2) and found.n == 3
    assert found.high - found.value == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-3)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_a_bootstrapped_mean_is_the_accuracy_with_its_interval():
    right = (np.arange(150) % 3 > 0).astype(np.float64)
    found = bootstrap(lambda w: w @ right[:, None] / w.sum(1)[:, None], [150], 300, 0.95, 4)
    assert found == [accuracies(right, np.zeros(150, np.int64), 300, 0.95, 4)["accuracy"]]


def test_groups_are_resampled_each_for_itself():
    def sizes(weights):
        return np.stack([weights[:, :30].sum(axis=1), weights[:, 30:].sum(axis=1)], axis=1)

    found = bootstrap(sizes, [30, 20], 100, 0.95, 0)
    assert [(each.low, each.high, each.n) for each in found] == [(30, 30, 50), (20, 20, 50)]
