"""Hashes of the picture: of its pixels, and two perceptual ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.decode import Pixels
from curation.perceptual import LOW, SIDE, dhash_of, phash_of, pixel_sha256
from curation.score import Batch, Scores, filled


@dataclass(frozen=True)
class HashScorer:
    """Columns (null where the image cannot be decoded):

    phash          uint64, `curation.perceptual.phash`
    dhash          uint64, `curation.perceptual.dhash`
    pixel_sha256   string, SHA-256 of height, width and the decoded RGB bytes
    """

    name = "hash"
    code = 2
    reads_images = True
    reads_vectors = ()
    vectors = ()
    columns = pa.schema({"phash": pa.uint64(), "dhash": pa.uint64(), "pixel_sha256": pa.string()})

    def settings(self) -> Mapping[str, Any]:
        return {}

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        count = len(batch)
        square, wide = reduced(images)
        columns = {
            "phash": filled(count, positions, phash_of(square), pa.uint64()),
            "dhash": filled(count, positions, dhash_of(wide), pa.uint64()),
            "pixel_sha256": filled(
                count, positions, [pixel_sha256(image) for image in images], pa.string()
            ),
        }
        return Scores(pa.table(columns))


def reduced(images: Sequence[Pixels]) -> tuple[Pixels, Pixels]:
    """What pHash and dHash see of RGB pictures: grey [n, SIDE, SIDE] and [n, LOW, LOW + 1]."""
    from curation.scores import kernels, reductions

    square = np.empty((len(images), SIDE, SIDE), np.uint8)
    wide = np.empty((len(images), LOW, LOW + 1), np.uint8)
    for index, image in enumerate(images):
        luma = np.empty(image.shape[0] * image.shape[1], np.uint8)
        kernels.grey(kernels.flat(image), luma)
        reductions.reduce(luma, image.shape[1], square[index], wide[index])
    return square, wide
