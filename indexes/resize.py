"""Pixels resampled as Pillow does it, in whole numbers, and only where they will be looked at.

Each side by itself: a new row is a weighted sum of rows. Columns are resampled as rows of the
turned image, since sums over whole rows are what processors are fast at.
"""

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BITS = 22  # of a weight behind the point, as in the kernels

Pixels = npt.NDArray[np.uint8]
Reals = npt.NDArray[np.float64]


class Window(NamedTuple):
    """Of one side: `size` pixels become `grown`, and of these [start, start + length) are made."""

    size: int
    grown: int
    start: int
    length: int


class Weights(NamedTuple):
    """New pixel i is the sum of weights[i, k] / 2**22 of the old pixels low + first[i] + k.

    Those of weight 0 may lie beyond the last one.
    """

    low: int  # the first old pixel that counts
    high: int  # behind the last one
    first: npt.NDArray[np.int64]  # [n]
    weights: npt.NDArray[np.int32]  # [n, taps], taps a multiple of 4


def resize(image: Pixels, rows: Window, columns: Window, method: str) -> Pixels:
    """RGB [rows.size, columns.size, 3] -> [rows.length, columns.length, 3].

    The channels of what it gives lie apart in memory. method: "bicubic" or "bilinear", wider where
    the image shrinks. The width comes first.
    """
    loops = kernels()
    down, across = filter_weights(rows, method), filter_weights(columns, method)
    image = image[down.low : down.high, across.low : across.high]
    height, width = down.high - down.low, across.high - across.low
    tall, wide = _eights(height), _eights(columns.length)
    source = np.empty((tall, _eights(3 * width)), np.uint8)
    source[: len(image), : 3 * image.shape[1]].reshape(image.shape)[...] = image  # splits: a view
    slim = np.empty((wide, 3 * tall), np.uint8)
    turned = _turned(source)[: 3 * width].reshape(width, 3 * tall)
    loops.weigh_rows(turned, across.first, across.weights, slim)
    planes = _turned(slim).reshape(3, tall, wide)
    small = np.empty((3, rows.length, wide), np.uint8)
    for plane, target in zip(planes, small, strict=True):
        loops.weigh_rows(plane, down.first, down.weights, target)
    return np.ascontiguousarray(small[:, :, : columns.length]).transpose(1, 2, 0)


@lru_cache(maxsize=256)
def filter_weights(window: Window, method: str) -> Weights:
    """The weights of one side.

    Old pixel j counts by the filter's value at its distance, centre to centre, from the new pixel,
    in new pixels where these are larger; all weights of one new pixel add up to 1.
    """
    function, reach = FILTERS[method]
    scale = window.size / window.grown
    stretch = max(scale, 1.0)
    centre = (np.arange(window.start, window.start + window.length) + 0.5) * scale
    low = (centre - reach * stretch + 0.5).astype(np.int64).clip(min=0)
    high = (centre + reach * stretch + 0.5).astype(np.int64).clip(max=window.size)
    taps = -(-int((high - low).max()) // 4) * 4
    begin = int(low[0])
    end = max(int(high[-1]), begin + taps)
    first = np.minimum(low, end - taps)
    old = first[:, None] + np.arange(taps)
    shares = function(np.abs((old - centre[:, None] + 0.5) * (1.0 / stretch)))
    shares[(old < low[:, None]) | (old >= high[:, None])] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    whole = np.copysign(np.floor(np.abs(shares) * 2.0**BITS + 0.5), shares)
    return Weights(begin, end, first - begin, whole.astype(np.int32))


def _bilinear(distance: Reals) -> Reals:
    return np.maximum(1.0 - distance, 0.0)


def _bicubic(distance: Reals) -> Reals:
    """Keys 1981, "Cubic convolution interpolation for digital image processing", a = -1/2."""
    x = distance
    near, far = (1.5 * x - 2.5) * x * x + 1.0, -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0)
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


FILTERS: dict[str, tuple[Callable[[Reals], Reals], float]] = {
    "bilinear": (_bilinear, 1.0),  # and how many pixels to each side it reaches
    "bicubic": (_bicubic, 2.0),
}


def _turned(pixels: Pixels) -> Pixels:
    """[8 m, 8 n] -> [8 n, 8 m], rows and columns exchanged."""
    turned = np.empty((pixels.shape[1], pixels.shape[0]), np.uint8)
    kernels().turn(pixels.view(np.uint64), turned.view(np.uint64))
    return turned


def _eights(count: int) -> int:
    return -(-count // 8) * 8


def kernels() -> Any:
    """The compiled loops; numba is imported when they are first needed."""
    return importlib.import_module("indexes.resize_kernels")
