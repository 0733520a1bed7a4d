"""Which patches of an image are hidden: single ones or blocks, as many as asked for, by keyed
numbers.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pretrain import views

ATTEMPTS = 32  # blocks that are tried for an image, before single patches complete its mask
LEAST_BLOCK = 4  # patches of a block at least
ASPECT = (0.3, 1 / 0.3)  # height over width of a block
Draw = Callable[[str, int], NDArray[np.float32]]  # uniform numbers [images, width] by name


def single_masks(numbers: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Masks [images, patches] with `count` hidden patches each, True where hidden.

    numbers: uniform [images, patches].
    """
    order = np.argsort(numbers, axis=1, kind="stable")
    hidden = np.zeros(numbers.shape, np.bool_)
    np.put_along_axis(hidden, order[:, :count], True, axis=1)
    return hidden


def spread_counts(
    numbers: NDArray[np.float32], patches: int, share: float, ratios: tuple[float, float]
) -> NDArray[np.int64]:
    """How many patches of each image are hidden, [images]; 0 for those that are shown whole.

    A share of the images is masked, chosen at random; the i-th of these n has the ratio
    linspace(*ratios, n + 1)[i + 1] (Oquab et al. 2023, arXiv:2304.07193): every batch hides as
    many patches as any other. numbers: uniform [images]; patches: of an image.
    """
    masked = max(round(share * len(numbers)), 1)
    wanted = np.linspace(*ratios, masked + 1)[1:] * patches
    counts = np.zeros(len(numbers), np.int64)
    chosen = np.argsort(numbers, kind="stable")[:masked]
    counts[chosen] = np.clip(np.floor(wanted + 1e-6), 1, patches)  # 0.3 * 10 is below 3
    return counts


def block_masks(draw: Draw, counts: NDArray[np.int64], grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks [images, rows, columns] with exactly counts[i] hidden patches, True where hidden.

    Rectangles at random places, of an area between `LEAST_BLOCK` and what is still to be hidden,
    are laid over each other (BEiT, arXiv:2106.08254) until none fits; single patches at random
    make up the rest. A row of the result depends on its numbers and its count alone.
    """
    rows, columns = grid
    hidden = np.zeros((len(counts), rows, columns), np.bool_)
    numbers = draw("block", 4 * ATTEMPTS).reshape(len(counts), ATTEMPTS, 4).astype(np.float64)
    for attempt in range(ATTEMPTS):
        left = counts - hidden.sum((1, 2))
        block = _blocks(numbers[:, attempt], left, grid)
        added = (block & ~hidden).sum((1, 2))
        fits = (left >= LEAST_BLOCK) & (added > 0) & (added <= left)
        hidden |= block & fits[:, None, None]
    flat = hidden.reshape(len(counts), -1)
    noise = np.where(flat, np.inf, draw("rest", rows * columns))
    rank = np.argsort(np.argsort(noise, axis=1, kind="stable"), axis=1)
    flat |= rank < (counts - flat.sum(1))[:, None]
    return hidden


def _blocks(
    numbers: NDArray[np.float64], left: NDArray[np.int64], grid: tuple[int, int]
) -> NDArray[np.bool_]:
    """One rectangle for each image, [images, rows, columns]; none where it exceeds the grid.

    numbers: uniform [images, 4], for area, aspect and place.
    """
    area = LEAST_BLOCK + (np.maximum(left, LEAST_BLOCK) - LEAST_BLOCK) * numbers[:, 0]
    low, high = np.log(ASPECT)
    aspect = np.exp(low + (high - low) * numbers[:, 1])
    inside = np.ones(len(left), np.bool_)
    spans: list[NDArray[np.bool_]] = []
    for side, length, place in (
        (np.rint(np.sqrt(area * aspect)), grid[0], numbers[:, 2]),
        (np.rint(np.sqrt(area / aspect)), grid[1], numbers[:, 3]),
    ):
        inside &= (side >= 1) & (side <= length)
        start = np.floor((length - side + 1) * place)
        cells = np.arange(length)
        spans.append((cells >= start[:, None]) & (cells < (start + side)[:, None]))
    return spans[0][:, :, None] & spans[1][:, None, :] & inside[:, None, None]


def keyed(key: Callable[..., tuple[object, ...]], places: NDArray[np.int64], copies: int) -> Draw:
    """Numbers for `copies` views of each sample, the first views first, keyed by position."""

    def draw(name: str, width: int) -> NDArray[np.float32]:
        parts = [views.uniforms(key(name, copy), places, width) for copy in range(copies)]
        return np.concatenate(parts)

    return draw
