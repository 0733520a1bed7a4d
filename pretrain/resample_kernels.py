"""The compiled loops of `pretrain.resample` (numba)."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

loop = partial(compiled, nogil=True, error_model="numpy")


@loop
def add_up(
    rows: NDArray[np.generic],
    first: int,
    weights: NDArray[np.float32],
    low: int,
    high: int,
    sums: NDArray[np.float32],
) -> None:
    """sums[j] = sum of weights[k] * rows[first + k, j] for low <= j < high; four rows at a time."""
    sums[low:high] = 0
    whole = len(weights) // 4 * 4
    target = sums[low:high]
    for k in range(0, whole, 4):
        wa, wb, wc, wd = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        if wa == 0 and wb == 0 and wc == 0 and wd == 0:
            continue
        a, b = rows[first + k, low:high], rows[first + k + 1, low:high]
        c, d = rows[first + k + 2, low:high], rows[first + k + 3, low:high]
        for j in range(high - low):
            target[j] += (wa * np.float32(a[j]) + wb * np.float32(b[j])) + (
                wc * np.float32(c[j]) + wd * np.float32(d[j])
            )
    for k in range(whole, len(weights)):
        weight, row = weights[k], rows[first + k, low:high]
        for j in range(high - low):
            target[j] += weight * np.float32(row[j])


@loop
def resample(
    images: NDArray[np.uint8],
    first_row: NDArray[np.int64],
    row_weights: NDArray[np.float32],
    first_column: NDArray[np.int64],
    column_weights: NDArray[np.float32],
    target: NDArray[np.float32],
) -> None:
    """target[i, y, x, c]: weighted sums of images[i], rows first, then columns.

    images: [batch, h, w, 3]; first_...: the first row or column that counts [batch, size];
    ..._weights: of it and of those behind it [batch, size, taps]; target: [batch, size, size, 3].
    Every sum is over a whole line at once, which is what processors are fast at: so the lines of
    the first pass are laid down as columns.
    """
    height, width, size = images.shape[1], images.shape[2], target.shape[1]
    line = np.empty(3 * width, np.float32)
    turned = np.empty((width, 3 * size), np.float32)
    column = np.empty(3 * size, np.float32)
    for i in range(images.shape[0]):
        image, made = images[i].reshape(height, 3 * width), target[i]
        low = first_column[i].min()
        high = first_column[i].max() + column_weights.shape[2]
        for y in range(size):
            add_up(image, first_row[i, y], row_weights[i, y], 3 * low, 3 * high, line)
            for x in range(low, high):
                for c in range(3):
                    turned[x, 3 * y + c] = line[3 * x + c]
        for x in range(size):
            add_up(turned, first_column[i, x], column_weights[i, x], 0, 3 * size, column)
            for y in range(size):
                for c in range(3):
                    made[y, x, c] = column[3 * y + c]
