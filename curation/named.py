"""Names for clusters and samples in a notebook, from the words of a version's captions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.columns import artifact_at
from curation.scores.clip import ClipScorer, load_encoder
from curation.scores.labels import CaptionIndex, Label, caption_index, known_words, labels
from curation.scores.reference import Reference
from curation.swept import one_folder, open_version, score_folders
from indexes.embeddings import store_of
from indexes.models import check_model, model_of
from infra.errors import SluiceError
from infra.filesystem import join


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
    named = model_of(made, store_of(dataset), model, pretrained, "curation.labels")
    encoder = load_encoder(named.place, named.pretrained)
    if index.captions:
        again = encoder.encode_texts(index.captions[:1])[0]
        check_model(named.name, again, index.vectors[0], made.url, repr(index.captions[0]))
    known = known_words(named.place, named.pretrained)
    return labels(asked, index, known.encode, encoder.logit_scale)


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
