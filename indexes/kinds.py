"""Kinds of index, one entry each: how faiss makes an empty, trained index, and how it is asked.

To add a kind, write a function that makes it and add it to KINDS: settings, building, reading
and searching know it by its name.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.digests import generator

FLAT_LIMIT = 20_000  # vectors that a full scan answers in milliseconds
TRAIN_PER_LIST = 64  # training vectors for each inverted list

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kind:
    """faiss_class: what a file of this kind holds. new: (vectors, lists, seed) -> empty index.

    The index takes vectors by `add_with_ids`. `lists` is the user's wish, 0 for none.
    """

    faiss_class: str
    new: Callable[[Floats, int, int], Any]


def faiss() -> Any:
    """The faiss module, imported when it is first needed; it has no type stubs."""
    return importlib.import_module("faiss")


def flat(vectors: Floats, lists: int, seed: int) -> Any:
    """Every vector is compared: exact."""
    return faiss().IndexIDMap2(faiss().IndexFlatIP(vectors.shape[1]))


def ivf_flat(vectors: Floats, lists: int, seed: int) -> Any:
    """Whole vectors in inverted lists around k-means centroids (Sivic and Zisserman 2003).

    One thread trains it: k-means sums in the same order on every machine.
    """
    count, dimension = vectors.shape
    lists = min(lists or int(4 * count**0.5), count)
    threads = faiss().omp_get_max_threads()
    faiss().omp_set_num_threads(1)
    try:
        coarse = faiss().IndexFlatIP(dimension)
        inner_product = faiss().METRIC_INNER_PRODUCT
        index = faiss().IndexIVFFlat(coarse, dimension, lists, inner_product)
        index.cp.spherical = True
        index.cp.min_points_per_centroid = 1  # faiss would print a warning
        order = generator(seed, "indexes.kinds", "train").permutation(count)
        index.train(vectors[np.sort(order[: lists * TRAIN_PER_LIST])])
    finally:
        faiss().omp_set_num_threads(threads)
    return index


KINDS = {"flat": Kind("IndexFlatIP", flat), "ivf_flat": Kind("IndexIVFFlat", ivf_flat)}


def choose(kind: str, count: int) -> str:
    """The kind that "auto" stands for."""
    if kind != "auto":
        return kind
    return "flat" if count <= FLAT_LIMIT else "ivf_flat"


def search(
    index: Any, queries: Floats, k: int, probes: int, ids: Ids | None = None
) -> tuple[Floats, Ids]:
    """Similarities and ids [n, k], best first; id -1 where an index finds fewer.

    probes: inverted lists to look into. ids: look at these alone. Both hold for this call only:
    an index is shared between threads, and its own `nprobe` is never set.
    """
    options: dict[str, Any] = {}
    if ids is not None:
        options["sel"] = faiss().IDSelectorBatch(ids)
    if lists_of(index):
        parameters = faiss().SearchParametersIVF(nprobe=probes, **options)
    else:
        parameters = faiss().SearchParameters(**options)
    return index.search(queries, k, params=parameters)


def lists_of(index: Any) -> int:
    """How many inverted lists an index has; 0 where it has none."""
    return int(getattr(index, "nlist", 0))
