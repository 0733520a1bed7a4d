"""Fooling-image score: likeness to many unrelated texts at once, which no ordinary image has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.score import Batch, Scores, Vectors, filled
from curation.scores.clip import ClipScorer, load_encoder
from curation.scores.concepts import VECTORS, similarities
from curation.scores.reference import Reference, percentiles, read_reference
from curation.units import WORSE, column
from infra import filesystem
from infra.digests import digest
from infra.errors import SluiceError

COUNT = 1000  # prompts of our own
LOW = 5  # per cent of the prompts an image may be far from and still be like all
FEWEST = 20  # prompts in a file of one's own: fewer say nothing of "all texts"
WORDS = Path(__file__).with_name("words.json")
PERCENTILE = "percentile of the trusted split"
NAMES = {  # of the columns, with their units
    "mean": "cosine",
    "low": "cosine",
    "percentile": PERCENTILE,
    "low_percentile": PERCENTILE,
}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FoolingScorer:
    """Columns, null for rows without a vector; all float32:

    mean              -1..1, mean cosine of the image and unrelated prompts
    low               -1..1, 5th percentile of those cosines: 95 % of the prompts are closer
    percentile        0..100, share of the trusted split's images whose mean is at most this
    low_percentile    0..100, the same of low

    An image made to lie close to many texts (CLIPMasterPrints: Freiberger et al. 2023,
    arXiv:2307.03798) lies close to those it was not made for, too: this looks for that, and is no
    detector trained on such images. Cosines mean nothing by themselves, as each model has its own
    range; percentiles do. A plain or very generic image may come high without any ill intent.

    file: prompts, one a line, of which the text alone counts; None: `own_prompts`. Encoding a
    thousand takes about a minute per process with a ViT-B-32 on one core.
    """

    name: str
    clip: ClipScorer
    reference: Reference
    file: str | None = None
    limit: int = 50_000

    code = 2
    reads_images = False
    reads_vectors = (VECTORS,)
    vectors = ()
    columns = pa.schema([column(name, pa.float32(), told, WORSE) for name, told in NAMES.items()])

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "fooling",
            "prompts": digest(read_prompts(self.file)) if self.file else COUNT,
            "reference": self.reference.digest,
            "limit": self.limit,
        }

    def score(self, batch: Batch) -> Scores:
        vectors = batch.vectors[VECTORS]
        positions = np.flatnonzero(vectors.any(axis=1)).tolist()
        values = np.empty((len(NAMES), 0), np.float32)
        if positions:
            likeness = likenesses(vectors[positions], prompt_vectors(self.clip, self.file))
            usual = usual_likenesses(self.clip, self.file, self.reference, self.limit)
            ranks = [percentiles(own, others) for own, others in zip(likeness, usual, strict=True)]
            values = np.stack([*likeness, *ranks])
        columns = {
            name: filled(len(batch), positions, value, pa.float32())
            for name, value in zip(NAMES, values, strict=True)
        }
        return Scores(pa.table(columns))


def likenesses(images: Vectors, prompts: Floats) -> tuple[Floats, Floats]:
    """mean and low, float32 [n], of unit vectors [n, dim] against prompts [m, dim]."""
    cosines = similarities(images, prompts)
    low = np.percentile(cosines, LOW, axis=1, method="lower")
    return cosines.mean(axis=1), low.astype(np.float32)


def own_prompts(count: int = COUNT) -> list[str]:
    """Prompts of unrelated things in unrelated manners and places; all differ up to 100,000."""
    words = json.loads(WORDS.read_text())
    parts = [words["manners"], words["things"], words["places"]]
    picked = ([part[number % len(part)] for part in parts] for number in range(count))
    return [" ".join(["a picture of one", *filter(None, words)]) for words in picked]


def read_prompts(file: str) -> list[str]:
    """The distinct lines of a text file; SluiceError where there are hardly any."""
    try:
        lines = filesystem.read_bytes(file).decode().splitlines()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise SluiceError(
            f"cannot read prompts from {file}: {error}", "give a text file, one prompt a line"
        ) from error
    prompts = list(dict.fromkeys(filter(None, map(str.strip, lines))))
    if len(prompts) < FEWEST:
        raise SluiceError(
            f"{file} has {len(prompts)} prompts, at least {FEWEST} unrelated ones are needed",
            "add prompts, or leave `file` out",
        )
    return prompts


@lru_cache(maxsize=4)
def prompt_vectors(clip: ClipScorer, file: str | None) -> Floats:
    """Unit vectors [prompts, dim], of the model that made the images'."""
    prompts: Sequence[str] = own_prompts() if file is None else read_prompts(file)
    return load_encoder(clip.location(), clip.pretrained).encode_texts(prompts).astype(np.float32)


@lru_cache(maxsize=4)
def usual_likenesses(
    clip: ClipScorer, file: str | None, reference: Reference, limit: int
) -> tuple[Floats, Floats]:
    """mean and low of the reference's images, each sorted."""
    images = read_reference(reference, "image", limit).vectors
    mean, low = likenesses(images, prompt_vectors(clip, file))
    return np.sort(mean), np.sort(low)
