"""Training a head from a labelled table, with figures on labels that it has not seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.heads import calibration
from curation.heads.calibration import platt, probability_figures, reliability, temperature
from curation.heads.card import Card
from curation.heads.file import head_bytes, make_head
from curation.heads.fit import Doubles, Fitted, fit, forward, rescaled
from curation.heads.head import Floats, sigmoid
from curation.heads.labels import Labelled, join_labels, read_labels, shares, vectors_of
from curation.heads.settings import TrainHeadSettings
from curation.scores.head import embedding_name
from infra.dataset import Dataset
from infra.errors import SluiceError

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Trained:
    """The head's file, and its report: JSON-able, all figures on held-out labels."""

    data: bytes
    card: Card
    report: Mapping[str, Any]


def train_head(dataset: Dataset, labels_url: str, settings: TrainHeadSettings) -> Trained:
    """A head for vectors of `dataset`, from the table of uids and labels at a URL.

    Which labels are held out is a matter of the uid's hash alone. Equal inputs give equal bytes.
    """
    from threadpoolctl import threadpool_limits

    table = read_labels(labels_url, settings)
    scores, vector = vectors_of(dataset, settings.vectors)
    labelled = join_labels(dataset, scores, vector, table)
    with threadpool_limits(1):  # sums keep their order, whatever the machine has
        return train_on(labelled, embedding_name(scores.settings), settings)


def train_on(labelled: Labelled, embedding: str, settings: TrainHeadSettings) -> Trained:
    """The same from labelled vectors in memory."""
    held = shares(labelled.uids, "held out") < settings.held_out
    _check(labelled, held, settings)
    vectors, labels, classes = labelled.vectors, labelled.labels, labelled.classes
    folds = _folds(labelled, held, settings.folds)
    known = vectors[~held], labels[~held]
    fitted = fit(*known, folds, classes, settings.hidden, settings.seed)
    slope = platt(labels[~held], fitted.unseen) if classes else (1.0, 0.0)
    layers = rescaled(fitted.layers, *slope)
    tensors = {
        f"layers.{place}.{end}": np.asarray(value, np.float32)
        for place, layer in enumerate(layers)
        for end, value in zip(("weight", "bias"), layer, strict=True)
    }
    prefixes = tuple(f"layers.{place}." for place in range(len(layers)))
    card = Card(
        activations=(*("relu" for _ in settings.hidden), "none"),
        output="sigmoid" if classes else "none",
        dimension=vectors.shape[1],
        embedding=embedding,
        units=settings.units or ("probability" if classes else settings.label),
        polarity=settings.polarity,
        source=f"trained on {int((~held).sum())} labels of {settings.label}",
    )
    found = make_head("the head", card, tensors, prefixes).apply(vectors[held])
    report = {
        "card": card.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "labels": dict(labelled.counts) | {"held out": int(held.sum())},
        "penalty": fitted.penalty,
        "cross_validation": fitted.losses,
        **_figures(labels, vectors, held, found, fitted, settings),
    }
    training = {name: report[name] for name in ("labels", "penalty", "settings", "held_out")}
    card = card.model_copy(update={"training": training})
    return Trained(head_bytes(card, tensors, prefixes), card, report)


def _check(labelled: Labelled, held: Bools, settings: TrainHeadSettings) -> None:
    """There must be enough to learn from and to measure on, in both parts."""
    for name, part, least in (("train", ~held, settings.folds), ("held-out", held, 1)):
        labels = labelled.labels[part]
        if labelled.classes:
            counts = {label: int((labels == label).sum()) for label in (0, 1)}
            few = {label: count for label, count in counts.items() if count < least}
            if few:
                raise SluiceError(
                    f"the {name} part holds {counts[1]} positive and {counts[0]} negative labels; "
                    f"it takes at least {least} of each",
                    "label more samples of both classes, or change --held-out",
                )
        elif len(labels) < 2 * least or not np.ptp(labels):
            raise SluiceError(
                f"the {name} part holds {len(labels)} labels of {len(np.unique(labels))} values",
                "label more samples, with labels that differ",
            )


def _folds(labelled: Labelled, held: Bools, count: int) -> npt.NDArray[np.integer[Any]]:
    """The fold of each row that is not held out, by the uid's hash; classes evenly spread."""
    place = shares(labelled.uids, "fold")[~held]
    labels = labelled.labels[~held] if labelled.classes else np.zeros(len(place))
    folds = np.empty(len(place), np.int64)
    folds[np.lexsort((place, labels))] = np.arange(len(place)) % count
    return folds


def _figures(
    labels: Doubles, vectors: Doubles, held: Bools, found: Floats, fitted: Fitted,
    settings: TrainHeadSettings,
) -> dict[str, Any]:  # fmt: skip
    """Figures on the held-out labels; for classes before and after each way of calibration."""
    truth, scores = labels[held], found.astype(np.float64)
    if not np.isin(labels, (0, 1)).all():
        return {"held_out": calibration.regression_figures(truth, scores)}
    logits = forward(fitted.layers, vectors[held])
    slope, _ = temperature(labels[~held], fitted.unseen)
    ways = {"none": sigmoid(logits), "temperature": sigmoid(slope * logits), "platt": scores}
    figures = {
        "auroc": calibration.auroc(truth, scores),
        "average_precision": calibration.average_precision(truth, scores),
        "positives": float(truth.mean()),
    }
    thresholds = sorted({0.1, 0.25, 0.5, 0.75, 0.9, settings.threshold})
    return {
        "held_out": figures | probability_figures(truth, scores),
        "calibration": {way: probability_figures(truth, each) for way, each in ways.items()},
        "reliability": {way: reliability(truth, each) for way, each in ways.items()},
        "thresholds": [calibration.at_threshold(truth, scores, each) for each in thresholds],
    }
