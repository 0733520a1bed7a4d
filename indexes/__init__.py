"""Vectors to neighbours and searchable indexes.

>>> import indexes
>>> idx = indexes.open("store/curated")
>>> idx.search("a red bicycle", k=20)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexes.search import Index
    from indexes.settings import KindName

__all__ = ["build", "open"]


def build(
    dataset: str,
    *,
    embedding: str = "clip/image",
    kind: "KindName" = "auto",
    memory: int | str = "4GiB",
    recall_target: float = 0.99,
    dimensions: int = 0,
    publish_below_target: bool = False,
    workers: int = 1,
) -> "Index":
    """Build an index of `<store>/<name>` or `<store>/<name>@<version>`, or find it; and open it.

    embedding: scorer and vector; or score folder and vector, where a scorer has several.
    kind: flat, ivf_flat, ivf_sq8, ivf_pq, ivf_rabitq, hnsw; auto chooses, and `why` is in
        `idx.figures`.
    memory: bytes that the opened index may take, such as "512MiB".
    recall_target: recall@10 against brute force on held-out queries. An index below it is built,
        but `open` finds it by its digest only, unless `publish_below_target`.
    dimensions: of an embedding trained for it (Matryoshka), search the first of them, then score
        by all.
    workers: processes that encode shards; above 1 call it under `if __name__ == "__main__"`.

    >>> idx = indexes.build("store/curated", memory="1GiB")
    """
    from indexes.building import build_index, pinned
    from indexes.opening import open_named
    from indexes.settings import IndexSettings
    from infra.progress import display
    from infra.runner import make_runner

    settings = IndexSettings.model_validate(
        {
            "embedding": embedding,
            "kind": kind,
            "memory": memory,
            "recall_target": recall_target,
            "dimensions": dimensions,
            "publish_below_target": publish_below_target,
        }
    )
    opened = open_named(dataset)
    with display() as shown, make_runner("inline" if workers == 1 else "local", workers) as runner:
        made = build_index(opened, pinned(opened, settings), runner, shown)
    return open(dataset, made.digest)


def open(
    dataset: str,
    index: str | None = None,
    *,
    model: str | None = None,
    pretrained: str | None = None,
    device: str = "cpu",
) -> "Index":
    """Open the index of `<store>/<name>` (its latest version) or `<store>/<name>@<version>`.

    index: the digest, or the first characters of it, where a version has several.
    model, pretrained: the model to encode questions with, as `ClipEncoder.load` takes it; only
        needed where the vectors were made with a model that lies outside the store.
    device: "cuda" holds all vectors in the memory of a GPU, 2 bytes a dimension each, and compares
        every one there; conditions and range searches are answered as without one.
    """
    from indexes.opening import open_index  # faiss and its friends load when they are needed

    return open_index(dataset, index, model=model, pretrained=pretrained, device=device)
