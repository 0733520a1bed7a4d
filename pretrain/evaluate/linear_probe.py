"""Linear probe: multinomial logistic regression with an L2 penalty on frozen features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.digests import generator
from pretrain.evaluate.logistic import Logistic
from pretrain.evaluate.task import Asked, Reply, Task

HELD_OUT = 5  # one in so many train samples chooses the penalty


@dataclass(frozen=True)
class Probe:
    """A fitted probe: weights [present, dimension] and bias [present] on standardised features.

    present: the numbers of the classes it was fitted to.
    """

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    present: NDArray[np.int64]

    def logits(self, rows: NDArray[np.float32], classes: int) -> NDArray[np.float64]:
        """Features [n, dimension] -> [n, classes]; minus infinity for a class it never saw."""
        found = np.full((len(rows), classes), -np.inf)
        scaled = ((rows - self.mean) / self.deviation).astype(np.float64)
        found[:, self.present] = scaled @ self.weights.T + self.bias
        return found

    def classify(self, rows: NDArray[np.float32]) -> NDArray[np.int64]:
        """Features [n, dimension] -> class numbers [n]."""
        return np.argmax(self.logits(rows, int(self.present[-1]) + 1), axis=1)


def choose(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    strengths: Sequence[float],
    seed: int = 0,
) -> float:
    """The inverse strength of the penalty that answers best on a held-out fifth of `train`.

    The same share of every class is held out; the strongest penalty of equals is taken, and the
    weakest where there is nothing to choose on.
    """
    inside, held = split(labels, seed)
    if not len(held) or len(np.unique(labels[inside])) == 1:
        return max(strengths)
    path = _path(train[inside], labels[inside], strengths)
    right = [(probe.classify(train[held]) == labels[held]).mean() for probe in path]
    return sorted(strengths)[int(np.argmax(right))]


def fit(train: NDArray[np.float32], labels: NDArray[np.int64], strength: float) -> Probe:
    """The probe of this inverse strength, fitted to all of `train` [n, dimension], labels [n].

    Features are standardised by their means and deviations in `train`.
    """
    return _path(train, labels, [strength])[0]


def classify(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    strengths: Sequence[float],
    seed: int = 0,
) -> tuple[NDArray[np.int64], float]:
    """Class numbers of the test rows, [t], and the inverse strength of the penalty chosen."""
    chosen = choose(train, train_labels, strengths, seed)
    return fit(train, train_labels, chosen).classify(test), chosen


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
    train: NDArray[np.float32], labels: NDArray[np.int64], strengths: Sequence[float]
) -> list[Probe]:
    """A probe for each strength, ascending; each fit starts from the one before."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
    present = np.unique(labels)
    if len(present) == 1:
        alone = Probe(mean, deviation, np.zeros((1, train.shape[1])), np.zeros(1), present)
        return [alone for _ in strengths]
    problem = Logistic((train - mean) / deviation)
    numbers = np.searchsorted(present, labels)
    probes: list[Probe] = []
    fitted = None
    for strength in sorted(strengths):
        fitted = problem.fit(numbers, strength, fitted)
        weights, bias = (part.astype(np.float64) for part in (fitted.weights.T, fitted.bias))
        if len(present) == 2:
            weights, bias = (np.concatenate([0 * part, part]) for part in (weights, bias))
        probes.append(Probe(mean, deviation, weights, bias, present))
    return probes


def run(asked: Asked) -> Reply:
    return Reply(asked.probe.classify(asked.test.features), notes={"strength": asked.strength})


TASK = Task(run)
