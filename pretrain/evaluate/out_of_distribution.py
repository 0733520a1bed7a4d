"""Can samples of other classes be told: AUROC of two scores against a second version.

max_softmax: one minus the largest probability of the linear probe (Hendrycks & Gimpel 2017).
knn: the distance of unit vectors to the k-th nearest of the train split (Sun et al. 2022). Both
are fitted to the train split alone. 0.5 is chance, above it the other version scores higher.
"""

import numpy as np
from numpy.typing import NDArray

from infra.errors import SluiceError
from pretrain.evaluate.calibration import softmax
from pretrain.evaluate.knn import CHUNK, unit
from pretrain.evaluate.task import Asked, Reply, Task


def auroc(
    inside: NDArray[np.float64],
    outside: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The share of pairs where the outside sample has the higher score; equal ones count half.

    inside [n], outside [m]; for each row of weights [r, n + m]: [r].
    """
    scores = np.concatenate([inside, outside])
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of equal scores
    drawn = weights[:, order]
    within = np.cumsum(drawn * (order < len(inside)), axis=1)[:, ends]
    beyond = np.cumsum(drawn * (order >= len(inside)), axis=1)[:, ends]
    below = np.diff(beyond, axis=1, prepend=0) * (within + np.pad(within, ((0, 0), (1, 0)))[:, :-1])
    return below.sum(axis=1) / 2 / (within[:, -1] * beyond[:, -1])


def knn_distance(
    bank: NDArray[np.float32], queries: NDArray[np.float32], neighbours: int
) -> NDArray[np.float64]:
    """Distance of unit vectors to the k-th nearest of the bank (the farthest of a small one)."""
    bank, queries = unit(bank), unit(queries)
    k = min(neighbours, len(bank))
    found = np.empty(len(queries))
    for start in range(0, len(queries), CHUNK):
        cosines = queries[start : start + CHUNK] @ bank.T
        kth = -np.partition(-cosines, k - 1, axis=1)[:, k - 1].astype(np.float64)
        found[start : start + CHUNK] = np.sqrt(np.maximum(2 - 2 * kth, 0))
    return found


def run(asked: Asked) -> Reply:
    if asked.outside is None:
        raise SluiceError(
            "task out_of_distribution has no version of other classes",
            "name one in evaluate.outside, or leave the task out of evaluate.tasks",
        )
    inside, outside = asked.test.features, asked.outside.features

    def doubt(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return 1 - softmax(asked.probe.logits(rows, len(asked.classes))).max(axis=1)

    def distance(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        return knn_distance(asked.train.features, rows, asked.settings.neighbours)

    figures = {}
    for name, score in (("max_softmax", doubt), ("knn", distance)):
        within, beyond = score(inside), score(outside)
        (figures[f"{name}_auroc"],) = asked.estimate(
            lambda w, pair=(within, beyond): auroc(*pair, w)[:, None], len(inside), len(outside)
        )
    return Reply(figures=figures, notes={"outside": len(outside)})


TASK = Task(run)
