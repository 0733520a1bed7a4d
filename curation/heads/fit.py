"""Fitting a head's layers to labelled vectors, its regularisation chosen by cross-validation."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from curation.heads.calibration import cross_entropy, log_loss
from curation.heads.head import sigmoid

LINEAR = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  # penalties tried, against the sum of losses
HIDDEN = (1e-3, 1e-1, 10.0)  # with hidden layers, where a fit takes longer
STEPS = 1000  # of a linear fit, at most
EPOCHS = 100

Task = Literal["number", "chance", "classes"]  # what labels are: any, 0 or 1, places of names

Doubles = npt.NDArray[np.float64]
Layers = list[tuple[Doubles, Doubles]]  # weight [out, in], bias [out]; ReLU between them


@dataclass(frozen=True)
class Fitted:
    """layers; the penalty chosen; the loss of each; outputs [n] by models that did not see a row.

    Outputs are a logit for chances, [n, classes] of them for classes, else in the labels' units.
    """

    layers: Layers
    penalty: float
    losses: dict[str, float]
    unseen: Doubles


def fit(
    vectors: Doubles, labels: Doubles, folds: npt.NDArray[np.integer[Any]], task: Task,
    hidden: Sequence[int], seed: int,
) -> Fitted:  # fmt: skip
    """Ridge regression of numbers, else logistic; with hidden layers a ReLU network.

    vectors [n, dim], unit. folds [n]: which part of the cross-validation a row is left out of.
    """
    penalties = HIDDEN if hidden else LINEAR
    shape = (len(labels), int(labels.max()) + 1) if task == "classes" else (len(labels),)
    unseen = {penalty: np.empty(shape) for penalty in penalties}
    for fold in np.unique(folds):
        out = folds == fold
        for penalty in penalties:
            layers = fit_layers(vectors[~out], labels[~out], task, hidden, penalty, seed)
            unseen[penalty][out] = forward(layers, vectors[out])
    losses = {penalty: _loss(labels, found, task) for penalty, found in unseen.items()}
    best = min(penalties, key=lambda penalty: (losses[penalty], -penalty))
    layers = fit_layers(vectors, labels, task, hidden, best, seed)
    told = {f"{penalty:g}": loss for penalty, loss in losses.items()}
    return Fitted(layers, best, told, unseen[best])


def _loss(labels: Doubles, outputs: Doubles, task: Task) -> float:
    if task == "classes":
        return cross_entropy(labels, outputs)
    if task == "chance":
        return log_loss(labels, sigmoid(outputs))
    return float(np.mean((outputs - labels) ** 2))


def fit_layers(
    vectors: Doubles, labels: Doubles, task: Task, hidden: Sequence[int], penalty: float,
    seed: int,
) -> Layers:  # fmt: skip
    """One fit. Vectors are scaled so that a number of theirs is about 1, labels to spread 1."""
    scale = float(np.sqrt(vectors.shape[1]))
    middle, spread = (labels.mean(), labels.std() or 1.0) if task == "number" else (0.0, 1.0)
    model = _model(task, hidden, penalty, seed)
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
    """Vectors [n, dim] -> outputs [n], or [n, k] of a last layer with k of them."""
    values = vectors
    for weight, bias in layers[:-1]:
        values = np.maximum(values @ weight.T + bias, 0)
    outputs = values @ layers[-1][0].T + layers[-1][1]
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs


def _model(task: Task, hidden: Sequence[int], penalty: float, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if hidden:
        kind = MLPRegressor if task == "number" else MLPClassifier
        return kind(
            hidden_layer_sizes=tuple(hidden), alpha=penalty, random_state=seed, max_iter=EPOCHS
        )
    if task != "number":
        return LogisticRegression(C=1 / penalty, tol=1e-6, max_iter=STEPS)
    return Ridge(alpha=penalty, solver="cholesky")
