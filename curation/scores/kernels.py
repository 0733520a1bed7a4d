"""The compiled loops of the pixel scorers (numba): pixels in, exact whole numbers out.

Sums are of integers, so they depend neither on their order nor on how wide the machine's vectors
are. Loops run over slices of BLOCK pixels or fewer, for which the sums fit 32 bits; narrow types
are written out because numba widens all integers to 64 bits, which halves the speed of vectors
and more.
"""

import math

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

BLOCK = 960  # pixels; a multiple of STEP
SHARE = 65536  # a saturation of 1
CELLS = 4096  # of a grid of colours, 16 levels of each channel to a cell
STEP = 5  # the most common colour is looked for among every STEP-th pixel; odd, as widths are even
SIXTEEN, ONE = np.float32(SHARE), np.float32(1)

Bytes = NDArray[np.uint8]
Counts = NDArray[np.uint32]


def flat(image: Bytes) -> Bytes:
    """RGB [height, width, 3] as read-only bytes: numba compiles anew for what can be written."""
    plain = np.ascontiguousarray(image).reshape(-1)
    plain = plain.view()
    plain.flags.writeable = False
    return plain


@compiled
def split(pixels: Bytes, red: Bytes, green: Bytes, blue: Bytes) -> None:
    """RGB bytes [3 n] to its channels [n]."""
    for x in range(len(red)):
        red[x] = pixels[3 * x]
        green[x] = pixels[3 * x + 1]
        blue[x] = pixels[3 * x + 2]


@compiled
def luma_of(red: Bytes, green: Bytes, blue: Bytes, luma: Bytes) -> None:
    """ITU-R BT.601 in 16 bits, rounded: the same as Pillow's conversion to "L"."""
    for x in range(len(red)):
        warm = np.int32(np.int32(19595 * np.int32(red[x])) + np.int32(38470 * np.int32(green[x])))
        cold = np.int32(np.int32(7471 * np.int32(blue[x])) + 32768)
        luma[x] = np.uint8(np.int32(warm + cold) >> 16)


@compiled
def saturation_of(red: Bytes, green: Bytes, blue: Bytes) -> np.int32:
    """The sum of (max - min) / max over the channels, each in whole parts of SHARE."""
    total = np.int32(0)
    for x in range(len(red)):
        r, g, b = red[x], green[x], blue[x]
        high = r if r > g else g
        low = g if r > g else r
        high = np.float32(high if high > b else b)
        low = np.float32(b if low > b else low)
        share = (high - low) * SIXTEEN / (high if high > ONE else ONE)
        total = np.int32(total + np.int32(share))
    return total


