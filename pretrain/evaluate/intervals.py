"""How sure a figure is: bootstrap over test samples, Student's t over seeds.

All encoders are resampled with the same numbers, so the interval of a difference is a paired
one (Efron & Tibshirani 1993, percentile method).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.digests import generator

BATCH = 64  # resamples held in memory at a time

Weights = NDArray[np.float64]
Statistic = Callable[[Weights], NDArray[np.float64]]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; n: how many samples, or seeds, it rests on."""

    value: float
    low: float
    high: float
    n: int


def accuracies(
    right: NDArray[np.float64],
    labels: NDArray[np.int64],
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Estimate]:
    """`accuracy` and `mean_per_class` of a test split, with intervals.

    right [n]: 1 where the answer was right and 0 where not, or the difference of two such
    arrays for a paired comparison; labels [n]: class numbers. In a resample that lacks a class,
    the mean is over those it has.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    one_hot = np.zeros((len(labels), len(classes)))
    one_hot[np.arange(len(labels)), numbers] = 1.0
    plain, balanced = [], []
    rng = generator(seed, "bootstrap", len(labels))
    for start in range(0, resamples, BATCH):
        count = min(BATCH, resamples - start)
        weights = _resample(rng, count, len(labels))
        plain.append(weights @ right / len(labels))
        sums, sizes = (weights * right) @ one_hot, weights @ one_hot
        balanced.append(
            np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0).sum(axis=1)
            / (sizes > 0).sum(axis=1)
        )
    per_class = (right @ one_hot) / one_hot.sum(axis=0)
    return {
        "accuracy": _estimate(float(right.mean()), plain, confidence, len(labels)),
        "mean_per_class": _estimate(float(per_class.mean()), balanced, confidence, len(labels)),
    }


def _estimate(
    value: float, draws: list[NDArray[np.float64]], confidence: float, n: int
) -> Estimate:
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.concatenate(draws), [tail, 1 - tail])
    return Estimate(value, float(low), float(high), n)


def _resample(rng: np.random.Generator, count: int, n: int) -> NDArray[np.int64]:
    """How often each of n samples is drawn in each of `count` resamples, [count, n]."""
    drawn = rng.integers(n, size=(count, n))
    return np.stack([np.bincount(row, minlength=n) for row in drawn])


def bootstrap(
    statistic: Statistic, sizes: Sequence[int], resamples: int, confidence: float, seed: int
) -> list[Estimate]:
    """The figures of a statistic with their intervals.

    statistic: how often each sample counts [r, n] -> figures [r, k], NaN where there is none.
    sizes: of the groups that are resampled each for itself, in order; they sum to n.
    """
    value = statistic(np.ones((1, sum(sizes))))[0]
    rng = generator(seed, "bootstrap", *sizes)
    draws = []
    for start in range(0, resamples, BATCH):
        count = min(BATCH, resamples - start)
        weights = [_resample(rng, count, size) for size in sizes]
        draws.append(statistic(np.concatenate(weights, axis=1).astype(np.float64)))
    return [
        _estimate(float(of_all), [draw[:, place] for draw in draws], confidence, sum(sizes))
        for place, of_all in enumerate(value)
    ]


def over_seeds(values: Sequence[float], confidence: float) -> Estimate:
    """The mean of one value for each seed, with Student's t interval; at least two values."""
    from scipy.special import stdtrit

    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    reach = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error
    return Estimate(mean, mean - reach, mean + reach, len(values))
