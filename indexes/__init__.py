"""Vectors to neighbours and searchable indexes.

>>> import indexes
>>> idx = indexes.open("store/curated")
>>> idx.search("a red bicycle", k=20)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexes.search import Index

__all__ = ["open"]


def open(
    dataset: str,
    index: str | None = None,
    *,
    model: str | None = None,
    pretrained: str | None = None,
) -> "Index":
    """Open the index of `<store>/<name>` (its latest version) or `<store>/<name>@<version>`.

    index: the digest, or the first characters of it, where a version has several.
    model, pretrained: the model to encode questions with, as `ClipEncoder.load` takes it; only
        needed where the vectors were made with a model that lies outside the store.
    """
    from indexes.search import open_index  # faiss and its friends load when they are needed

    return open_index(dataset, index, model=model, pretrained=pretrained)
