"""Multi-label classification: mean average precision over the classes.

Scores are of a logistic regression for each class on frozen features, its penalty chosen on a
held-out fifth of the train split, and of zero-shot similarities where there is a text tower.
Average precision is the non-interpolated one (as scikit-learn's), and the mean is over classes
that have a positive in the test split.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.digests import generator
from infra.errors import SluiceError
from pretrain.evaluate import zero_shot
from pretrain.evaluate.labelled import Labelled
from pretrain.evaluate.linear_probe import HELD_OUT
from pretrain.evaluate.logistic import Logistic
from pretrain.evaluate.task import Asked, Reply, Task


def mean_average_precision(
    scores: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """scores, targets (0 or 1) [n, classes]; for each row of weights [r, n]: [r].

    Samples of equal score are taken at one threshold. NaN where no class has a positive.
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for place in range(scores.shape[1]):
        order = np.argsort(-scores[:, place], kind="stable")
        ranked, target = scores[order, place], targets[order, place]
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal scores
        drawn = weights[:, order]
        hits = np.cumsum(drawn * target, axis=1)[:, last]
        seen = np.cumsum(drawn, axis=1)[:, last]
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        gained = np.diff(hits, axis=1, prepend=0)
        positives = hits[:, -1]
        there = positives > 0
        total[there] += (precision * gained).sum(axis=1)[there] / positives[there]
        count += there
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def targets(split: Labelled, classes: Sequence[str], field: str, name: str) -> NDArray[np.float64]:
    """1 for each class of each sample, [n, classes]; raises SluiceError where there is no list."""
    number = {name: place for place, name in enumerate(classes)}
    found = np.zeros((len(split.uids), len(classes)))
    for row, tags in enumerate(split.tags):
        if tags is None:
            raise SluiceError(
                f"sample {split.uids[row]} of the {name} split has no list {field!r} in its meta",
                "set evaluate.labels to the field with the list of classes; an empty list is "
                "for a sample of no class",
            )
        found[row, [number[tag] for tag in tags]] = 1
    return found


def probe(
    train: NDArray[np.float32],
    truth: NDArray[np.float64],
    test: NDArray[np.float32],
    strengths: Sequence[float],
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    """Scores of the test rows [t, classes], and the inverse strength chosen, the same for all."""
    held = generator(seed, "multi label").permutation(len(train))[HELD_OUT - 1 :: HELD_OUT]
    inside = np.setdiff1d(np.arange(len(train)), held)
    chosen = max(strengths)
    if len(held):
        found = [
            mean_average_precision(
                _scores(train[inside], truth[inside], train[held], strength), truth[held]
            )[0]
            for strength in sorted(strengths)
        ]
        chosen = sorted(strengths)[int(np.argmax(np.nan_to_num(found)))]
    return _scores(train, truth, test, chosen), chosen


def _scores(
    train: NDArray[np.float32],
    truth: NDArray[np.float64],
    test: NDArray[np.float32],
    strength: float,
) -> NDArray[np.float64]:
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32)
    problem, asked = Logistic((train - mean) / deviation), (test - mean) / deviation
    found = np.zeros((len(test), truth.shape[1]))
    for place, column in enumerate(truth.T):
        if 0 < column.sum() < len(column):  # a class all have, or none, cannot be learnt
            fitted = problem.fit(column.astype(np.int64), strength)
            found[:, place] = (asked @ fitted.weights + fitted.bias)[:, 0]
    return found


def run(asked: Asked) -> Reply:
    train, test, settings = asked.train, asked.test, asked.settings
    tags = [tag for split in (train, test) for found in split.tags for tag in found or ()]
    classes = sorted(set(tags))
    truth = [
        targets(split, classes, settings.labels, name)
        for name, split in (("train", train), ("test", test))
    ]
    if not truth[1].any():
        raise SluiceError(
            f"no test sample has a class in {settings.labels!r}",
            "set evaluate.labels to the field with the list of classes",
        )
    learnt, strength = probe(
        train.features, truth[0], test.features, settings.strengths, settings.seed
    )
    scores = {"linear_probe": learnt}
    if asked.encode_texts is not None:
        vectors = zero_shot.class_vectors(asked.encode_texts, classes, settings.templates)
        scores["zero_shot"] = (test.features @ vectors.T).astype(np.float64)
    figures = {}
    for name, found in scores.items():
        (figures[f"{name}_mean_average_precision"],) = asked.estimate(
            lambda w, found=found: mean_average_precision(found, truth[1], w)[:, None],
            len(found),
        )
    return Reply(figures=figures, notes={"multi_label": {"classes": len(classes), "C": strength}})


TASK = Task(run, labels=False)
