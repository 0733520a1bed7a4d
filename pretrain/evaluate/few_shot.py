"""Few-shot classification: the nearest mean of k samples a class.

Features are centred by the mean of the samples drawn and scaled to length 1, as in SimpleShot
(Wang et al. 2019): there is nothing to choose, so nothing has to be held out. The interval is
Student's t over the draws; it says how much depends on which samples are drawn, on this test set.
"""

import numpy as np
from numpy.typing import NDArray

from infra.digests import generator
from pretrain.evaluate.intervals import over_seeds
from pretrain.evaluate.knn import unit
from pretrain.evaluate.task import Asked, Reply, Task


def draw(labels: NDArray[np.int64], shots: int, seed: int, number: int) -> NDArray[np.int64]:
    """`shots` rows of every class, [classes * shots]; every draw of a larger k holds these."""
    order = generator(seed, "few shot", number).permutation(len(labels))
    return np.concatenate([order[labels[order] == label][:shots] for label in np.unique(labels)])


def nearest_mean(
    support: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Class numbers [q] of queries [q, dimension], from support [s, dimension], labels [s]."""
    centre = support.mean(axis=0)
    support, queries = unit(support - centre), unit(queries - centre)
    present = np.unique(labels)
    means = unit(np.stack([support[labels == label].mean(axis=0) for label in present]))
    return present[np.argmax(queries @ means.T, axis=1)]


def run(asked: Asked) -> Reply:
    train, labels, settings = asked.train.features, asked.train_numbers, asked.settings
    fewest = int(np.bincount(labels)[np.unique(labels)].min())
    figures = {}
    for shots in (count for count in settings.shots if count <= fewest):
        right = []
        for number in range(settings.draws):
            rows = draw(labels, shots, settings.seed, number)
            answers = nearest_mean(train[rows], labels[rows], asked.test.features)
            right.append(float((answers == asked.test_numbers).mean()))
        figures[f"accuracy_{shots}_shot"] = over_seeds(right, settings.confidence)
    left_out = [count for count in settings.shots if count > fewest]
    notes = {"left_out": left_out, "fewest_of_a_class": fewest} if left_out else {}
    return Reply(figures=figures, notes={"few_shot": notes} if notes else {})


TASK = Task(run)
