"""The model that made stored vectors: found again by its scores, and shown to be the same."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from indexes.embeddings import Embedding
from indexes.pictures import decode, originals
from infra import filesystem
from infra.artifacts import Artifact
from infra.dataset import shard_and_row
from infra.errors import SluiceError
from infra.filesystem import join

if TYPE_CHECKING:
    from indexes.encoder import ClipEncoder

SAME = 0.99  # cosine of two encodings of one caption or picture by one model, at least


class Model(NamedTuple):
    """name: as its scores or its user call it. place, pretrained: as `ClipEncoder.load` does."""

    name: str
    place: str
    pretrained: str | None


def model_of(
    scores: Artifact, store: str, model: str | None, pretrained: str | None, call: str
) -> Model:
    """The model of a score folder, or the one that a user names.

    call: what the user called, for the way out of one that lies outside the store.
    """
    name = model or str(scores.settings.get("model") or "sha256:")
    weights = pretrained if model else scores.settings.get("pretrained")
    if any(str(each or "").startswith("sha256:") for each in (name, weights)):
        raise SluiceError(
            f"the model that made the vectors of {scores.url} lies outside its store",
            f"name it: {call}(..., model=FOLDER), or model=NAME, pretrained=CHECKPOINT",
        )
    inside = join(store, name)
    return Model(name, inside if filesystem.exists(inside) else name, weights)


def check_model(
    model: str, again: npt.NDArray[Any], stored: npt.NDArray[Any], place: str, sample: str
) -> None:
    """SluiceError where a model encodes a sample otherwise than it was: it would answer nonsense.

    again, stored: both [dimension]. place: whose vectors; sample: which one, for the message.
    """
    same = again.shape == stored.shape
    if not same or float(again.astype(np.float32) @ stored.astype(np.float32)) < SAME:
        raise SluiceError(
            f"the model {model} did not make the vectors of {place}: it encodes {sample} "
            "differently",
            "name the model that the scores were made with, or score again",
        )


def check_row(
    model: str,
    encoder: "ClipEncoder",
    embedding: Embedding,
    dataset_url: str,
    row: Mapping[str, Any],
    place: str,
) -> None:
    """Let a model encode a row of a version again, by its caption if that has a vector, too.

    row: id, uid and caption. SluiceError as of `check_model`.
    """
    texts = embedding.sibling("text")
    shard, number = shard_and_row(row["id"])
    if texts is not None and row["caption"]:
        stored = texts.shard(shard)[number]
        again = encoder.encode_texts([row["caption"]])[0]
    else:
        stored = embedding.shard(shard)[number]
        data = originals(dataset_url, [row["id"]])[row["id"]]
        again = encoder.encode_images([np.asarray(decode(data, row["uid"]))])[0]
    check_model(model, again, stored, place, row["uid"])
