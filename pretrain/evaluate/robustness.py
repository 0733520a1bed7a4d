"""Accuracy of the linear probe on corrupted test images; it was fitted to clean ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.digests import generator
from pretrain.evaluate import labelled
from pretrain.evaluate.corruptions import corrupt
from pretrain.evaluate.task import Asked, Reply, Task

BATCH = 64  # images corrupted and encoded at a time


def chosen(n: int, wanted: int) -> NDArray[np.int64]:
    """Rows of n that are corrupted, spread evenly; all where `wanted` is 0 or not fewer."""
    count = n if wanted == 0 else min(wanted, n)
    return np.arange(count, dtype=np.int64) * n // count


def run(asked: Asked) -> Reply:
    settings = asked.settings
    rows = chosen(len(asked.test.uids), settings.corrupted)
    right = _right(asked, rows)
    of_each = right.mean(axis=1)  # over severities: [corruptions, n]
    of_severity = right.mean(axis=0)
    clean = asked.probe.classify(asked.test.features[rows]) == asked.test_numbers[rows]
    values = np.stack([clean, of_each.mean(axis=0), *of_each, *of_severity], axis=1)
    names = (
        "accuracy_clean",
        "accuracy_corrupted",
        *(f"accuracy_{name}" for name in settings.corruptions),
        *(f"accuracy_severity_{severity}" for severity in settings.severities),
    )
    estimates = asked.estimate(lambda w: w @ values / w.sum(axis=1)[:, None], len(rows))
    grid = {
        name: [float(value) for value in right[place].mean(axis=1)]
        for place, name in enumerate(settings.corruptions)
    }
    notes = {"severities": list(settings.severities), "accuracy": grid}
    return Reply(figures=dict(zip(names, estimates, strict=True)), notes={"robustness": notes})


def _right(asked: Asked, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 where the probe is right, [corruptions, severities, rows]."""
    wanted, last = set(rows.tolist()), int(rows[-1])
    parts: list[NDArray[np.bool_]] = []
    batch: list[tuple[str, NDArray[np.uint8]]] = []
    done = 0
    for row, example in enumerate(labelled.images(asked.test_url)):
        if row in wanted:
            batch.append(example)
            if len(batch) == BATCH or row == last:
                truth = asked.test_numbers[rows[done : done + len(batch)]]
                parts.append(_answers(asked, batch) == truth)
                done += len(batch)
                batch = []
    return np.concatenate(parts, axis=2).astype(np.float64)


def _answers(asked: Asked, batch: Sequence[tuple[str, NDArray[np.uint8]]]) -> NDArray[np.int64]:
    """Class numbers, [corruptions, severities, batch].

    An image's corruption is a function of seed, corruption, severity and its uid.
    """

    def answers(name: str, severity: int) -> NDArray[np.int64]:
        seed = asked.settings.seed
        images = [
            corrupt(image, name, severity, generator(seed, name, severity, uid))
            for uid, image in batch
        ]
        return asked.probe.classify(asked.encoder.encode_images(images))

    return np.stack(
        [
            np.stack([answers(name, severity) for severity in asked.settings.severities])
            for name in asked.settings.corruptions
        ]
    )


TASK = Task(run)
