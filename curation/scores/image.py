"""Statistics of the picture: what tells a broken, blank, tiny or blurred image from others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.decode import Pixels
from curation.score import Batch, Scores, filled

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
CELL = np.array([1 << 10, 1 << 5, 1], np.float32)  # numbers the cells of a grid of colours
LEVELS = np.arange(256, dtype=np.float32)
LARGE = 2**31 - 1
NEAR = 12  # levels of 255: what lossy coding does to a flat colour
STATISTICS = (
    "brightness",
    "contrast",
    "entropy",
    "sharpness",
    "saturation",
    "uniformity",
)


@dataclass(frozen=True)
class ImageScorer:
    """Columns (null where the image cannot be decoded, except decode_error):

    decode_error    string: null where all is well; "truncated", "decode_failed", ...
    width, height   int32, pixels, upright
    aspect          float32, long side over short side
    brightness      float32 0..1, mean luma
    contrast        float32 0..1, standard deviation of luma
    entropy         float32 0..8, bits of the histogram of luma
    sharpness       float32, variance of the Laplacian of luma in 0..255 (Pech-Pacheco et al.
                    2000, doi:10.1109/ICPR.2000.903548)
    saturation      float32 0..1, mean saturation (HSV)
    uniformity      float32 0..1, share of pixels within 12 levels of the most common colour
    """

    name = "image"
    code = 1
    reads_images = True
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        {
            "decode_error": pa.string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "aspect": pa.float32(),
            **dict.fromkeys(STATISTICS, pa.float32()),
        }
    )

    def settings(self) -> Mapping[str, Any]:
        return {}

    def score(self, batch: Batch) -> Scores:
        positions, images = batch.decoded()
        count = len(batch)
        sizes = np.array([image.shape[:2] for image in images], np.int32).reshape(-1, 2)
        values = np.array([statistics(image) for image in images], np.float32)
        values = values.reshape(-1, len(STATISTICS))
        aspect = sizes.max(1, initial=1) / sizes.min(1, initial=LARGE)
        columns = {
            "decode_error": pa.array(batch.errors, pa.string()),
            "width": filled(count, positions, sizes[:, 1], pa.int32()),
            "height": filled(count, positions, sizes[:, 0], pa.int32()),
            "aspect": filled(count, positions, aspect, pa.float32()),
        }
        for index, name in enumerate(STATISTICS):
            columns[name] = filled(count, positions, values[:, index], pa.float32())
        return Scores(pa.table(columns))


def statistics(image: Pixels) -> tuple[float, ...]:
    """uint8 RGB [height, width, 3] -> the values of STATISTICS, in that order."""
    luma = image @ LUMA  # float32 [height, width], 0..255
    histogram = np.bincount((luma + 0.5).astype(np.uint8).ravel(), minlength=256)
    return (
        float(luma.mean()) / 255,
        float(luma.std()) / 255,
        entropy(histogram),
        sharpness(luma),
        saturation(image),
        uniformity(image),
    )


def entropy(histogram: npt.NDArray[np.int64]) -> float:
    """Shannon entropy of a histogram, in bits."""
    share = histogram[histogram > 0] / histogram.sum()
    return float(-(share * np.log2(share)).sum()) + 0.0  # no negative zero


def sharpness(luma: npt.NDArray[np.float32]) -> float:
    """Variance of the 4-neighbour Laplacian inside the border; 0 for less than 3 by 3 pixels."""
    if min(luma.shape) < 3:
        return 0.0
    inner = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((around - 4 * inner).var())


def saturation(image: Pixels) -> float:
    """Mean of (max - min) / max over the channels; black counts as 0."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    return float(((high - low) / np.maximum(high, 1).astype(np.float32)).mean())


def uniformity(image: Pixels) -> float:
    """Share of pixels within NEAR levels, in every channel, of the most common colour.

    The colour is the mean of the fullest cell of a grid of 32 levels per channel, so a flat
    colour on the edge between two cells still counts whole.
    """
    cells = ((image >> 3) @ CELL).astype(np.int32).ravel()  # exact: below 2**15
    common = np.bincount(cells).argmax()
    red, green, blue = (image[..., channel].ravel() for channel in range(3))
    inside = np.flatnonzero(cells == common)
    near = np.ones(len(cells), np.bool_)
    for channel in (red, green, blue):
        colour = channel[inside].mean()
        near &= (np.abs(LEVELS - colour) <= NEAR)[channel]
    return float(near.mean())
