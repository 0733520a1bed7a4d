"""Names without a vocabulary: what the nearest captions say of an image, or of a cluster."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.score import Batch, Scores, Vectors, filled
from curation.scores.clip import ClipScorer, load_encoder
from curation.scores.concepts import VECTORS, similarities, softmax
from curation.scores.reference import Reference, read_reference
from curation.units import column
from indexes.neighbours import nearest

CAPTIONS = 10  # nearest captions whose words are candidates
WORDS = 32  # candidates at most, the most frequent first
ALPHA = 0.7  # weight of the image against the captions' centroid
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
ADDRESS = re.compile(r"\S*(?:://|www\.|@|\.(?:jpe?g|png|gif|webp|html?|com|org|net)\b)\S*", re.I)
STOP = frozenset(json.loads(Path(__file__).with_name("words.json").read_text())["stop"])

Floats = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Vectors]  # texts -> unit vectors [n, dim]


@dataclass(frozen=True)
class CaptionIndex:
    """Distinct captions and their vectors, unit, [n, dim]."""

    captions: list[str]
    vectors: Vectors


@dataclass(frozen=True)
class Label:
    """The best name, None where no caption has a word for it; score 0..1 among the candidates."""

    label: str | None
    score: float = float("nan")


def labels(
    vectors: Vectors, index: CaptionIndex, encode: Encode, scale: float, alpha: float = ALPHA
) -> list[Label]:
    """A name for each image vector or cluster centre [n, dim]; all-zero rows have none.

    After CaSED (Conti et al. 2023, arXiv:2306.00917): the words of the nearest captions are
    candidates; the score of each is alpha * image + (1 - alpha) * captions, where image is the
    softmax over the candidates of scale * cosine(vector, word), and captions the same of
    cosine(mean of the nearest captions' vectors, word). Of equal scores the word that comes first
    in the alphabet. encode, scale: text encoder and logit scale of the model of the vectors.
    """
    units = _unit(vectors.astype(np.float32))
    present = np.flatnonzero(units.any(axis=1))
    found = [Label(None)] * len(vectors)
    if not len(present) or not len(index.captions):
        return found
    _, close = nearest(units[present], index.vectors, CAPTIONS)
    words = [candidates([index.captions[at] for at in row]) for row in close]
    distinct = sorted({word for row in words for word in row})
    if not distinct:
        return found
    places = {word: place for place, word in enumerate(distinct)}
    texts = encode(distinct).astype(np.float32)
    for row, near, chosen in zip(present, close, words, strict=True):
        if chosen:
            own = texts[[places[word] for word in chosen]]
            centre = _unit(index.vectors[near].astype(np.float32).mean(axis=0, keepdims=True))
            both = np.concatenate([units[row][None], centre])
            image, captions = softmax(np.float64(scale) * similarities(both, own))
            score = alpha * image + (1 - alpha) * captions
            found[row] = Label(chosen[int(score.argmax())], float(score.max()))
    return found


def candidates(captions: Sequence[str]) -> list[str]:
    """The words of captions that could name something, in alphabetical order, lower case.

    Left out: words of fewer than three letters, numbers, addresses and file names, and words that
    say nothing of what is seen. Of more than 32 those in most captions.
    """
    counts: Counter[str] = Counter()
    for caption in captions:
        words = WORD.findall(ADDRESS.sub(" ", caption.casefold()))
        counts.update({word for word in words if len(word) > 2 and word not in STOP})
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return sorted(ranked[:WORDS])


def _unit(vectors: Floats) -> Floats:
    """Rows of unit length; zero rows as they are."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return vectors / norms


@dataclass(frozen=True)
class LabelsScorer:
    """Columns, null for rows without a vector and where no near caption has a word:

    label    string, a word of the ten nearest captions
    score    float32 0..1, see `labels`

    reference: whose captions; the distinct ones of at most `limit` samples.
    """

    name: str
    clip: ClipScorer
    reference: Reference
    limit: int = 50_000

    code = 2
    reads_images = False
    reads_vectors = (VECTORS,)
    vectors = ()
    columns = pa.schema(
        [pa.field("label", pa.string()), column("score", pa.float32(), "share among candidates")]
    )

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "labels",
            "captions": self.reference.digest,
            "limit": self.limit,
            "alpha": ALPHA,
            "nearest": CAPTIONS,
        }

    def score(self, batch: Batch) -> Scores:
        vectors, found = batch.vectors[VECTORS], [Label(None)] * len(batch)
        if vectors.any():
            index = caption_index(self.reference, self.limit)
            encoder = load_encoder(self.clip.location(), self.clip.pretrained)
            known = known_words(self.clip.location(), self.clip.pretrained)
            found = labels(vectors, index, known.encode, encoder.logit_scale)
        scores = [each.score for each in found]
        columns = {
            "label": pa.array([each.label for each in found], pa.string()),
            "score": filled(len(batch), range(len(batch)), scores, pa.float32()),
        }
        return Scores(pa.table(columns))


@lru_cache(maxsize=2)
def caption_index(reference: Reference, limit: int) -> CaptionIndex:
    """The distinct captions of a reference with their stored vectors."""
    rows = read_reference(reference, "text", limit)
    first = {caption: row for row, caption in reversed(list(enumerate(rows.captions))) if caption}
    captions = sorted(first)
    return CaptionIndex(captions, rows.vectors[[first[caption] for caption in captions]])


@dataclass
class KnownWords:
    """Encodes each distinct word once per process."""

    encode_texts: Encode
    vectors: dict[str, npt.NDArray[Any]]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Never a word alone: that would pass through the network in another shape, and differ."""
        new = [text for text in texts if text not in self.vectors]
        if new:
            made = self.encode_texts([*new, new[-1]])[: len(new)]
            self.vectors |= dict(zip(new, made, strict=True))
        return np.stack([self.vectors[text] for text in texts])


@lru_cache(maxsize=1)
def known_words(model: str, pretrained: str | None) -> KnownWords:
    """Of the model that is loaded in this process."""
    return KnownWords(load_encoder(model, pretrained).encode_texts, {})