@compiled
def cells_of(
    red: Bytes, green: Bytes, blue: Bytes, numbers: NDArray[np.uint16], cells: Counts
) -> None:
    """Add the number of each STEP-th pixel's cell in the grid of colours to cells [CELLS]."""
    for x in range(len(red)):
        numbers[x] = np.uint16(((red[x] >> 4) << 8) | ((green[x] >> 4) << 4) | (blue[x] >> 4))
    for x in range((len(red) + STEP - 1) // STEP):
        cells[numbers[STEP * x]] += np.uint32(1)


@compiled
def count(values: Bytes, levels: Counts) -> None:
    """Add a histogram of `values` to levels [4, 256]; four, as equal neighbours are slow."""
    first, second, third, fourth = levels[0], levels[1], levels[2], levels[3]
    for x in range(len(values) // 4):
        first[values[4 * x]] += np.uint32(1)
        second[values[4 * x + 1]] += np.uint32(1)
        third[values[4 * x + 2]] += np.uint32(1)
        fourth[values[4 * x + 3]] += np.uint32(1)
    for x in range(len(values) // 4 * 4, len(values)):
        first[values[x]] += np.uint32(1)


@compiled
def colours(pixels: Bytes, luma: Bytes, levels: Counts, cells: Counts) -> int:
    """Fill luma [n] from RGB bytes [3 n], add to levels [4, 256] and cells [CELLS].

    Gives the sum of the saturations, in parts of SHARE.
    """
    red, green, blue = (
        np.empty(BLOCK, np.uint8),
        np.empty(BLOCK, np.uint8),
        np.empty(BLOCK, np.uint8),
    )
    numbers = np.empty(BLOCK, np.uint16)
    saturation = 0
    for start in range(0, len(luma), BLOCK):
        size = min(BLOCK, len(luma) - start)
        r, g, b, grey = red[:size], green[:size], blue[:size], luma[start : start + size]
        split(pixels[3 * start : 3 * (start + size)], r, g, b)
        luma_of(r, g, b, grey)
        cells_of(r, g, b, numbers[:size], cells)
        count(grey, levels)
        saturation += saturation_of(r, g, b)
    return int(saturation)


@compiled
def grey(pixels: Bytes, luma: Bytes) -> None:
    """Fill luma [n] from RGB bytes [3 n]."""
    red, green, blue = (
        np.empty(BLOCK, np.uint8),
        np.empty(BLOCK, np.uint8),
        np.empty(BLOCK, np.uint8),
    )
    for start in range(0, len(luma), BLOCK):
        size = min(BLOCK, len(luma) - start)
        r, g, b = red[:size], green[:size], blue[:size]
        split(pixels[3 * start : 3 * (start + size)], r, g, b)
        luma_of(r, g, b, luma[start : start + size])


@compiled
def inside(value: np.uint8, low: np.uint8, span: np.uint8) -> np.int32:
    """1 where `value` is in low..low + span: below `low` the difference wraps to a high number."""
    return np.int32(np.uint8(value - low) <= span)


@compiled
def within(red: Bytes, green: Bytes, blue: Bytes, low: Bytes, span: Bytes) -> np.int32:
    """How many pixels have each channel in low [3]..low + span."""
    low_r, low_g, low_b = low[0], low[1], low[2]
    span_r, span_g, span_b = span[0], span[1], span[2]
    total = np.int32(0)
    for x in range(len(red)):
        near = inside(red[x], low_r, span_r) & inside(green[x], low_g, span_g)
        total = np.int32(total + np.int32(near & inside(blue[x], low_b, span_b)))
    return total


@compiled
def sums_within(
    red: Bytes, green: Bytes, blue: Bytes, low: Bytes, span: Bytes
) -> tuple[np.int32, np.int32, np.int32]:
    """The sum of each channel over the pixels of `within`."""
    low_r, low_g, low_b = low[0], low[1], low[2]
    span_r, span_g, span_b = span[0], span[1], span[2]
    reds, greens, blues = np.int32(0), np.int32(0), np.int32(0)
    for x in range(len(red)):
        r, g, b = red[x], green[x], blue[x]
        near = np.int32(inside(r, low_r, span_r) & inside(g, low_g, span_g))
        near = np.int32(near & inside(b, low_b, span_b))
        reds = np.int32(reds + np.int32(near * np.int32(r)))
        greens = np.int32(greens + np.int32(near * np.int32(g)))
        blues = np.int32(blues + np.int32(near * np.int32(b)))
    return reds, greens, blues


@compiled
def common(pixels: Bytes, cell: int, near: int) -> int:
    """How many of RGB bytes [3 n] are within `near` levels of the mean colour of a cell's pixels.

    cell: its number in the grid of colours; it holds some of every STEP-th pixel.
    """
    red, green, blue = (
        np.empty(BLOCK, np.uint8),
        np.empty(BLOCK, np.uint8),
        np.empty(BLOCK, np.uint8),
    )
    low, span, sums = np.empty(3, np.uint8), np.empty(3, np.uint8), np.empty(3, np.int64)
    low[0], low[1], low[2] = cell >> 4 & 240, cell & 240, cell << 4 & 240
    span[:], sums[:] = 15, 0
    length, total = len(pixels) // 3, 0
    for again in range(2):
        for start in range(0, length, BLOCK):
            size = min(BLOCK, length - start)
            r, g, b = red[:size], green[:size], blue[:size]
            split(pixels[3 * start : 3 * (start + size)], r, g, b)
            total += within(r, g, b, low, span)
            if again == 0:
                reds, greens, blues = sums_within(r, g, b, low, span)
                sums[0] += reds
                sums[1] += greens
                sums[2] += blues
        if again == 0:
            for channel in range(3):
                lowest = max(-((near * total - sums[channel]) // total), 0)
                low[channel] = lowest
                span[channel] = min((near * total + sums[channel]) // total, 255) - lowest
            total = 0
    return int(total)


@compiled
def laplacian_of(
    above: Bytes, below: Bytes, left: Bytes, right: Bytes, middle: Bytes
) -> tuple[np.int32, np.int32]:
    """The sums of the 4-neighbour Laplacian and of its square."""
    total, squares = np.int32(0), np.int32(0)
    for x in range(len(middle)):
        tall = np.int32(np.int32(above[x]) + np.int32(below[x]))
        wide = np.int32(np.int32(left[x]) + np.int32(right[x]))
        value = np.int32(np.int32(tall + wide) - np.int32(4 * np.int32(middle[x])))
        total = np.int32(total + value)
        squares = np.int32(squares + np.int32(value * value))
    return total, squares


@compiled
def laplacian(luma: Bytes, width: int) -> tuple[int, int]:
    """The sums of the Laplacian of luma [height * width] inside its border, and of its square."""
    total, squares = 0, 0
    for row in range(1, len(luma) // width - 1):
        for column in range(1, width - 1, BLOCK):
            start = row * width + column
            stop = start + min(BLOCK, width - 1 - column)
            once, squared = laplacian_of(
                luma[start - width : stop - width],
                luma[start + width : stop + width],
                luma[start - 1 : stop - 1],
                luma[start + 1 : stop + 1],
                luma[start:stop],
            )
            total += once
            squares += squared
    return int(total), int(squares)


@compiled
def widened(
    image: Bytes,
    top: int,
    bottom: int,
    left: int,
    right: int,
    low: Bytes,
    high: Bytes,
    span: int,
) -> bool:
    """Whether a part of image [height, width, 3] keeps each channel's range within `span`.

    low, high [3] are widened to the part's colours.
    """
    for row in range(top, bottom):
        for column in range(left, right):
            for channel in range(3):
                value = image[row, column, channel]
                low[channel] = min(low[channel], value)
                high[channel] = max(high[channel], value)
                if high[channel] - low[channel] > span:
                    return False
    return True


@compiled
def inside_frame(image: Bytes, span: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of what is left of image [height, width, 3] without its frame.

    Rows are taken from the top, then from the bottom, as long as all that were taken from that
    side differ by at most `span` levels in each channel; then columns of the rows that are left.
    """
    top, bottom, left, right = 0, image.shape[0], 0, image.shape[1]
    low, high = np.empty(3, np.uint8), np.empty(3, np.uint8)
    for side in range(4):
        low[:], high[:] = 255, 0
        while top < bottom and left < right:
            first = bottom - 1 if side == 1 else top
            last = top + 1 if side == 0 else bottom
            begin = right - 1 if side == 3 else left
            end = left + 1 if side == 2 else right
            if not widened(image, first, last, begin, end, low, high, span):
                break
            top, bottom = top + (side == 0), bottom - (side == 1)
            left, right = left + (side == 2), right - (side == 3)
    return top, bottom, left, right


@compiled
def moments(levels: Counts) -> tuple[int, int, float]:
    """Of a histogram in four parts, [4, 256]: sum, sum of squares, Shannon entropy in bits."""
    count, total, squares, bits = 0, 0, 0, 0.0
    for level in range(levels.shape[1]):
        found = 0
        for part in range(len(levels)):
            found += np.int64(levels[part, level])
        count += found
        total += found * level
        squares += found * level * level
    for level in range(levels.shape[1]):
        found = 0
        for part in range(len(levels)):
            found += np.int64(levels[part, level])
        if found:
            bits -= found / count * math.log2(found / count)
    return int(total), int(squares), bits + 0.0
