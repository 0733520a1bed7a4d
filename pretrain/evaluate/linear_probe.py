"""Linear probe: multinomial logistic regression with an L2 penalty on frozen features."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.digests import generator

HELD_OUT = 5  # one in so many train samples chooses the penalty
ITERATIONS = 500
TOLERANCE = 1e-4


def classify(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    strengths: Sequence[float],
    seed: int = 0,
) -> tuple[NDArray[np.int64], float]:
    """Class numbers of the test rows, [t], and the inverse strength of the penalty chosen.

    train [n, dimension] with labels [n]; test [t, dimension]. Features are standardised by the
    train split's means and deviations. A fifth of the train split, the same share of every
    class, chooses among `strengths` (the strongest penalty of equals); then the probe is fitted
    to all of it.
    """
    inside, held = split(train_labels, seed)
    chosen = max(strengths)
    if len(held) and len(np.unique(train_labels[inside])) > 1:
        scores = _path(train[inside], train_labels[inside], train[held], strengths)
        right = [(answers == train_labels[held]).mean() for answers in scores]
        chosen = sorted(strengths)[int(np.argmax(right))]
    if len(np.unique(train_labels)) == 1:
        return np.full(len(test), train_labels[0]), chosen
    return _path(train, train_labels, test, [chosen])[0], chosen


def split(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers to fit on, and every fifth of each class, in random order, to choose on."""
    order = generator(seed, "linear probe").permutation(len(labels))
    held = [
        row
        for label in np.unique(labels)
        for row in order[labels[order] == label][HELD_OUT - 1 :: HELD_OUT]
    ]
    return np.setdiff1d(np.arange(len(labels)), held), np.sort(np.asarray(held, np.int64))


def _path(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    strengths: Sequence[float],
) -> list[NDArray[np.int64]]:
    """Answers for each strength, ascending; each fit starts from the one before."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 1e-6, deviation, 1.0)
    scaled, scaled_test = (((rows - mean) / deviation).astype(np.float64) for rows in (train, test))
    model: Any = LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE, warm_start=True)
    answers = []
    for strength in sorted(strengths):
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties on few samples
            model.fit(scaled, labels)
        answers.append(model.predict(scaled_test).astype(np.int64))
    return answers
