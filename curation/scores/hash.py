"""Hashes of the picture: of its pixels, and two perceptual ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from curation.perceptual import dhash, phash, pixel_sha256
from curation.score import Batch, Scores, filled


@dataclass(frozen=True)
class HashScorer:
    """Columns (null where the image cannot be decoded):

    phash          uint64, `phash`
    dhash          uint64, `dhash`
    pixel_sha256   string, SHA-256 of height, width and the decoded RGB bytes
    """

    name = "hash"
    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = ()
    columns = pa.schema({"phash": pa.uint64(), "dhash": pa.uint64(), "pixel_sha256": pa.string()})

    def settings(self) -> Mapping[str, Any]:
        return {}

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        count = len(batch)
        grey = [Image.fromarray(image).convert("L") for image in images]
        columns = {
            "phash": filled(count, positions, phash(grey), pa.uint64()),
            "dhash": filled(count, positions, dhash(grey), pa.uint64()),
            "pixel_sha256": filled(
                count, positions, [pixel_sha256(image) for image in images], pa.string()
            ),
        }
        return Scores(pa.table(columns))
