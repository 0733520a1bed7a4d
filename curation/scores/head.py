"""Heads: a number from an embedding, by weights of a safetensors file."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors
import safetensors.numpy

from curation.score import Batch, Scores, Vectors, filled
from curation.scores.clip import content_name
from infra import filesystem
from infra.errors import SluiceError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeadScorer:
    """Column `score`, float32 in the head's own units; null for rows without a vector.

    name: the recipe's name for it, of which the column is `<name>.score`. file: a safetensors
    file with `weight` [1, dim] and `bias` [1].
    """

    name: str
    file: str
    vector: str = "clip/image"

    code = 1
    reads_images = False
    vectors = ()
    columns = pa.schema({"score": pa.float32()})

    @property
    def reads_vectors(self) -> tuple[str, ...]:
        return (self.vector,)

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "head", "vector": self.vector, "file": content_name(self.file)}

    def score(self, batch: Batch) -> Scores:
        vectors = batch.vectors[self.vector]
        positions = np.flatnonzero(vectors.any(axis=1)).tolist()
        values = apply_head(load_head(self.file), vectors[positions], self.file)
        columns = {"score": filled(len(batch), positions, values, pa.float32())}
        return Scores(pa.table(columns))


def apply_head(weights: Mapping[str, Floats], vectors: Vectors, file: str) -> Floats:
    """vectors [n, dim] -> float32 [n]; SluiceError where the head is for another dimension."""
    weight = weights["weight"]
    if weight.shape[1] != vectors.shape[1]:
        raise SluiceError(
            f"{file} is a head for vectors of {weight.shape[1]} numbers, these have "
            f"{vectors.shape[1]}",
            "name the head of the model that made the vectors, or the other vectors",
        )
    return vectors.astype(np.float32) @ weight[0] + weights["bias"][0]


@functools.lru_cache(maxsize=16)
def load_head(file: str) -> Mapping[str, Floats]:
    """The tensors of a head; SluiceError where the file is no safetensors file or has others."""
    try:
        tensors = safetensors.numpy.load(filesystem.read_bytes(file))
    except safetensors.SafetensorError as error:
        raise SluiceError(f"{file} is no safetensors file: {error}", "convert the head") from error
    if {name: value.ndim for name, value in tensors.items()} != {"weight": 2, "bias": 1}:
        raise SluiceError(
            f"{file} holds {sorted(tensors)}, a head holds `weight` [1, dim] and `bias` [1]",
            "convert the head",
        )
    return {name: value.astype(np.float32) for name, value in tensors.items()}
