"""How good a head is on labels it has not seen, and whether its probabilities are ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.heads.head import sigmoid

BINS = 10  # of the reliability diagram, of equal width
Z = 1.959964  # a standard normal's 97.5 % quantile
LEAST = 1e-12  # a probability's distance from 0 and 1 in the log loss

Doubles = npt.NDArray[np.float64]


def auroc(labels: Doubles, scores: Doubles) -> float:
    """The chance that a positive scores above a negative, ties counting half; NaN without both."""
    from scipy.stats import rankdata

    positive = labels == 1
    count, others = int(positive.sum()), int((~positive).sum())
    if not (count and others):
        return float("nan")
    ranks: Doubles = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def average_precision(labels: Doubles, scores: Doubles) -> float:
    """Precision averaged over the steps in recall; equal scores are one step. NaN without any."""
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(labels[order])
    if not len(hits) or not hits[-1]:
        return float("nan")
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    steps = np.diff(hits[last], prepend=0.0)
    return float((steps * hits[last] / (last + 1)).sum() / hits[-1])


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927); 0..1 where nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, spread = successes / count, Z * Z / count
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def reliability(labels: Doubles, probabilities: Doubles) -> list[dict[str, float]]:
    """For each bin that is not empty: its count, mean probability, share of positives, interval."""
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    table: list[dict[str, float]] = []
    for place in range(BINS):
        inside = bins == place
        count, hits = int(inside.sum()), int(labels[inside].sum())
        if count:
            low, high = wilson(hits, count)
            mean = float(probabilities[inside].mean())
            row = {"count": count, "predicted": mean, "observed": hits / count}
            table.append(row | {"low": low, "high": high})
    return table


def expected_calibration_error(table: list[dict[str, float]]) -> float:
    """The mean gap of predicted and observed over the bins, by count (Naeini et al. 2015)."""
    gaps = [row["count"] * abs(row["predicted"] - row["observed"]) for row in table]
    return sum(gaps) / max(sum(row["count"] for row in table), 1)


def log_loss(labels: Doubles, probabilities: Doubles) -> float:
    held = np.clip(probabilities, LEAST, 1 - LEAST)
    return float(-np.mean(labels * np.log(held) + (1 - labels) * np.log(1 - held)))


def probability_figures(labels: Doubles, probabilities: Doubles) -> dict[str, float]:
    """Expected calibration error, Brier score, log loss."""
    table = reliability(labels, probabilities)
    return {
        "ece": expected_calibration_error(table),
        "brier": float(np.mean((probabilities - labels) ** 2)),
        "log_loss": log_loss(labels, probabilities),
    }


def at_threshold(labels: Doubles, scores: Doubles, threshold: float) -> dict[str, Any]:
    """Accuracy, precision and recall where a score at or above the threshold says yes."""
    said = scores >= threshold
    hits, positives = int(labels[said].sum()), int(labels.sum())
    return {
        "threshold": threshold,
        "accuracy": float(np.mean(said == (labels == 1))),
        "said": int(said.sum()),
        "precision": hits / int(said.sum()) if said.any() else None,
        "precision_interval": wilson(hits, int(said.sum())),
        "recall": hits / positives if positives else None,
        "recall_interval": wilson(hits, positives),
    }


def platt(labels: Doubles, logits: Doubles) -> tuple[float, float]:
    """(a, b) of sigmoid(a * logit + b), fitted to labels with Platt's targets (1999).

    The targets keep a from growing without end where a threshold separates the classes.
    """
    positives = labels.sum()
    yes, no = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    targets = np.where(labels == 1, yes, no)
    return _least(targets, logits, free=True)


def temperature(labels: Doubles, logits: Doubles) -> tuple[float, float]:
    """(1 / T, 0): one number that the logits are divided by (Guo et al. 2017)."""
    return _least(labels, logits, free=False)


def cross_entropy(labels: Doubles, logits: Doubles) -> float:
    """The mean log loss of logits [n, k]; labels: places among the k classes."""
    from scipy.special import logsumexp

    own = logits[np.arange(len(labels)), labels.astype(int)]
    whole: Any = logsumexp(logits, axis=1)
    return float(np.mean(whole - own))


def softmax_temperature(labels: Doubles, logits: Doubles) -> float:
    """1 / T: the factor of the logits [n, k] of least log loss (Guo et al. 2017), at most 1e4."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: cross_entropy(labels, 10**power * logits), bounds=(-4, 4), method="bounded"
    )
    return float(10**found.x)


def top_label(labels: Doubles, chances: Doubles) -> tuple[Doubles, Doubles]:
    """Of chances [n, k]: whether the likeliest class is right [n], and its chance [n]."""
    chosen = chances.argmax(axis=1)
    return (chosen == labels).astype(np.float64), chances.max(axis=1)


def class_figures(labels: Doubles, chances: Doubles) -> dict[str, float]:
    """Accuracy, calibration error of the likeliest class, Brier score, log loss; chances [n, k]."""
    right, sure = top_label(labels, chances)
    truth = np.eye(chances.shape[1])[labels.astype(int)]
    return {
        "accuracy": float(right.mean()),
        "ece": expected_calibration_error(reliability(right, sure)),
        "brier": float(((chances - truth) ** 2).sum(axis=1).mean()),
        "log_loss": cross_entropy(labels, np.log(np.maximum(chances, LEAST))),
    }


def _least(targets: Doubles, logits: Doubles, free: bool) -> tuple[float, float]:
    """The (a, b) of least log loss; b is 0 unless it is free, a at most 1e4."""
    from scipy.optimize import minimize

    def loss(values: Doubles) -> tuple[float, Doubles]:
        scaled = values[0] * logits + (values[1] if free else 0.0)
        each = np.maximum(scaled, 0) - scaled * targets + np.log1p(np.exp(-np.abs(scaled)))
        error = sigmoid(scaled) - targets
        slope = [float(np.mean(error * logits)), float(np.mean(error)) if free else 0.0]
        return float(each.mean()), np.array(slope)

    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, 1e4), (None, None)]
    )
    return float(found.x[0]), float(found.x[1])


def regression_figures(labels: Doubles, scores: Doubles) -> Mapping[str, float]:
    """R2, Spearman's rank correlation, root of the mean squared error."""
    from scipy.stats import rankdata

    residual, spread = np.mean((labels - scores) ** 2), np.var(labels)
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (labels, scores)]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return {
        "r2": float(1 - residual / spread) if spread else float("nan"),
        "spearman": float((ranks[0] * ranks[1]).sum() / norm) if norm else float("nan"),
        "rmse": float(np.sqrt(residual)),
    }
