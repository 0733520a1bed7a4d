"""Zero-shot classification by descriptions of the classes (Pratt et al. 2023, CuPL).

A class's vector is the mean of its sentences' unit vectors, normalised again. Menon and Vondrick
(2023) take the mean similarity instead, which is the same but for that last step.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.errors import SluiceError
from pretrain.evaluate import knn, zero_shot
from pretrain.evaluate.task import Asked, Reply, Task


def class_vectors(
    encode_texts: Callable[[Sequence[str]], NDArray[np.float32]],
    classes: Sequence[str],
    descriptions: Mapping[str, Sequence[str]],
) -> NDArray[np.float32]:
    """One unit vector a class, [classes, dimension]; {} in a sentence is the class's name.

    Raises SluiceError where a class has no description.
    """
    missing = [name for name in classes if name not in descriptions]
    if missing:
        raise SluiceError(
            f"evaluate.descriptions lacks {len(missing)} of {len(classes)} classes, first "
            f"{missing[0]!r}",
            "describe every class of both splits, under its name as the samples have it",
        )
    texts = [text.replace("{}", name) for name in classes for text in descriptions[name]]
    vectors = knn.unit(encode_texts(texts))
    ends = np.cumsum([len(descriptions[name]) for name in classes])
    means = np.stack([part.mean(axis=0) for part in np.split(vectors, ends[:-1])])
    return knn.unit(means)


def run(asked: Asked) -> Reply | None:
    if asked.encode_texts is None:
        return None
    vectors = class_vectors(asked.encode_texts, asked.classes, asked.settings.descriptions)
    return Reply(zero_shot.classify(asked.test.features, vectors))


TASK = Task(run)
