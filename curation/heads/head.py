"""A head as arrays: linear layers over a vector; one number out, or one for each class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.heads.card import Card

ROWS = 1024  # vectors that pass through the layers at once: a bound of memory alone

Floats = npt.NDArray[np.float32]
Vectors = npt.NDArray[np.floating[Any]]


def sigmoid(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """1 / (1 + exp(-x)) without overflow; as exact as the type allows at both ends."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1, small) / (1 + small)


def gelu(values: Floats) -> Floats:
    from scipy.special import erf

    return (values * (1 + erf(values / np.sqrt(2))) / 2).astype(np.float32)


def softmax(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Probabilities over the last axis, without overflow."""
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "none": lambda values: values,
    "relu": lambda values: np.maximum(values, 0),
    "gelu": gelu,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "softmax": softmax,
}


@dataclass(frozen=True)
class Head:
    """card: what it says of itself. weights, biases: float32 [out, in], [out] of each layer.

    mean, deviation: float32 [dimension], subtracted and divided by before the first layer.
    """

    card: Card
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    mean: Floats | None = None
    deviation: Floats | None = None

    def apply(self, vectors: Vectors) -> Floats:
        """Vectors [n, dimension] -> scores, float32 [n]; NaN where a number grew out of float32.

        With classes: [n, classes], probabilities.

        A score depends on its own vector alone, not on the batch it came in: each vector is
        multiplied by itself. One product for all adds in another order at the edges of a block,
        and costs two thirds of this.
        """
        shape = (len(self.card.classes),) if self.card.classes else ()
        scores = np.empty((len(vectors), *shape), np.float32)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for start in range(0, len(vectors), ROWS):
                piece = vectors[start : start + ROWS].astype(np.float32)
                scores[start : start + ROWS] = self._forward(piece)
        scores[~np.isfinite(scores)] = np.nan
        return scores

    def _forward(self, values: Floats) -> Floats:
        if self.mean is not None and self.deviation is not None:
            values = ((values - self.mean) / self.deviation).astype(np.float32)
        layers = zip(self.weights, self.biases, self.card.activations, strict=True)
        for weight, bias, activation in layers:
            products: Floats = np.matmul(values[:, None, :], weight.T)[:, 0, :]  # one for each row
            values = ACTIVATIONS[activation](products + bias)
        return ACTIVATIONS[self.card.output](values if self.card.classes else values[:, 0])
