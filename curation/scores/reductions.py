"""Compiled loops that make small pictures of large ones, rounded as Pillow rounds."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

Bytes = NDArray[np.uint8]
Counts = NDArray[np.uint32]


@lru_cache(maxsize=4096)
def windows(size: int, cells: int) -> NDArray[np.int64]:
    """What each of `cells` covers of `size` pixels, and its weight: int64 [cells, 3].

    (first pixel, end, 2**22 over their number): the coefficients of Pillow's box filter.
    """
    found = np.zeros((cells, 3), np.int64)
    scale = size / cells
    wide = max(scale, 1.0)
    for cell in range(cells):
        centre = (cell + 0.5) * scale
        start = max(int(centre - 0.5 * wide + 0.5), 0)
        stop = min(int(centre + 0.5 * wide + 0.5), size)
        # A pixel just at the edge belongs to the cell before it.
        if (start - centre + 0.5) / wide <= -0.5:
            start += 1
        if (stop - 1 - centre + 0.5) / wide > 0.5:
            stop -= 1
        found[cell, 0], found[cell, 1] = start, stop
        found[cell, 2] = int(0.5 + (1.0 / max(stop - start, 1)) * 4194304.0)
    return found


@compiled
def running(a: Bytes, b: Bytes, c: Bytes, d: Bytes, sums: Counts) -> None:
    """Running sums of four rows [n] into sums [4, n + 1]; four, since each add waits for the last.

    They may pass 32 bits: their differences are still right.
    """
    of_a, of_b, of_c, of_d = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    for x in range(len(a)):
        of_a = np.uint32(of_a + np.uint32(a[x]))
        of_b = np.uint32(of_b + np.uint32(b[x]))
        of_c = np.uint32(of_c + np.uint32(c[x]))
        of_d = np.uint32(of_d + np.uint32(d[x]))
        sums[0, x + 1], sums[1, x + 1], sums[2, x + 1], sums[3, x + 1] = of_a, of_b, of_c, of_d


@compiled
def narrow(sums: Counts, over: NDArray[np.int64], means: Bytes) -> None:
    """The means of one row's windows `over` [cells, 3], from its running sums."""
    for cell in range(len(means)):
        total = np.uint32(sums[over[cell, 1]] - sums[over[cell, 0]])
        means[cell] = np.uint8((np.int64(total) * over[cell, 2] + 2097152) >> 22)


@compiled
def shorten(means: Bytes, over: NDArray[np.int64], small: Bytes) -> None:
    """The means of the windows `over` [cells, 3] of rows: means [height, n] to small [cells, n]."""
    total = np.empty(means.shape[1], np.int64)
    for cell in range(len(small)):
        total[:] = 0
        for row in range(over[cell, 0], over[cell, 1]):
            for x in range(len(total)):
                total[x] += means[row, x]
        for x in range(len(total)):
            small[cell, x] = np.uint8((total[x] * over[cell, 2] + 2097152) >> 22)


@compiled
def narrow_rows(
    luma: Bytes,
    width: int,
    over_first: NDArray[np.int64],
    over_second: NDArray[np.int64],
    first: Bytes,
    second: Bytes,
) -> None:
    """The means of the windows of each row of luma [height * width]: two of [height, cells]."""
    height = len(first)
    sums, starts = np.empty((4, width + 1), np.uint32), np.empty(4, np.int64)
    sums[:] = 0
    for top in range(0, height, 4):
        for k in range(4):
            starts[k] = min(top + k, height - 1) * width
        running(
            luma[starts[0] : starts[0] + width],
            luma[starts[1] : starts[1] + width],
            luma[starts[2] : starts[2] + width],
            luma[starts[3] : starts[3] + width],
            sums,
        )
        for k in range(min(4, height - top)):
            narrow(sums[k], over_first, first[top + k])
            narrow(sums[k], over_second, second[top + k])


def reduce(luma: Bytes, width: int, first: Bytes, second: Bytes) -> None:
    """Area means of luma [height * width] into two small pictures, as by Pillow's box filter.

    Rows first, rounded to 8 bits between the two directions.
    """
    height = len(luma) // width
    over_first, over_second = windows(width, first.shape[1]), windows(width, second.shape[1])
    of_first = np.empty((height, first.shape[1]), np.uint8)
    of_second = np.empty((height, second.shape[1]), np.uint8)
    narrow_rows(luma, width, over_first, over_second, of_first, of_second)
    shorten(of_first, windows(height, len(first)), first)
    shorten(of_second, windows(height, len(second)), second)


@compiled
def mean_of(total: np.uint32, count: int) -> np.uint8:
    """A rounded mean, in the fixed point of Pillow's `Image.reduce`."""
    weight = np.uint32(np.float32(4294967296.0) / np.float32(256 * count))
    return np.uint8(np.uint32(np.uint32(total + np.uint32(count // 2)) * weight) >> np.uint32(24))


@compiled
def add(row: Bytes, sums: Counts) -> None:
    for x in range(len(sums)):
        sums[x] = np.uint32(sums[x] + np.uint32(row[x]))


@compiled
def shrink(pixels: Bytes, width: int, tall: int, wide: int, small: Bytes) -> None:
    """Means of blocks of `tall` rows by `wide` columns, as Pillow's `Image.reduce` rounds them.

    RGB bytes [height * width * 3] to small [height / tall, width / wide, 3], both rounded up:
    the last blocks may hold less.
    """
    length = 3 * width
    height = len(pixels) // length
    sums = np.empty(length, np.uint32)
    for row in range(small.shape[0]):
        sums[:] = 0
        stop = min((row + 1) * tall, height)
        for each in range(row * tall, stop):
            add(pixels[each * length : (each + 1) * length], sums)
        for column in range(small.shape[1]):
            end = min((column + 1) * wide, width)
            red, green, blue = np.uint32(0), np.uint32(0), np.uint32(0)
            for x in range(column * wide, end):
                red = np.uint32(red + sums[3 * x])
                green = np.uint32(green + sums[3 * x + 1])
                blue = np.uint32(blue + sums[3 * x + 2])
            count = (stop - row * tall) * (end - column * wide)
            small[row, column, 0] = mean_of(red, count)
            small[row, column, 1] = mean_of(green, count)
            small[row, column, 2] = mean_of(blue, count)
