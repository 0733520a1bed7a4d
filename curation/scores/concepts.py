"""Concepts by prompts: which of some data types, told in words, an image is closest to."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.score import Batch, Scores, Vectors, filled
from curation.scores.clip import ClipScorer, load_encoder
from curation.units import column
from infra.errors import SluiceError

VECTORS = "clip/image"

Floats = npt.NDArray[np.float32]
Prompts = tuple[tuple[str, tuple[str, ...]], ...]  # of each concept


@dataclass(frozen=True)
class ConceptsScorer:
    """Columns, null for rows without a vector:

    <concept>               float32 0..1, softmax over the concepts at the model's logit scale
    <concept>_similarity    float32 -1..1, cosine of the image and the concept
    best                    string, the concept of highest similarity; of equal ones the first

    A concept's vector is the mean of the unit vectors of its prompts in all templates, made unit
    again (Radford et al. 2021, arXiv:2103.00020, 3.1.4). Texts are encoded by the model that
    made the image vectors.

    CLIP sees what a picture is, not how it was damaged: rotation, noise and blur hardly move its
    vectors (Udandarao et al. 2024, arXiv:2310.08577). For those use statistics of the pixels,
    such as `image.sharpness`.
    """

    name: str
    clip: ClipScorer
    prompts: Prompts
    templates: tuple[str, ...]

    code = 1
    reads_images = False
    reads_vectors = (VECTORS,)
    vectors = ()

    @property
    def columns(self) -> pa.Schema:
        names = [concept for concept, _ in self.prompts]
        chances = [column(name, pa.float32(), "probability") for name in names]
        cosines = [column(f"{name}_similarity", pa.float32(), "cosine") for name in names]
        return pa.schema([*chances, *cosines, pa.field("best", pa.string())])

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "concepts", "prompts": self.prompts, "templates": self.templates}

    def score(self, batch: Batch) -> Scores:
        vectors = batch.vectors[VECTORS]
        positions = np.flatnonzero(vectors.any(axis=1)).tolist()
        names = [concept for concept, _ in self.prompts]
        probability = similarity = np.empty((0, len(names)), np.float32)
        if positions:
            concepts = concept_vectors(self.clip, self.prompts, self.templates)
            similarity = similarities(vectors[positions], concepts)
            scale = load_encoder(self.clip.location(), self.clip.pretrained).logit_scale
            probability = softmax(similarity * np.float64(scale)).astype(np.float32)
        values = np.concatenate([probability, similarity], axis=1)
        best = [names[index] for index in similarity.argmax(axis=1)]
        columns = {
            field.name: filled(len(batch), positions, values[:, index], field.type)
            for index, field in enumerate(list(self.columns)[:-1])
        }
        columns["best"] = filled(len(batch), positions, best, pa.string())
        return Scores(pa.table(columns))


@lru_cache(maxsize=4)
def concept_vectors(clip: ClipScorer, prompts: Prompts, templates: tuple[str, ...]) -> Floats:
    """The vectors of concepts, float32 [concepts, dim], unit."""
    encoder = load_encoder(clip.location(), clip.pretrained)
    means: list[Floats] = []
    for _, words in prompts:
        texts = [template.replace("{}", word) for word in words for template in templates]
        means.append(encoder.encode_texts(texts).astype(np.float32).mean(axis=0))
    vectors = np.stack(means)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def similarities(images: Vectors, texts: Floats) -> Floats:
    """Cosines [n, m] of unit vectors; SluiceError where another model made the images'."""
    if images.shape[1] != texts.shape[1]:
        raise SluiceError(
            f"the image vectors have {images.shape[1]} numbers, the model's texts {texts.shape[1]}",
            "texts must be encoded by the model that made the vectors: remove that score folder "
            "and run again",
        )
    return images.astype(np.float32) @ texts.T


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Over the last axis; logits of any size."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
