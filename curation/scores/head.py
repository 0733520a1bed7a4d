"""Heads: a number from an embedding, by a small network from a safetensors file."""

import functools
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.heads.card import Polarity, same_embedding
from curation.heads.file import Declared, load_head
from curation.heads.head import Head
from curation.score import Batch, Scores, filled
from curation.scores.clip import content_name
from curation.units import column
from infra.errors import SluiceError


@dataclass(frozen=True)
class HeadScorer:
    """Column `score`, float32 in the head's own units; null for rows without a vector.

    A head over classes gives a column for each class in its place, by the names of its card.

    name: the recipe's name for it, of which the column is `<name>.score`; units and polarity stand
    in the column's metadata. file: as `curation.heads.file` reads it. made_by: what made the
    vectors (`embedding_name`). embedding, units, polarity: where the file does not say.

    A head of another model's vectors, or over those of captions, is refused here, before any work:
    it gives numbers that look like scores. So is one of another dimension, where the model's is
    known by its name; else the first shard tells.
    """

    name: str
    file: str
    vector: str = "clip/image"
    made_by: str = ""
    embedding: str | None = None
    units: str | None = None
    polarity: Polarity | None = None

    code = 2
    reads_images = False
    vectors = ()

    def __post_init__(self) -> None:
        card = self.head.card
        needed = card.embedding
        if self.vector.endswith("/text"):
            raise SluiceError(
                f"{self.name} is a head over {self.vector}, the vectors of captions; a head reads "
                "those of images",
                "leave `vectors` out, or name vectors of images such as clip/image",
            )
        if not same_embedding(needed, self.made_by):
            raise SluiceError(
                f"{self.file} is a head for vectors of {needed}, {self.vector} "
                f"is of {self.made_by or 'an unknown model'}",
                f"name a head for {self.vector}, or let the recipe's `filter` embed with {needed}",
            )
        self._check_dimension(known_dimension(self.made_by) or card.dimension)

    @property
    def head(self) -> Head:
        return _loaded(self.file, Declared(self.embedding, self.units, self.polarity))

    @property
    def columns(self) -> pa.Schema:
        card = self.head.card
        names = card.classes or ("score",)
        return pa.schema([column(name, pa.float32(), card.units, card.polarity) for name in names])

    @property
    def reads_vectors(self) -> tuple[str, ...]:
        return (self.vector,)

    def settings(self) -> Mapping[str, Any]:
        card = self.head.card
        return {
            "kind": "head",
            "vector": self.vector,
            "file": content_name(self.file),
            "embedding": card.embedding,
            "units": card.units,
            "polarity": card.polarity,
        }

    def score(self, batch: Batch) -> Scores:
        vectors = batch.vectors[self.vector]
        self._check_dimension(vectors.shape[1])
        positions = np.flatnonzero(vectors.any(axis=1))
        shape = (len(positions), self.head.card.outputs)
        values = self.head.apply(vectors[positions]).reshape(shape)
        filled_in = [
            filled(len(batch), positions.tolist(), each, pa.float32()) for each in values.T
        ]
        return Scores(pa.table(filled_in, self.columns))

    def _check_dimension(self, found: int) -> None:
        if found != self.head.card.dimension:
            raise SluiceError(
                f"{self.file} is a head for vectors of {self.head.card.dimension} numbers, "
                f"{self.vector} has {found}",
                "name the head of the model that made the vectors, or the other vectors",
            )


@functools.lru_cache(maxsize=16)
def _loaded(file: str, declared: Declared) -> Head:
    return load_head(file, declared)


@functools.lru_cache(maxsize=16)
def known_dimension(embedding: str) -> int | None:
    """Numbers in a vector of a model of open_clip, by its name; None where the name does not say.

    Reads the configuration in the package; open_clip itself takes seconds to import.
    """
    package = importlib.util.find_spec("open_clip")
    folders = (package and package.submodule_search_locations) or ()
    for folder in folders:
        file = Path(folder, "model_configs", f"{embedding.partition('/')[0]}.json")
        if file.is_file():
            return int(json.loads(file.read_bytes())["embed_dim"])
    return None


def embedding_name(settings: Mapping[str, Any]) -> str:
    """What made the vectors of a score folder with these settings, as heads name it.

    MODEL/PRETRAINED or the model alone for embeddings; the scorer's name for vectors without one.
    """
    model, pretrained = settings.get("model"), settings.get("pretrained")
    if model is None:
        return str(settings["scorer"])
    return f"{model}/{pretrained}" if pretrained else str(model)
