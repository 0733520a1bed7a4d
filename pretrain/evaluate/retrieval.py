"""Image-text retrieval: recall at K in both directions (Karpathy & Fei-Fei 2015).

An image may have several captions, and a caption that several images share is right for each of
them. A wrong item that is as near as the nearest right one counts as nearer: an encoder that maps
everything to one point finds nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretrain.evaluate.knn import unit
from pretrain.evaluate.task import Asked, Reply, Task

CHUNK = 512  # queries compared with all items at a time


def pair(captions: Sequence[Sequence[str]]) -> tuple[list[str], NDArray[np.int64]]:
    """Each text once, and the pairs (image, text) that belong together, [pairs, 2]."""
    number: dict[str, int] = {}
    pairs = {
        (image, number.setdefault(text, len(number)))
        for image, texts in enumerate(captions)
        for text in texts
    }
    return list(number), np.asarray(sorted(pairs), np.int64).reshape(-1, 2)


def ranks(
    queries: NDArray[np.float32], items: NDArray[np.float32], pairs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many wrong items are at least as near as the nearest right one, for each query, [q].

    queries [q, dimension], items [i, dimension], of unit length; pairs [p, 2]: (query, item);
    every query has one.
    """
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    found = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), CHUNK):
        scores = queries[start : start + CHUNK] @ items.T
        first, last = np.searchsorted(pairs[:, 0], [start, start + len(scores)])
        right = np.zeros(scores.shape, bool)
        right[pairs[first:last, 0] - start, pairs[first:last, 1]] = True
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        found[start : start + CHUNK] = ((scores >= best) & ~right).sum(axis=1)
    return found


def run(asked: Asked) -> Reply | None:
    if asked.encode_texts is None:
        return None
    told = [place for place, texts in enumerate(asked.test.captions) if texts]
    if not told:
        return Reply(notes={"retrieval": {"without_caption": len(asked.test.uids)}})
    texts, pairs = pair([asked.test.captions[place] for place in told])
    images, vectors = unit(asked.test.features[told]), unit(asked.encode_texts(texts))
    figures = {}
    for name, found in (
        ("image_to_text", ranks(images, vectors, pairs)),
        ("text_to_image", ranks(vectors, images, pairs[:, ::-1])),
    ):
        hits = np.stack([found < k for k in asked.settings.recalls], axis=1).astype(np.float64)
        estimates = asked.estimate(lambda w, hits=hits: w @ hits / w.sum(1)[:, None], len(hits))
        for k, estimate in zip(asked.settings.recalls, estimates, strict=True):
            figures[f"{name}_recall_at_{k}"] = estimate
    counts = {"texts": len(texts), "without_caption": len(asked.test.uids) - len(told)}
    return Reply(figures=figures, notes={"retrieval": counts})


TASK = Task(run, labels=False)
