import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from infra.digests import generator
from pretrain.evaluate import calibration


def drawn(n: int, sharp: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose true temperature is `sharp`, and labels drawn from the true probabilities."""
    rng = generator("calibration", n)
    logits = rng.normal(0, 2, (n, 4))
    chances = softmax(logits, axis=1).cumsum(axis=1)
    return logits * sharp, (rng.random((n, 1)) > chances).sum(axis=1)


def test_softmax_and_brier_against_others():
    logits, labels = drawn(50, 1.0)
    found = calibration.softmax(logits, 2.0)
    np.testing.assert_allclose(found, softmax(logits / 2, axis=1))
    binary = found[:, :2] / found[:, :2].sum(axis=1, keepdims=True)
    ours = calibration.brier(binary, labels % 2).mean()
    # Over both classes: twice scikit-learn's for one.
    assert ours == pytest.approx(2 * brier_score_loss(labels % 2, binary[:, 1]))


def test_a_class_that_was_never_seen_has_no_probability():
    found = calibration.softmax(np.array([[0.0, -np.inf, 0.0]]))
    assert found.tolist() == [[0.5, 0, 0.5]]
    assert calibration.brier(found, np.array([1])).tolist() == [1.5]


def test_the_calibration_error_against_a_plain_loop():
    logits, labels = drawn(300, 3.0)
    found = calibration.softmax(logits)
    confidence, right = found.max(axis=1), found.argmax(axis=1) == labels
    expected = 0.0
    for low in range(10):
        inside = (confidence > low / 10) & (confidence <= (low + 1) / 10)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration.calibration_error(found, labels, 10)[0] == pytest.approx(expected)
    twice = np.concatenate([found, found[:100]]), np.concatenate([labels, labels[:100]])
    weights = np.array([[2.0] * 100 + [1.0] * 200])
    weighted = calibration.calibration_error(found, labels, 10, weights)[0]
    assert weighted == pytest.approx(calibration.calibration_error(*twice, 10)[0])


def test_a_bin_holds_its_upper_edge():
    edge = np.array([[0.5, 0.5], [0.6, 0.4]])
    # Two bins: 0.5 is in the first, 0.6 in the second; each gap counts for itself.
    assert calibration.calibration_error(edge, np.array([0, 1]), 2)[0] == pytest.approx(0.55)


def test_the_temperature_is_found_and_is_the_best():
    logits, labels = drawn(4000, 3.0)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(3.0, rel=0.05)
    losses = [
        log_loss(labels, softmax(logits / t, axis=1)) for t in (0.9 * found, found, 1.1 * found)
    ]
    assert losses[1] == min(losses)
    errors = [
        calibration.calibration_error(calibration.softmax(logits, t), labels, 15)[0]
        for t in (1.0, found)
    ]
    assert errors[0] > 0.1 and errors[1] < 0.03
    assert calibration.fit_temperature(logits[:0], labels[:0]) == 1.0
