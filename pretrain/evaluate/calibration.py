"""Does a confidence of 80 % mean 80 % right answers: calibration error, Brier score.

Of the linear probe, and of zero-shot classification where there is a text tower; as they are, and
with a temperature (Guo et al. 2017). The probe is fitted to four fifths of the train split here,
and the temperature, as the probe's penalty, on the fifth held out; the test split decides nothing.

The expected calibration error is over `bins` of equal width, (low, high]: the mean distance of
confidence from accuracy in a bin, weighted by its samples. It is biased upwards on few samples,
and a bootstrap adds to that: read its interval as a scale, not as a test against zero.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluate import linear_probe
from pretrain.evaluate.task import Asked, Reply, Task

LOWEST, HIGHEST = 1e-3, 1e3  # temperatures


def softmax(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Logits [n, classes] -> probabilities."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def calibration_error(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    bins: int,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Expected calibration error of the likeliest class, for each row of weights [r, n]: [r]."""
    weights = np.ones((1, len(labels))) if weights is None else weights
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    sums = np.zeros((len(labels), bins))
    sums[np.arange(len(labels)), place] = gap
    return np.abs(weights @ sums).sum(axis=1) / weights.sum(axis=1)


def brier(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared distance from the right answer over all classes (Brier 1950), 0 to 2: [n]."""
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The temperature with the least cross-entropy on logits [n, classes]; 1 without samples."""
    from scipy import optimize

    if not len(labels):
        return 1.0

    def loss(log: float) -> float:
        scaled = logits * np.exp(-log)
        top = scaled.max(axis=1)
        total = np.log(np.exp(scaled - top[:, None]).sum(axis=1)) + top
        return float((total - scaled[np.arange(len(labels)), labels]).mean())

    bounds = (float(np.log(LOWEST)), float(np.log(HIGHEST)))
    found: Any = optimize.minimize_scalar(
        loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}
    )
    return float(np.exp(found.x))


def run(asked: Asked) -> Reply:
    settings, classes = asked.settings, len(asked.classes)
    train, labels = asked.train.features, asked.train_numbers
    inside, held = linear_probe.split(labels, settings.seed)
    probe = linear_probe.fit(train[inside], labels[inside], asked.strength)
    logits = {
        "linear_probe": [probe.logits(rows, classes) for rows in (train[held], asked.test.features)]
    }
    scale = getattr(getattr(asked.encoder, "clip", None), "logit_scale", 100.0)
    if asked.class_vectors is not None:
        logits["zero_shot"] = [
            scale * (rows @ asked.class_vectors.T).astype(np.float64)
            for rows in (train[held], asked.test.features)
        ]
    figures, temperatures = {}, {}
    for name, (fitting, test) in logits.items():
        temperatures[name] = fit_temperature(fitting, labels[held])
        for word, temperature in (("", 1.0), ("_fitted", temperatures[name])):
            found = softmax(test, temperature)
            squares = brier(found, asked.test_numbers)

            def both(
                weights: NDArray[np.float64],
                found: NDArray[np.float64] = found,
                squares: NDArray[np.float64] = squares,
            ) -> NDArray[np.float64]:
                error = calibration_error(found, asked.test_numbers, settings.bins, weights)
                return np.stack([error, weights @ squares / weights.sum(axis=1)], axis=1)

            metrics = (f"{name}_ece_{settings.bins}_bins{word}", f"{name}_brier{word}")
            figures.update(zip(metrics, asked.estimate(both, len(test)), strict=True))
    return Reply(figures=figures, notes={"temperatures": temperatures, "held_out": len(held)})


TASK = Task(run)
