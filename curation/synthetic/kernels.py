"""The compiled loops of the fractal renderer (numba): numbers in, numbers out.

Random numbers are SplitMix64 words (Steele et al., 2014): word i of a key is a hash of
key + i * GOLDEN, so they are counter-based, need no arrays of draws, and do not depend on
threads. No fast-math: the order of every sum is as written, on every machine.
"""

import math

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

TABLE = 4096  # entries of the table that turns 12 random bits into a map number
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
S12, S27, S30, S31, S11 = (np.uint64(bits) for bits in (12, 27, 30, 31, 11))
LOW_12 = np.uint64(TABLE - 1)
UNIT = 2.0**-53


@compiled
def word(key: np.uint64, index: int) -> np.uint64:
    """Word `index` of the random stream `key`: 64 bits."""
    z = key + np.uint64(index + 1) * GOLDEN
    z = (z ^ (z >> S30)) * MIX_1
    z = (z ^ (z >> S27)) * MIX_2
    return z ^ (z >> S31)


@compiled
def chaos_game(
    maps: NDArray[np.float64], table: NDArray[np.uint8], key: np.uint64, points: NDArray[np.float32]
) -> tuple[float, float, float, float]:
    """Fill points [p, 2] with an orbit and return its box (left, top, right, bottom).

    maps [n, 6] holds a, b, c, d, e, f of (a x + b y + e, c x + d y + f); table [TABLE] names a
    map for 12 random bits. The orbit starts in the fixed point of map 0, which lies on the
    attractor, so no point needs to be thrown away.
    """
    a, b, c = maps[0, 0], maps[0, 1], maps[0, 2]
    d, e, f = maps[0, 3], maps[0, 4], maps[0, 5]
    determinant = (1.0 - a) * (1.0 - d) - b * c
    x = ((1.0 - d) * e + b * f) / determinant
    y = (c * e + (1.0 - a) * f) / determinant
    left, top, right, bottom = x, y, x, y
    bits = np.uint64(0)
    for index in range(points.shape[0]):
        if index % 5 == 0:
            bits = word(key, index // 5)
        k = table[bits & LOW_12]
        bits >>= S12
        x, y = (
            maps[k, 0] * x + maps[k, 1] * y + maps[k, 4],
            maps[k, 2] * x + maps[k, 3] * y + maps[k, 5],
        )
        points[index, 0] = x
        points[index, 1] = y
        left, right = min(left, x), max(right, x)
        top, bottom = min(top, y), max(bottom, y)
    return left, top, right, bottom


@compiled
def count(
    points: NDArray[np.float32],
    box: tuple[float, float, float, float],
    counts: NDArray[np.uint32],
) -> int:
    """Add points [p, 2] to counts [rows, columns] over `box`; return how many cells are hit."""
    rows, columns = counts.shape
    left, top, right, bottom = box
    scale_x = columns / max(right - left, 1e-12)
    scale_y = rows / max(bottom - top, 1e-12)
    hit = 0
    for index in range(points.shape[0]):
        column = math.floor((points[index, 0] - left) * scale_x)
        row = math.floor((points[index, 1] - top) * scale_y)
        if 0 <= column < columns and 0 <= row < rows:
            hit += counts[row, column] == 0
            counts[row, column] += np.uint32(1)
    return hit


@compiled
def diamond_square(grid: NDArray[np.float32], decay: float, key: np.uint64) -> None:
    """Fill grid [2**k + 1, 2**k + 1] with diamond-square noise (Fournier et al., 1982), 0 to 1.

    The random offset starts at 1 and is multiplied by `decay` from one level to the next.
    """
    side = grid.shape[0] - 1
    used = 0
    for row in range(0, side + 1, side):
        for column in range(0, side + 1, side):
            grid[row, column] = (word(key, used) >> S11) * UNIT
            used += 1
    step, amount = side, 1.0
    while step > 1:
        half = step // 2
        for row in range(half, side, step):
            for column in range(half, side, step):
                mean = grid[row - half, column - half] + grid[row - half, column + half]
                mean += grid[row + half, column - half] + grid[row + half, column + half]
                noise = (word(key, used) >> S11) * UNIT - 0.5
                grid[row, column] = 0.25 * mean + amount * noise
                used += 1
        for row in range(0, side + 1, half):
            for column in range(half if row % step == 0 else 0, side + 1, step):
                mean, neighbours = 0.0, 0
                if row > 0:
                    mean, neighbours = mean + grid[row - half, column], neighbours + 1
                if row < side:
                    mean, neighbours = mean + grid[row + half, column], neighbours + 1
                if column > 0:
                    mean, neighbours = mean + grid[row, column - half], neighbours + 1
                if column < side:
                    mean, neighbours = mean + grid[row, column + half], neighbours + 1
                noise = (word(key, used) >> S11) * UNIT - 0.5
                grid[row, column] = mean / neighbours + amount * noise
                used += 1
        step, amount = half, amount * decay
    low = high = grid[0, 0]
    for row in range(side + 1):
        for column in range(side + 1):
            low, high = min(low, grid[row, column]), max(high, grid[row, column])
    for row in range(side + 1):
        for column in range(side + 1):
            grid[row, column] = (grid[row, column] - low) / (high - low + 1e-6)


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
            k = (angle + 5.0 - 2.0 * channel) % 6.0
            ramp[level, channel] = int(full - chroma * max(0.0, min(k, 4.0 - k, 1.0)))


@compiled
def paint(
    counts: NDArray[np.uint32],
    grid: NDArray[np.float32],
    ramps: NDArray[np.uint8],
    image: NDArray[np.uint8],
) -> None:
    """Paint counts [rows, columns] over grid [>= rows, >= columns] into image [rows, columns, 3].

    ramps [2, 256, 3]: the colours of the log-density, and those of the background by level.
    A cell that no point hit shows the background.
    """
    rows, columns = counts.shape
    top = np.uint32(0)
    for row in range(rows):
        for column in range(columns):
            top = max(top, counts[row, column])
    levels = np.empty(min(int(top), 4096) + 1, np.uint8)  # counts mostly repeat: one log each
    scale = 255.0 / math.log1p(max(float(top), 1.0))
    for value in range(levels.shape[0]):
        levels[value] = int(scale * math.log1p(float(value)))
    for row in range(rows):
        for column in range(columns):
            value = counts[row, column]
            if value == 0:
                which, level = 1, np.uint8(255.0 * grid[row, column])
            elif value < levels.shape[0]:
                which, level = 0, levels[value]
            else:
                which, level = 0, np.uint8(scale * math.log1p(float(value)))
            for channel in range(3):
                image[row, column, channel] = ramps[which, level, channel]
