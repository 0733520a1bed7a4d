"""Logistic regression with an L2 penalty: many features, one penalty after another.

The least of the mean cross-entropy + |weights|^2 / (2 strength n), as scikit-learn's, in a
fraction of the time where features are many and go together, as pixels do: by L-BFGS in
coordinates in which the loss is about as steep one way as another. Its curvature is at most
(1 - 1/k) / k of the features' own second moments where all k classes are equally likely (Böhning
1992, "Multinomial logistic regression algorithm", bounds it everywhere), and that is factored once.
Where features are more than samples, the weights lie among the samples, and are sought there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ITERATIONS = 500
TOLERANCE = 1e-4  # largest slope along a coordinate in which the curvature is about 1
RIDGE = 1e-9  # added to inner products of samples, as a share of their mean square

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Fitted:
    """weights [features, k] and bias [k], k being 1 of two classes: the log odds of the second.

    inner: the weights as the fit has them, from which another penalty's may start.
    """

    inner: Floats
    bias: Floats
    weights: Floats


class Logistic:
    """Fits to rows [n, features], which should be standardised."""

    def __init__(self, rows: Floats) -> None:
        from scipy.linalg import cholesky

        self._rows, self._root = rows, None
        self._inner = rows  # in the coordinates of the fit
        if rows.shape[1] > len(rows):
            wide = rows.astype(np.float64)
            products = wide @ wide.T
            products[np.diag_indices(len(rows))] += RIDGE * max(products.trace() / len(rows), 1.0)
            self._root = cholesky(products, lower=True, overwrite_a=True, check_finite=False)
            self._inner = np.ascontiguousarray(self._root, np.float32)
        self._moments = self._inner.T @ self._inner / len(rows)
        self._factor: tuple[tuple[float, float], Floats] | None = None  # of the last penalty

    def fit(
        self, labels: NDArray[np.int64], strength: float, start: Fitted | None = None
    ) -> Fitted:
        """labels: [n], from 0 to k - 1, of each at least one. start: the fit of another penalty."""
        from scipy.optimize import minimize

        classes = int(labels.max()) + 1
        told = 1 if classes == 2 else classes
        curve, ridge = (1 - 1 / classes) / classes, 1 / (strength * len(labels))
        slope = Slope(self._inner, labels, self._factored(curve, ridge), curve**0.5, ridge, told)
        begin = np.zeros((self._inner.shape[1] + 1) * told)
        if start is not None:
            begin = slope.coordinates(start.inner, start.bias)
        options = {"maxiter": ITERATIONS, "gtol": TOLERANCE, "ftol": 1e-10, "maxls": 50}
        found: Any = minimize(slope, begin, jac=True, method="L-BFGS-B", options=options)
        inner, bias = slope.weights(found.x)
        return Fitted(inner, bias, self._outward(inner))

    def _factored(self, curve: float, ridge: float) -> Floats:
        """The lower Cholesky factor of the curvature, [m, m]."""
        from scipy.linalg import cholesky

        if self._factor is None or self._factor[0] != (curve, ridge):
            bound = np.float32(curve) * self._moments
            bound[np.diag_indices(len(bound))] += ridge
            lower = cholesky(bound, lower=True, overwrite_a=True, check_finite=False)
            self._factor = (curve, ridge), lower
        return self._factor[1]

    def _outward(self, inner: Floats) -> Floats:
        """Weights of the features, from those of the coordinates of the fit."""
        from scipy.linalg import solve_triangular

        if self._root is None:
            return inner
        return self._rows.T @ solve_triangular(
            self._root, inner, lower=True, trans=1, check_finite=False
        ).astype(np.float32)


@dataclass(frozen=True)
class Slope:
    """The loss and its gradient, in the coordinates that L-BFGS is given.

    rows [n, m]; lower [m, m]: weights are the inverse of its transpose times coordinates; scale:
    of the bias.
    """

    rows: Floats
    labels: NDArray[np.int64]
    lower: Floats
    scale: float
    ridge: float
    told: int

    def coordinates(self, weights: Floats, bias: Floats) -> NDArray[np.float64]:
        point = np.concatenate([self.lower.T @ weights, self.scale * bias[None]])
        return point.ravel().astype(np.float64)

    def weights(self, coordinates: NDArray[np.float64]) -> tuple[Floats, Floats]:
        from scipy.linalg import solve_triangular

        point = coordinates.reshape(-1, self.told).astype(np.float32)
        weights = solve_triangular(self.lower, point[:-1], lower=True, trans=1, check_finite=False)
        return weights, point[-1] / np.float32(self.scale)

    def __call__(self, coordinates: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        from scipy.linalg import solve_triangular

        weights, bias = self.weights(coordinates)
        logits = self.rows @ weights + bias
        if self.told == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        each = np.arange(len(logits))
        logits -= logits.max(axis=1, keepdims=True)
        right = logits[each, self.labels]
        chances = np.exp(logits, out=logits)
        sums = chances.sum(axis=1, keepdims=True)
        penalty = self.ridge / 2 * np.square(weights, dtype=np.float64).sum()
        loss = float((np.log(sums[:, 0]) - right).mean(dtype=np.float64) + penalty)
        chances /= sums
        chances[each, self.labels] -= 1
        off = chances[:, -self.told :] / np.float32(len(logits))
        down = self.rows.T @ off + np.float32(self.ridge) * weights
        slope = solve_triangular(self.lower, down, lower=True, check_finite=False)
        slope = np.concatenate([slope, off.sum(axis=0, keepdims=True) / self.scale])
        return loss, slope.ravel().astype(np.float64)
