"""The compiled loops that turn counts into pictures (numba): levels, colours, backgrounds, blur.

Noise of pixels is the finaliser of MurmurHash3 (Appleby) over a counter, between the two halves
of a 64-bit key: 32 bits a number, the same on any processor and in PyTorch.
"""

import math

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

FILLS = ("density", "graded", "patch", "patches")
MID_GREY = 127  # the level that FractalDB's patches have
FULL = 6  # visits after which a cell has every point of its patches
GOLDEN_32 = np.uint32(0x9E3779B9)
MIX_1 = np.uint32(0x85EBCA6B)
MIX_2 = np.uint32(0xC2B2AE35)
S8, S13, S16 = np.uint32(8), np.uint32(13), np.uint32(16)
SIXTH = 1 / 6
UNIT_24, HALF, QUARTER = np.float32(2.0**-24), np.float32(0.5), np.float32(0.25)


@compiled
def noise(low: np.uint32, high: np.uint32, index: int) -> np.uint32:
    """32 random bits: number `index` of the stream (low, high)."""
    z = np.uint32(np.uint32(index) * GOLDEN_32 + low)
    z = np.uint32((z ^ (z >> S16)) * MIX_1) ^ high
    z = np.uint32((z ^ (z >> S13)) * MIX_2)
    return np.uint32(z ^ (z >> S16))


@compiled
def diamond_square(
    grid: NDArray[np.float32], decay: float, low: np.uint32, high: np.uint32
) -> None:
    """Fill grid [2**k + 1, 2**k + 1] with diamond-square noise (Fournier et al., 1982).

    The random offset starts at 1 and is multiplied by `decay` from one level to the next. The
    noise of a cell is that of its number in the grid.
    """
    width = grid.shape[0]
    side, flat = width - 1, grid.reshape(-1)
    for index in range(width * width):
        flat[index] = np.float32(np.int32(noise(low, high, index) >> S8)) * UNIT_24 - HALF
    step, amount = side, 1.0
    while step > 1:
        half, scale = step // 2, np.float32(amount)
        for row in range(half, side, step):
            up, here, down = grid[row - half], grid[row], grid[row + half]
            for column in range(half, side, step):
                before, after = column - half, column + half
                total = (up[before] + up[after]) + (down[before] + down[after])
                here[column] = QUARTER * total + scale * here[column]
        for row in range(0, width, half):
            # At an edge the neighbour inside stands for the one that is missing.
            up = grid[row - half if row > 0 else half]
            here, down = grid[row], grid[row + half if row < side else side - half]
            start = half
            if row % step != 0:
                start = step
                total = (up[0] + down[0]) + (here[half] + here[half])
                here[0] = QUARTER * total + scale * here[0]
                total = (up[side] + down[side]) + (here[side - half] + here[side - half])
                here[side] = QUARTER * total + scale * here[side]
            for column in range(start, side, step):
                total = (up[column] + down[column]) + (here[column - half] + here[column + half])
                here[column] = QUARTER * total + scale * here[column]
        step, amount = half, amount * decay


@compiled
def grid_levels(grid: NDArray[np.float32], levels: NDArray[np.uint8]) -> None:
    """Scale grid [>= rows, >= columns] to levels [rows, columns] of 0 to 255."""
    least, most = grid[0].copy(), grid[0].copy()
    for row in range(grid.shape[0]):
        here = grid[row]
        for column in range(grid.shape[1]):
            value, below, above = here[column], least[column], most[column]
            least[column] = value if value < below else below
            most[column] = value if value > above else above
    low = least.min()
    scale = np.float32(255) / (most.max() - low + np.float32(1e-6))
    for row in range(levels.shape[0]):
        here, there = grid[row], levels[row]
        for column in range(levels.shape[1]):
            there[column] = np.uint8(np.int32((here[column] - low) * scale))


@compiled
def hue_ramp(
    hue: float,
    turn: float,
    saturation: tuple[float, float],
    value: tuple[float, float],
    ramp: NDArray[np.uint8],
) -> None:
    """Fill ramp [256, 3] with RGB: the hue turns from `hue` by `turn` (1 is a whole circle).

    Saturation and value (0 to 1) go from their first number to their second.
    """
    for level in range(256):
        share = level / 256.0
        angle = 6.0 * (hue + turn * share)
        full = 255.0 * (value[0] + (value[1] - value[0]) * share)
        chroma = full * (saturation[0] + (saturation[1] - saturation[0]) * share)
        for channel in range(3):
            # HSV to RGB in one formula: channel offsets 5, 3, 1 sixths of the circle.
            k = angle + 5.0 - 2.0 * channel
            k = k - 6.0 * math.floor(k * SIXTH)
            ramp[level, channel] = int(full - chroma * max(0.0, min(k, 4.0 - k, 1.0)))


@compiled
def shade(value: float, log: bool) -> float:
    """What a count is shown as. The last bit of a logarithm depends on the library: it is cut."""
    return float(np.float32(math.log1p(value))) if log else value


@compiled
def grade(counts: NDArray[np.uint32], log: bool, levels: NDArray[np.uint8]) -> None:
    """Levels [size, size] of counts [size + 2, size + 2]: 1 to 255 by (log-)density, 0 for none."""
    size = levels.shape[0]
    top = np.uint32(1)
    for row in range(size):
        for column in range(size):
            value = counts[row + 1, column + 1]
            top = value if value > top else top
    most = shade(float(top), log)
    table = np.empty(min(np.int64(top), 4096) + 1, np.uint8)  # counts mostly repeat: one log each
    for value in range(table.shape[0]):
        table[value] = max(int(255.0 * shade(float(value), log) / most), min(value, 1))
    last = np.uint32(table.shape[0] - 1)
    for row in range(size):
        for column in range(size):
            value = counts[row + 1, column + 1]
            if value <= last:
                levels[row, column] = table[value]
            else:
                levels[row, column] = int(255.0 * shade(float(value), log) / most)


