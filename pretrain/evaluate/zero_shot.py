"""Zero-shot classification: the class whose prompts are nearest (Radford et al. 2021)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluate.task import Asked, Reply, Task


def class_vectors(
    encode_texts: Callable[[Sequence[str]], NDArray[np.float32]],
    classes: Sequence[str],
    templates: Sequence[str],
) -> NDArray[np.float32]:
    """One unit vector a class, [classes, dimension].

    The mean of the unit vectors of all templates with the class's name in place of {},
    normalised again.
    """
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = encode_texts(prompts).reshape(len(classes), len(templates), -1)
    means = vectors.astype(np.float32).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def classify(features: NDArray[np.float32], classes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Image features [n, dimension] -> the number of the class with the largest cosine, [n]."""
    return np.argmax(features @ classes.T, axis=1)


def run(asked: Asked) -> Reply | None:
    if asked.class_vectors is None:
        return None
    return Reply(classify(asked.test.features, asked.class_vectors))


TASK = Task(run)
