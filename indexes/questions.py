"""Questions as unit vectors: a text, a picture, a row by uid, a vector, or text and picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from indexes.pictures import query_pixels
from infra.errors import SluiceError

if TYPE_CHECKING:
    from indexes.encoder import ClipEncoder
    from indexes.search import Index

Vector = npt.NDArray[np.float32]
Picture = str | Path | Image.Image | npt.NDArray[np.uint8]
Query = str | Path | Image.Image | npt.NDArray[Any] | list[float]


@dataclass(frozen=True)
class Question:
    """A unit vector [dimension], what was asked in words, and the id of the row it is about."""

    vector: Vector
    words: str
    own: int | None = None


def question_of(
    index: "Index",
    query: Any,
    text: str | None,
    image: Picture | None,
    weight: float,
    uid: str | None,
) -> Question:
    """What `Index.search` was asked; SluiceError unless it was asked in one way."""
    described = text is not None or image is not None
    if [query is not None, uid is not None, described].count(True) != 1:
        raise SluiceError(
            "a search needs one of query, uid, and text or image or both", "give exactly one"
        )
    if uid is not None:
        own = index.ids_of([uid])
        return Question(index.stored(own)[0], f"more like {uid[:8]}", int(own[0]))
    if isinstance(query, str):
        text = query
    elif query is not None and is_picture(query):
        image = query
    elif query is not None:
        return Question(user_vector(query, index.dimension, index.name), "a vector")
    if image is None:
        assert text is not None
        return Question(text_vector(index.encoder, text), f"{text!r}")
    seen = picture_vector(index.encoder, image)
    if text is None:
        return Question(seen, picture_words(image))
    vector = mixed(text_vector(index.encoder, text), seen, weight)
    return Question(vector, f"{text!r} ({weight:g}) and {picture_words(image)}")


@lru_cache(maxsize=2)
def load_encoder(model: str, pretrained: str | None) -> "ClipEncoder":
    """The encoder of a score folder, kept for the next query; torch is imported here only."""
    from indexes.encoder import ClipEncoder

    return ClipEncoder.load(model, pretrained)


def is_batch(query: object) -> bool:
    """Whether it is a list of queries, and not a vector as a list of numbers."""
    if not isinstance(query, list):
        return False
    return not all(isinstance(entry, int | float | np.number) for entry in query)


def is_picture(query: object) -> bool:
    return isinstance(query, Path | Image.Image) or np.ndim(query) == 3  # type: ignore[arg-type]


def text_vector(encoder: "ClipEncoder", text: str) -> Vector:
    if not text.strip():
        raise SluiceError("the query is an empty text", "say what to look for")
    if not encoder.tokenizer.fits(text.encode("utf-8", "replace").decode()):
        raise SluiceError(
            f"the query is longer than the {encoder.context_length} tokens that its model reads",
            "say it in fewer words",
        )
    return encoder.encode_texts([text])[0].astype(np.float32)


def picture_vector(encoder: "ClipEncoder", image: Picture) -> Vector:
    return encoder.encode_images([query_pixels(image)])[0].astype(np.float32)


def picture_words(image: Picture) -> str:
    return str(image) if isinstance(image, str | Path) else "a picture"


def mixed(text: Vector, image: Vector, weight: float) -> Vector:
    """The unit vector of weight * text + (1 - weight) * image, both unit."""
    if not 0 <= weight <= 1:
        raise SluiceError(f"weight={weight} is no share", "give the text's share, from 0 to 1")
    return unit((weight * text + (1 - weight) * image).astype(np.float32))


def user_vector(query: Any, dimension: int, name: str) -> Vector:
    """A user's vector at unit length; SluiceError where it is none of the index `name`."""
    try:
        vector = np.asarray(query, np.float32)
    except (TypeError, ValueError) as error:
        raise SluiceError(
            f"a {type(query).__name__} is no query", "give a text, a picture or a vector"
        ) from error
    if vector.shape != (dimension,):
        raise SluiceError(
            f"the query vector has shape {vector.shape}, {name} has {dimension} dimensions",
            "use the encoder that made the index: idx.encoder",
        )
    return unit(vector)


def unit(vector: Vector) -> Vector:
    norm = float(np.linalg.norm(vector))
    if not 0 < norm < np.inf:
        raise SluiceError(
            "the query vector is zero or holds values that are not numbers", "give another"
        )
    return vector / np.float32(norm)


def stack(questions: Sequence[Question]) -> Vector:
    """Their vectors, [n, dimension]."""
    return np.stack([question.vector for question in questions])
