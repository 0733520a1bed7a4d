"""Training a head from a labelled table, with figures on labels that it has not seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.heads import calibration
from curation.heads.calibration import (
    class_figures,
    platt,
    probability_figures,
    reliability,
    softmax_temperature,
    temperature,
    top_label,
)
from curation.heads.card import Card, Output
from curation.heads.file import head_bytes, make_head
from curation.heads.fit import Doubles, Fitted, Task, fit, forward, rescaled
from curation.heads.head import Floats, sigmoid, softmax
from curation.heads.labels import Labelled, join_labels, read_labels, shares, vectors_of
from curation.heads.settings import TrainHeadSettings
from curation.scores.head import embedding_name
from infra.dataset import Dataset
from infra.errors import SluiceError

OUTPUTS: Mapping[Task, Output] = {"number": "none", "chance": "sigmoid", "classes": "softmax"}

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

    table, names = read_labels(labels_url, settings)
    scores, vector = vectors_of(dataset, settings.vectors)
    labelled = join_labels(dataset, scores, vector, table, names)
    with threadpool_limits(1):  # sums keep their order, whatever the machine has
        return train_on(labelled, embedding_name(scores.settings), settings)


def train_on(labelled: Labelled, embedding: str, settings: TrainHeadSettings) -> Trained:
    """The same from labelled vectors in memory."""
    held = shares(labelled.uids, "held out") < settings.held_out
    _check(labelled, held, settings)
    vectors, labels, task = labelled.vectors, labelled.labels, _task(labelled)
    folds = _folds(labelled, held, settings.folds)
    known = vectors[~held], labels[~held]
    fitted = fit(*known, folds, task, settings.hidden, settings.seed)
    layers = rescaled(fitted.layers, *_scaling(task, labels[~held], fitted))
    tensors = {
        f"layers.{place}.{end}": np.asarray(value, np.float32)
        for place, layer in enumerate(layers)
        for end, value in zip(("weight", "bias"), layer, strict=True)
    }
    prefixes = tuple(f"layers.{place}." for place in range(len(layers)))
    card = Card(
        activations=(*("relu" for _ in settings.hidden), "none"),
        output=OUTPUTS[task],
        dimension=vectors.shape[1],
        embedding=embedding,
        units=settings.units or (settings.label if task == "number" else "probability"),
        polarity=settings.polarity,
        classes=labelled.names,
        source=f"trained on {int((~held).sum())} labels of {settings.label}",
    )
    found = make_head("the head", card, tensors, prefixes).apply(vectors[held])
    report = {
        "card": card.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"),
        "labels": dict(labelled.counts) | {"held out": int(held.sum())},
        "penalty": fitted.penalty,
        "cross_validation": fitted.losses,
        **(
            _class_figures(labelled, held, found, fitted)
            if labelled.names
            else _figures(labels, vectors, held, found, fitted, settings)
        ),
    }
    training = {name: report[name] for name in ("labels", "penalty", "settings", "held_out")}
    card = card.model_copy(update={"training": training})
    return Trained(head_bytes(card, tensors, prefixes), card, report)


def _task(labelled: Labelled) -> Task:
    return "classes" if labelled.names else "chance" if labelled.classes else "number"


def _scaling(task: Task, labels: Doubles, fitted: Fitted) -> tuple[float, float]:
    """What the outputs are multiplied with and moved by, so that chances are ones."""
    if task == "classes":
        return softmax_temperature(labels, fitted.unseen), 0.0
    return platt(labels, fitted.unseen) if task == "chance" else (1.0, 0.0)


def _check(labelled: Labelled, held: Bools, settings: TrainHeadSettings) -> None:
    """There must be enough to learn from and to measure on, in both parts."""
    if bool(labelled.names) != (settings.polarity is None):
        raise SluiceError(
            "the labels are several classes, of which none is better or worse"
            if labelled.names
            else "the labels are numbers, and nothing says which end of them is better",
            "leave --polarity out" if labelled.names else "give --polarity",
        )
    for name, part, least in (("train", ~held, settings.folds), ("held-out", held, 1)):
        labels = labelled.labels[part]
        if labelled.names:
            found = np.bincount(labels.astype(int), minlength=len(labelled.names))
            if found.min() < least:
                raise SluiceError(
                    f"the {name} part holds {found.min()} labels "
                    f"{labelled.names[int(found.argmin())]!r}; it takes at least {least} of each",
                    "label more samples of that class, or leave it out",
                )
        elif labelled.classes:
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
    numbers = _task(labelled) == "number"
    labels = np.zeros(len(place)) if numbers else labelled.labels[~held]
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


def _class_figures(
    labelled: Labelled, held: Bools, found: Floats, fitted: Fitted
) -> dict[str, Any]:
    """Figures of several classes on the held-out labels, before and after the temperature."""
    truth, chances = labelled.labels[held], found.astype(np.float64)
    ways = {"none": softmax(forward(fitted.layers, labelled.vectors[held])), "temperature": chances}
    apart: dict[str, Any] = {}
    for place, name in enumerate(labelled.names):
        own = (truth == place).astype(np.float64)
        table = reliability(own, chances[:, place])
        apart[name] = {
            "count": int(own.sum()),
            "auroc": calibration.auroc(own, chances[:, place]),
            "ece": calibration.expected_calibration_error(table),
        }
    return {
        "held_out": class_figures(truth, chances),
        "classes": apart,
        "calibration": {way: class_figures(truth, each) for way, each in ways.items()},
        "reliability": {way: reliability(*top_label(truth, each)) for way, each in ways.items()},
    }
