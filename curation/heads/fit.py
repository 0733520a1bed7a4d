"""Fitting a head's layers to labelled vectors, its regularisation chosen by cross-validation."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.heads.calibration import log_loss
from curation.heads.head import sigmoid

LINEAR = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  # penalties tried, against the sum of losses
HIDDEN = (1e-3, 1e-1, 10.0)  # with hidden layers, where a fit takes longer
STEPS = 1000  # of a linear fit, at most
EPOCHS = 100

Doubles = npt.NDArray[np.float64]
Layers = list[tuple[Doubles, Doubles]]  # weight [out, in], bias [out]; ReLU between them


@dataclass(frozen=True)
class Fitted:
    """layers; the penalty chosen; the loss of each; outputs [n] by models that did not see a row.

    Outputs are logits for classes, else in the labels' own units.
    """

    layers: Layers
    penalty: float
    losses: dict[str, float]
    unseen: Doubles


def fit(
    vectors: Doubles, labels: Doubles, folds: npt.NDArray[np.integer[Any]], classes: bool,
    hidden: Sequence[int], seed: int,
) -> Fitted:  # fmt: skip
    """Logistic regression where `classes`, else ridge; with hidden layers a ReLU network.

    vectors [n, dim], unit. folds [n]: which part of the cross-validation a row is left out of.
    """
    penalties = HIDDEN if hidden else LINEAR
    unseen = {penalty: np.empty(len(labels)) for penalty in penalties}
    for fold in np.unique(folds):
        out = folds == fold
        for penalty in penalties:
            layers = fit_layers(vectors[~out], labels[~out], classes, hidden, penalty, seed)
            unseen[penalty][out] = forward(layers, vectors[out])
    losses = {penalty: _loss(labels, found, classes) for penalty, found in unseen.items()}
    best = min(penalties, key=lambda penalty: (losses[penalty], -penalty))
    layers = fit_layers(vectors, labels, classes, hidden, best, seed)
    told = {f"{penalty:g}": loss for penalty, loss in losses.items()}
    return Fitted(layers, best, told, unseen[best])


def _loss(labels: Doubles, outputs: Doubles, classes: bool) -> float:
    if classes:
        return log_loss(labels, sigmoid(outputs))
    return float(np.mean((outputs - labels) ** 2))


def fit_layers(
    vectors: Doubles, labels: Doubles, classes: bool, hidden: Sequence[int], penalty: float,
    seed: int,
) -> Layers:  # fmt: skip
    """One fit. Vectors are scaled so that a number of theirs is about 1, labels to spread 1."""
    scale = float(np.sqrt(vectors.shape[1]))
    middle, spread = (0.0, 1.0) if classes else (labels.mean(), labels.std() or 1.0)
    model = _model(classes, hidden, penalty, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge is what the figures show
        model.fit(vectors * scale, (labels - middle) / spread)
    if hidden:
        layers = [(w.T, b) for w, b in zip(model.coefs_, model.intercepts_, strict=True)]
    else:
        layers = [(np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_))]
    layers = [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers]
    layers[0] = (layers[0][0] * scale, layers[0][1])
    return rescaled(layers, spread, middle)


def rescaled(layers: Layers, factor: float, offset: float) -> Layers:
    """The layers whose output is factor times theirs, plus offset."""
    weight, bias = layers[-1]
    return [*layers[:-1], (weight * factor, bias * factor + offset)]


def forward(layers: Layers, vectors: Doubles) -> Doubles:
    """Vectors [n, dim] -> outputs [n]."""
    values = vectors
    for weight, bias in layers[:-1]:
        values = np.maximum(values @ weight.T + bias, 0)
    return (values @ layers[-1][0].T + layers[-1][1])[:, 0]


def _model(classes: bool, hidden: Sequence[int], penalty: float, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if hidden:
        kind = MLPClassifier if classes else MLPRegressor
        return kind(
            hidden_layer_sizes=tuple(hidden), alpha=penalty, random_state=seed, max_iter=EPOCHS
        )
    if classes:
        return LogisticRegression(C=1 / penalty, tol=1e-6, max_iter=STEPS)
    return Ridge(alpha=penalty, solver="cholesky")
