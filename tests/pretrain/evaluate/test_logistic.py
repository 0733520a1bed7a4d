"""Logistic regression against scikit-learn's."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from infra.digests import generator
from pretrain.evaluate.logistic import Logistic

STRENGTHS = (1e-4, 1e-2, 1.0)


def pixels(count: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features that go together, as neighbouring pixels do, and what a line tells of them."""
    rng = generator("pixels", count, width)
    rows = np.cumsum(rng.normal(size=(count, width)), axis=1)
    labels = np.argmax(rows[:, :: width // classes][:, :classes] + rng.normal(size=classes), axis=1)
    numbers = np.unique(labels, return_inverse=True)[1]
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return rows.astype(np.float32), numbers.astype(np.int64)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("count", "width"), [(300, 40), (120, 400)])
def test_chances_are_scikit_learns_whatever_is_more(count: int, width: int, classes: int) -> None:
    rows, labels = pixels(count, width, classes)
    problem, fitted = Logistic(rows), None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, tol=1e-7, max_iter=20_000)
        true = model.fit(rows.astype(np.float64), labels)
        fitted = problem.fit(labels, strength, fitted)
        logits = rows @ fitted.weights + fitted.bias
        if logits.shape[1] == 1:
            logits = np.concatenate([0 * logits, logits], axis=1)
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        assert chances == pytest.approx(true.predict_proba(rows.astype(np.float64)), abs=2e-3)
        shown = true.coef_.T
        assert fitted.weights == pytest.approx(shown, abs=0.02 * float(np.abs(shown).max()))


def test_a_start_elsewhere_ends_at_the_same_place() -> None:
    rows, labels = pixels(200, 60, 4)
    problem = Logistic(rows)
    cold = problem.fit(labels, 1e-2)
    warm = problem.fit(labels, 1e-2, problem.fit(labels, 1.0))
    assert warm.weights == pytest.approx(cold.weights, abs=0.02 * float(cold.weights.max()))


def test_samples_that_are_there_twice_and_features_that_say_nothing() -> None:
    rows, labels = pixels(40, 200, 3)
    twice, numbers = np.concatenate([rows, rows]), np.concatenate([labels, labels])
    fitted = Logistic(twice).fit(numbers, 0.1)
    assert ((twice @ fitted.weights + fitted.bias).argmax(axis=1) == numbers).all()
    empty = np.zeros((4, 9), np.float32)
    nothing = Logistic(empty).fit(np.array([0, 0, 0, 1]), 1.0)
    assert nothing.weights == pytest.approx(0)
    assert nothing.bias[0] == pytest.approx(-np.log(3), abs=1e-3)
