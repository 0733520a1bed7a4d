"""Weighted k-nearest-neighbour classification, as in DINO (Caron et al. 2021, appendix F.1).

Neighbours by cosine; each votes for its class with exp(cosine / temperature) (Wu et al. 2018).
"""

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluate.task import Asked, Reply, Task

CHUNK = 1024  # queries compared with the bank at a time


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows [n, dimension] scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)


def classify(
    bank: NDArray[np.float32],
    bank_labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> NDArray[np.int64]:
    """Class numbers of the queries, [q].

    bank [b, dimension] with labels [b]; queries [q, dimension]; features need not be unit.
    With fewer than `neighbours` in the bank, all of it votes. Ties go to the lower class.
    """
    bank, queries = unit(bank), unit(queries)
    k = min(neighbours, len(bank))
    answers = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), CHUNK):
        cosines = queries[start : start + CHUNK] @ bank.T
        # Only the k nearest are sorted; the sort is stable, so equal cosines keep bank order.
        nearest = np.sort(np.argpartition(-cosines, k - 1, axis=1)[:, :k], axis=1)
        values = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        votes = np.zeros((len(cosines), classes))
        rows = np.repeat(np.arange(len(cosines)), k)
        np.add.at(votes, (rows, bank_labels[nearest].ravel()), np.exp(values / temperature).ravel())
        answers[start : start + CHUNK] = np.argmax(votes, axis=1)
    return answers


def run(asked: Asked) -> Reply:
    answers = classify(
        asked.train.features,
        asked.train_numbers,
        asked.test.features,
        len(asked.classes),
        asked.settings.neighbours,
        asked.settings.temperature,
    )
    return Reply(answers)


TASK = Task(run)
