"""The compiled loops of `indexes.resize` and `indexes.preprocess` (numba)."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from infra.compiled import compiled

# They run beside other threads of Python; a division by zero gives what NumPy gives, and leaves
# the loop to the processor's vectors.
loop = partial(compiled, nogil=True, error_model="numpy")

BITS = 22  # of a weight behind the point: 8 of a pixel and 2 for overshooting make 32
HALF, SHIFT = np.int32(1 << BITS >> 1), np.int32(BITS)
BLACK, WHITE = np.int32(0), np.int32(255)
BLOCK = 2048  # columns summed at a time: their sums and rows stay in the nearest cache

FULL = np.float32(255)

S8, S16, S32 = np.uint64(8), np.uint64(16), np.uint64(32)
M8, M16, M32 = (
    np.uint64(mask) for mask in (0x00FF00FF00FF00FF, 0x0000FFFF0000FFFF, 0x00000000FFFFFFFF)
)


@loop
def weigh_rows(
    source: NDArray[np.uint8],
    first: NDArray[np.int64],
    weights: NDArray[np.int32],
    target: NDArray[np.uint8],
) -> None:
    """target[i, j] = sum of weights[i, k] * source[first[i] + k, j], rounded and clipped.

    weights: in 1 / 2**BITS, [n, taps], taps a multiple of 4; all rows they name are there.
    """
    sums = np.empty(BLOCK, np.int32)
    taps = weights.shape[1]
    for begin in range(0, target.shape[1], BLOCK):
        end = min(begin + BLOCK, target.shape[1])
        for i in range(first.shape[0]):
            for j in range(end - begin):
                sums[j] = HALF
            for k in range(0, taps, 4):
                row = first[i] + k
                a = source[row, begin:end]
                b = source[row + 1, begin:end]
                c = source[row + 2, begin:end]
                d = source[row + 3, begin:end]
                wa, wb, wc, wd = (
                    weights[i, k],
                    weights[i, k + 1],
                    weights[i, k + 2],
                    weights[i, k + 3],
                )
                for j in range(end - begin):
                    sums[j] += wa * a[j] + wb * b[j] + wc * c[j] + wd * d[j]
            line = target[i, begin:end]
            for j in range(end - begin):
                value = np.int32(sums[j] >> SHIFT)
                line[j] = np.uint8(min(max(value, BLACK), WHITE))


@loop
def turn(source: NDArray[np.uint64], target: NDArray[np.uint64]) -> None:
    """Rows and columns of bytes exchanged, 8 x 8 at a time (Warren, Hacker's Delight, 7-3).

    source: bytes [8 m, 8 n] as words [8 m, n]. target: bytes [8 n, 8 m] as words [8 n, m].
    """
    for p in range(source.shape[0] // 8):
        for q in range(source.shape[1]):
            i, j = 8 * p, 8 * q
            a, b, c, d = source[i, q], source[i + 1, q], source[i + 2, q], source[i + 3, q]
            e, f, g, h = source[i + 4, q], source[i + 5, q], source[i + 6, q], source[i + 7, q]
            x = ((a >> S8) ^ b) & M8
            a, b = a ^ (x << S8), b ^ x
            x = ((c >> S8) ^ d) & M8
            c, d = c ^ (x << S8), d ^ x
            x = ((e >> S8) ^ f) & M8
            e, f = e ^ (x << S8), f ^ x
            x = ((g >> S8) ^ h) & M8
            g, h = g ^ (x << S8), h ^ x
            x = ((a >> S16) ^ c) & M16
            a, c = a ^ (x << S16), c ^ x
            x = ((b >> S16) ^ d) & M16
            b, d = b ^ (x << S16), d ^ x
            x = ((e >> S16) ^ g) & M16
            e, g = e ^ (x << S16), g ^ x
            x = ((f >> S16) ^ h) & M16
            f, h = f ^ (x << S16), h ^ x
            x = ((a >> S32) ^ e) & M32
            target[j, p], target[j + 4, p] = a ^ (x << S32), e ^ x
            x = ((b >> S32) ^ f) & M32
            target[j + 1, p], target[j + 5, p] = b ^ (x << S32), f ^ x
            x = ((c >> S32) ^ g) & M32
            target[j + 2, p], target[j + 6, p] = c ^ (x << S32), g ^ x
            x = ((d >> S32) ^ h) & M32
            target[j + 3, p], target[j + 7, p] = d ^ (x << S32), h ^ x


@loop
def normalise(
    pixels: NDArray[np.uint8],
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    target: NDArray[np.float32],
) -> None:
    """target = (pixels / 255 - mean) / std of each channel, [n, channels, m], as PyTorch rounds."""
    for i in range(pixels.shape[0]):
        for channel in range(pixels.shape[1]):
            values, line = pixels[i, channel], target[i, channel]
            middle, unit = mean[channel], std[channel]
            for j in range(len(values)):
                line[j] = (np.float32(values[j]) / FULL - middle) / unit
