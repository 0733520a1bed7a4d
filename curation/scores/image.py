"""Statistics of the picture: what tells a broken, blank, tiny or blurred image from others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.decode import Pixels
from curation.score import Batch, Scores, filled
from curation.units import column

NEAR = 12  # levels of 255: what lossy coding does to a flat colour
STATISTICS = {  # with their units
    "brightness": "0..1",
    "contrast": "0..1",
    "entropy": "bits",
    "sharpness": "squared grey levels",
    "saturation": "0..1",
    "uniformity": "share of pixels",
    "border": "share of the picture",
}
LARGE = 2**31 - 1


@dataclass(frozen=True)
class ImageScorer:
    """Columns (null where the image cannot be decoded, except decode_error):

    decode_error    string: null where all is well; "truncated", "decode_failed", ...
    width, height   int32, pixels, upright
    aspect          float32, long side over short side
    orientation     int8 1..8, the EXIF orientation of the file, which the other columns undo
    jpeg_quality    int8 1..100, the Independent JPEG Group's quality whose luminance table is
                    nearest to the file's; null for other formats
    animated        bool, whether the file has more frames than the one that is seen
    brightness      float32 0..1, mean luma (ITU-R BT.601, 8 bits, as below)
    contrast        float32 0..1, standard deviation of luma
    entropy         float32 0..8, bits of the histogram of luma
    sharpness       float32, variance of the Laplacian of luma in 0..255 (Pech-Pacheco et al.
                    2000, doi:10.1109/ICPR.2000.903548)
    saturation      float32 0..1, mean saturation (HSV)
    uniformity      float32 0..1, share of pixels within 12 levels, in every channel, of the most
                    common colour: the mean of the fullest cell of a grid of 16 levels, so that a
                    flat colour on the edge between two cells still counts whole
    border          float32 0..1, share of the picture that is a plain frame around the rest: the
                    bars of a letter-box, the margin around a drawing; 1 where all of it is plain
    """

    name = "image"
    code = 2
    reads_images = True
    reads_vectors = ()
    vectors = ()
    columns = pa.schema(
        [
            pa.field("decode_error", pa.string()),
            column("width", pa.int32(), "pixels"),
            column("height", pa.int32(), "pixels"),
            column("aspect", pa.float32(), "long side over short side"),
            pa.field("orientation", pa.int8()),
            column("jpeg_quality", pa.int8(), "quality 1..100"),
            pa.field("animated", pa.bool_()),
            *(column(name, pa.float32(), units) for name, units in STATISTICS.items()),
        ]
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
        stored = batch.stored or [None] * count
        columns = {
            "decode_error": pa.array(batch.errors, pa.string()),
            "width": filled(count, positions, sizes[:, 1], pa.int32()),
            "height": filled(count, positions, sizes[:, 0], pa.int32()),
            "aspect": filled(count, positions, aspect, pa.float32()),
            "orientation": pa.array([each and each.orientation for each in stored], pa.int8()),
            "jpeg_quality": pa.array([each and each.quality for each in stored], pa.int8()),
            "animated": pa.array([each and each.animated for each in stored], pa.bool_()),
        }
        for index, name in enumerate(STATISTICS):
            columns[name] = filled(count, positions, values[:, index], pa.float32())
        return Scores(pa.table(columns))


def statistics(image: Pixels) -> tuple[float, ...]:
    """uint8 RGB [height, width, 3] -> the values of STATISTICS, in that order."""
    from curation.scores import kernels

    height, width, _ = image.shape
    pixels, luma = kernels.flat(image), np.empty(height * width, np.uint8)
    levels, cells = np.zeros((4, 256), np.uint32), np.zeros(kernels.CELLS, np.uint32)
    saturated = kernels.colours(pixels, luma, levels, cells)
    total, squares, entropy = kernels.moments(levels)
    inner = max(height - 2, 0) * max(width - 2, 0)
    count = height * width
    return (
        total / count / 255,
        _deviation(count, total, squares) / 255,
        entropy,
        _deviation(inner, *kernels.laplacian(luma, width)) ** 2 if inner else 0.0,
        saturated / count / kernels.SHARE,
        kernels.common(pixels, int(cells.argmax()), NEAR) / count,
        1 - _area(kernels.inside_frame(pixels.reshape(image.shape), NEAR)) / count,
    )


def _deviation(count: int, total: int, squares: int) -> float:
    """Standard deviation from whole sums, exact up to its last step."""
    return math.sqrt(count * int(squares) - int(total) ** 2) / count


def _area(box: tuple[int, int, int, int]) -> int:
    top, bottom, left, right = box
    return (bottom - top) * (right - left)
