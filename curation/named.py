"""Names for clusters and samples in a notebook, from the words of a version's captions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation.columns import artifact_at
from curation.scores.clip import ClipScorer, load_encoder
from curation.scores.labels import CaptionIndex, Label, caption_index, known_words, labels
from curation.scores.reference import Reference
from curation.swept import one_folder, open_version, score_folders
from indexes.embeddings import store_of
from infra import filesystem
from infra.errors import SluiceError
from infra.filesystem import join

if TYPE_CHECKING:
    from indexes.encoder import ClipEncoder

SAME = 0.99  # cosine of two encodings of one caption by one model, at least


def name_vectors(
    vectors: npt.ArrayLike,
    version: str,
    scores: Mapping[str, str],
    limit: int,
    model: str | None,
    pretrained: str | None,
) -> list[Label]:
    """See `curation.labels`."""
    dataset = open_version(version)
    source, folders = score_folders(dataset, scores)
    folder = one_folder(ClipScorer.name, folders, source)
    made = artifact_at(join(source, "scores", folder))
    index = caption_index(Reference(source, folder), limit)
    asked = _checked(vectors, index, made.url)
    named = model or str(made.settings.get("model") or "sha256:")
    weights = pretrained if model else made.settings.get("pretrained")
    if any(str(each or "").startswith("sha256:") for each in (named, weights)):
        raise SluiceError(
            f"the model that made the vectors of {made.url} lies outside its store",
            "name it: curation.labels(..., model=FOLDER), or model=NAME, pretrained=CHECKPOINT",
        )
    inside = join(store_of(dataset), named)
    place = inside if filesystem.exists(inside) else named
    encoder = load_encoder(place, weights)
    _check_encoder(encoder, index, named, made.url)
    return labels(asked, index, known_words(place, weights).encode, encoder.logit_scale)


def _checked(vectors: npt.ArrayLike, index: CaptionIndex, place: str) -> npt.NDArray[np.float32]:
    """Vectors [n, dimension], one as well; rows with a number that is not finite have no name."""
    given: Any = np.atleast_2d(np.asarray(vectors, np.float32))
    dimension = index.vectors.shape[1]
    if given.ndim != 2 or (given.size and given.shape[1] != dimension):
        raise SluiceError(
            f"vectors of shape {list(given.shape)} are to be named, those of {place} have "
            f"{dimension} numbers",
            "give vectors [n, dimension] of the model that embedded the captions",
        )
    return np.where(np.isfinite(given).all(axis=1, keepdims=True), given, np.float32(0))


def _check_encoder(encoder: "ClipEncoder", index: CaptionIndex, model: str, place: str) -> None:
    """Let the model encode a caption again: another one's words would name nonsense."""
    first: Sequence[str] = index.captions[:1]
    if not first:
        return
    again, stored = encoder.encode_texts([*first])[0], index.vectors[0]
    if again.shape != stored.shape or float(np.dot(again.astype(float), stored)) < SAME:
        raise SluiceError(
            f"the model {model} did not make the vectors of {place}: it encodes {first[0]!r} "
            "differently",
            "name the model that the version was embedded with",
        )
