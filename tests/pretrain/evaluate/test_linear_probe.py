import numpy as np
import pytest

from infra.digests import generator
from pretrain.evaluate import linear_probe


def blobs(count: int, noise: float, key: str) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(key)
    labels = np.arange(count) % 3
    centres = np.array([[10.0, 0.0], [0.0, 0.01], [-10.0, 0.0]])
    centres[1, 1] = 0.03  # class 1 stands out only once features are standardised
    data = centres[labels] * [1.0, 1.0] + rng.normal(size=(count, 2)) * [noise, noise / 1000]
    return data.astype(np.float32), labels


def test_learns_what_a_line_can_part_whatever_the_scale_of_a_feature():
    train, labels = blobs(300, 1.0, "train")
    test, truth = blobs(90, 1.0, "test")
    answers, _ = linear_probe.classify(train, labels, test, (0.01, 1.0))
    assert (answers == truth).mean() > 0.98


def test_weak_features_get_a_strong_penalty():
    rng = generator("noise")
    train = rng.normal(size=(200, 150)).astype(np.float32)
    labels = np.arange(200) % 2
    train[:, 0] += labels * 1.5
    _, noisy = linear_probe.classify(train, labels, train[:5], (1e-3, 1e3))
    assert noisy == 1e-3


def test_the_held_out_fifth_has_its_share_of_every_class():
    labels = np.array([0] * 50 + [1] * 10 + [2] * 3)
    inside, held = linear_probe.split(labels, seed=1)
    assert sorted([*inside, *held]) == list(range(63))
    assert np.bincount(labels[held]).tolist() == [10, 2]
    other = linear_probe.split(labels, seed=2)[1]
    assert held.tolist() != other.tolist()
    assert held.tolist() == linear_probe.split(labels, seed=1)[1].tolist()


@pytest.mark.parametrize("labels", [[4], [4, 4, 4], [0, 1, 2]])
def test_splits_too_small_to_choose_on(labels):
    train = np.eye(3, dtype=np.float32)[: len(labels)]
    answers, _ = linear_probe.classify(train, np.array(labels), train, (0.1, 1.0))
    assert answers.tolist() == labels


def test_constant_features_do_no_harm():
    train, labels = blobs(60, 1.0, "train")
    padded = np.concatenate([train, np.full((60, 1), 7, np.float32)], axis=1)
    answers, _ = linear_probe.classify(padded, labels, padded, (1.0,))
    assert (answers == labels).all()


@pytest.mark.parametrize("classes", [2, 3])
def test_logits_are_scikit_learns(classes):
    from scipy.special import softmax
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rows = generator("logits").normal(size=(90, 4)).astype(np.float32)
    labels = np.arange(90) % classes * 2  # class 1 is not there
    rows[:, 0] += labels
    scaled = StandardScaler().fit_transform(rows.astype(np.float64))
    model = LogisticRegression(C=0.1, max_iter=500).fit(scaled, labels)
    found = linear_probe.fit(rows, labels, 0.1).logits(rows, 5)
    assert np.isneginf(found[:, [1, 3]]).all()
    chances = softmax(found, axis=1)[:, np.unique(labels)]
    np.testing.assert_allclose(chances, model.predict_proba(scaled), atol=1e-3)


def test_the_test_split_does_not_choose_the_penalty():
    train, labels = blobs(60, 3.0, "train")
    strengths = (1e-4, 1e-1, 10.0)
    found = {
        linear_probe.classify(train, labels, test, strengths)[1]
        for test in (train[:1], -train, 100 * train)
    }
    assert found == {linear_probe.choose(train, labels, strengths)}
