"""The near-duplicate descriptor as a vector: cosine similarity says how alike two pictures are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.score import Batch, Scores, spread
from curation.scores import pixels


@dataclass(frozen=True)
class DescriptorScorer:
    """Vector `pixels`: `curation.scores.pixels.descriptor`, zero where there is no image.

    Column `described`, bool: whether the row has a vector; a flat picture has none.
    """

    name = "descriptor"
    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = ("pixels",)
    columns = pa.schema({"described": pa.bool_()})

    def settings(self) -> Mapping[str, Any]:
        return {name.lower(): value for name, value in vars(pixels).items() if name.isupper()}

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        vectors = np.empty((len(images), pixels.dimension()), np.float32)
        for index, image in enumerate(images):
            vectors[index] = pixels.descriptor(image)
        present = np.zeros(len(batch), np.bool_)
        present[positions] = vectors.any(axis=1)
        return Scores(
            pa.table({"described": pa.array(present)}),
            {"pixels": spread(len(batch), positions, vectors)},
        )
