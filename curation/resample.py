"""Pixels to other pixels: area averages down, Lanczos up, and faces blurred away.

All arithmetic is on integers or Pillow's, which is: the same bytes on every machine.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from curation.decode import Pixels

Box = tuple[float, float, float, float]

SPREAD = 0.1  # of a box's longer side: the blur's sigma, and how far the blur goes beyond the box
LEAST_SIGMA = 2.0  # pixels; a blur of less leaves edges


def resample(pixels: Pixels, width: int, height: int) -> Pixels:
    """RGB [h, w, 3] -> [height, width, 3]: smaller by area averages, larger by Lanczos."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if height <= pixels.shape[0] and width <= pixels.shape[1]:
        return shrink(pixels, (pixels.shape[1], pixels.shape[0]), (width, height))
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def shrink(pixels: Pixels, size: tuple[int, int], target: tuple[int, int], cell: int = 1) -> Pixels:
    """RGB [h, w, 3] -> [height, width, 3]: every new pixel is the average over its area.

    size, target: (width, height). cell: how many pixels of `size` each given pixel stands for in
    both directions, where a JPEG was decoded smaller: h = ceil(size[1] / cell). Then the last
    row and column may stand for less, which a filter that does not know it takes for a shift.
    """
    height, width, _ = pixels.shape
    rows = _average(pixels.reshape(height, width * 3), size[1], target[1], cell)
    # Turned with four bytes a pixel, which move as one number; three would move one by one.
    padded = np.empty((target[1], width, 4), np.uint8)
    _copy_channels(rows.reshape(target[1], width, 3), padded)
    columns = _average(_turned(padded), size[0], target[0], cell)
    turned = _turned(columns.reshape(target[0], target[1], 4))
    result = np.empty((target[1], target[0], 3), np.uint8)
    _copy_channels(turned.reshape(target[1], target[0], 4), result)
    return result


def _copy_channels(source: Pixels, target: Pixels) -> None:
    """The three channels one by one: four times as fast as all at once."""
    for channel in range(3):
        target[..., channel] = source[..., channel]


def _turned(pixels: Pixels) -> Pixels:
    """[h, w, 4] -> [w, h * 4], rows and columns exchanged."""
    whole = pixels.view(np.uint32)[..., 0]
    return np.ascontiguousarray(whole.T).view(np.uint8)


def _average(rows: Pixels, size: int, target: int, cell: int) -> Pixels:
    """[ceil(size / cell), n] -> [target, n]: averages of rows, rounded."""
    # Where many rows make one, 256ths are too coarse for the shares, and 16 bits for the sum.
    fine = size > 8 * target * cell
    bits, kind = (16, np.uint32) if fine else (8, np.uint16)
    index, weights = _shares(size, target, cell, 1 << bits)
    total = np.full((target, rows.shape[1]), 1 << bits >> 1, kind)
    for taken, weight in zip(index, weights.astype(kind), strict=True):
        part = rows[taken].astype(kind)
        part *= weight[:, None]
        total += part
    total >>= bits
    return total.astype(np.uint8)


def _shares(
    size: int, target: int, cell: int, unit: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which rows make up each new row, and their shares of `unit`: two [taps, target].

    New row i covers [i, i + 1) * size / target of the original, row j [j, j + 1) * cell of it.
    Shares are differences of one rounded sum, so that they add up to `unit` whatever the ratio.
    """
    new = np.arange(target, dtype=np.int64)
    uneven = size % (target * cell) != 0
    taps = np.arange(-(-size // (target * cell)) + uneven)
    index = new * size // (target * cell) + taps[:, None]

    def covered(row: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        share = ((row * cell * target - new * size) * unit + size // 2) // size
        return share.clip(0, unit)

    return index.clip(max=-(-size // cell) - 1), covered(index + 1) - covered(index)


def blur(pixels: Pixels, boxes: Sequence[Box]) -> Pixels:
    """RGB with a Gaussian blur over each box (x0, y0, x1, y1 in 0..1 of the picture).

    Sigma is a tenth of the box's longer side. The blur is whole inside the box and fades out
    over a tenth of that side around it (as the faces of ImageNet were blurred: Yang et al.,
    "A Study of Face Obfuscation in ImageNet", 2022).
    """
    image = Image.fromarray(pixels)
    for x0, y0, x1, y1 in boxes:
        left, right = sorted((x0 * image.width, x1 * image.width))
        top, bottom = sorted((y0 * image.height, y1 * image.height))
        side = max(right - left, bottom - top)
        half = math.ceil(SPREAD * side / 2)  # of the way over which it fades
        sigma = max(SPREAD * side, LEAST_SIGMA)
        face = _within(image, (left, top, right, bottom), half)
        around = _within(image, (left, top, right, bottom), 2 * half + math.ceil(3 * sigma))
        if face is None or around is None:
            continue
        mask = Image.new("L", (around[2] - around[0], around[3] - around[1]))
        x, y = around[:2]
        mask.paste(255, (face[0] - x, face[1] - y, face[2] - x, face[3] - y))
        mask = mask.filter(ImageFilter.BoxBlur(half))
        blurred = image.crop(around).filter(ImageFilter.GaussianBlur(sigma))
        image.paste(blurred, (x, y), mask)
    return np.asarray(image)


def _within(image: Image.Image, box: Box, margin: int) -> tuple[int, int, int, int] | None:
    """The whole pixels of the image that a box with a margin touches, or None."""
    left, top = max(math.floor(box[0]) - margin, 0), max(math.floor(box[1]) - margin, 0)
    right = min(math.ceil(box[2]) + margin, image.width)
    bottom = min(math.ceil(box[3]) + margin, image.height)
    return (left, top, right, bottom) if left < right and top < bottom else None