@compiled
def stamp(counts: NDArray[np.uint32], bits: int, level: int, levels: NDArray[np.uint8]) -> None:
    """Put one 3 x 3 patch of nine bits, the lowest at the top left, around every cell visited."""
    patches = np.zeros(counts.shape, np.int32)
    for row in range(1, counts.shape[0] - 1):
        for column in range(1, counts.shape[1] - 1):
            patches[row, column] = bits if counts[row, column] > 0 else 0
    press(patches, level, levels)


@compiled
def stamps(
    counts: NDArray[np.uint32], low: np.uint32, high: np.uint32, level: int,
    levels: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Put a random 3 x 3 patch around every point, as FractalDB does.

    What the patches of a cell's points cover is drawn at once, from how many there are: a pixel
    is left out by each with 1 / 2, and by none of more than FULL.
    """
    size = levels.shape[0]
    patches = np.zeros(counts.shape, np.int32)
    for row in range(size):
        for column in range(size):
            visits = np.int64(counts[row + 1, column + 1])
            bits = np.int64(511 if visits > FULL else 0)
            for visit in range(0 if visits > FULL else visits):
                number = 2 * (row * size + column) + visit // 3
                bits |= (np.int64(noise(low, high, number)) >> (9 * (visit % 3))) & 511
            patches[row + 1, column + 1] = bits
    press(patches, level, levels)


@compiled
def press(patches: NDArray[np.int32], level: int, levels: NDArray[np.uint8]) -> None:
    """Give `level` to what patches [size + 2, size + 2] cover, 0 to the rest."""
    size = levels.shape[0]
    covered = np.empty(size, np.int32)
    for row in range(size):
        covered[:] = 0
        for bit in range(9):
            top, left = row + 2 - bit // 3, 2 - bit % 3
            here = patches[top, left : left + size]
            for column in range(size):
                covered[column] |= here[column] >> bit
        there = levels[row]
        for column in range(size):
            there[column] = np.uint8(level) if covered[column] & 1 else np.uint8(0)


@compiled
def paint(
    levels: NDArray[np.uint8],
    behind: NDArray[np.uint8],
    ramps: NDArray[np.uint8],
    image: NDArray[np.uint8],
) -> None:
    """Paint levels [size, size] over the background's into image [size, size, 3].

    ramps [2, 256, 3]: the colours of the fractal, and those of the background, by level. Level 0
    shows the background; an empty `behind` stands for one of level 0 everywhere.
    """
    colours = ramps.copy().reshape((512, 3))
    colours[0] = ramps[1, 0]
    for row in range(levels.shape[0]):
        for column in range(levels.shape[1]):
            colour = np.int64(levels[row, column])
            if behind.shape[0] > 0:
                colour = colour if colour > 0 else 256 + np.int64(behind[row, column])
            image[row, column, 0] = colours[colour, 0]
            image[row, column, 1] = colours[colour, 1]
            image[row, column, 2] = colours[colour, 2]


@compiled
def paste(
    levels: NDArray[np.uint8],
    ramp: NDArray[np.uint8],
    top: int,
    left: int,
    image: NDArray[np.uint8],
) -> None:
    """Paint levels [side, side] into image [rows, columns, 3], where they are not 0.

    top and left: where their corner lies, which may be outside; colours are ramp [256, 3].
    """
    rows, columns = image.shape[0], image.shape[1]
    for row in range(max(top, 0), min(top + levels.shape[0], rows)):
        for column in range(max(left, 0), min(left + levels.shape[1], columns)):
            level = levels[row - top, column - left]
            if level > 0:
                for channel in range(3):
                    image[row, column, channel] = ramp[level, channel]


@compiled
def blur(image: NDArray[np.uint8], side: int) -> None:
    """Smooth image [rows, columns, 3] in place by (side, 256 - 2 side, side) / 256, both ways.

    Pixels beyond the edge are those at the edge.
    """
    rows, width = image.shape[0], image.shape[1] * 3
    flat = image.reshape((rows, width))
    across = np.empty((rows, width), np.int32)
    edge, middle = np.int32(side), np.int32(256 - 2 * side)
    for row in range(rows):
        here, there = flat[row], across[row]
        before, inside, after = here[: width - 6], here[3 : width - 3], here[6:]
        smooth = there[3 : width - 3]
        for column in range(width - 6):
            both = np.int32(before[column]) + np.int32(after[column])
            smooth[column] = edge * both + middle * np.int32(inside[column])
        for channel in range(3):
            for at, next_to in ((channel, channel + 3), (width - 3 + channel, width - 6 + channel)):
                both = np.int32(here[at]) + np.int32(here[next_to])
                there[at] = edge * both + middle * np.int32(here[at])
    for row in range(rows):
        up, here = across[max(row - 1, 0)], across[row]
        down, there = across[min(row + 1, rows - 1)], flat[row]
        for column in range(width):
            total = edge * (up[column] + down[column]) + middle * here[column]
            there[column] = np.uint8((total + np.int32(32768)) >> np.int32(16))
