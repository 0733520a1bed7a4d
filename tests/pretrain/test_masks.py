import numpy as np
import pytest

from pretrain.masks import ASPECT, LEAST_BLOCK, _blocks, block_masks, keyed, spread_counts


def draw(places: np.ndarray, copies: int = 1):
    return keyed(lambda *names: (0, "test", *names), places, copies)


def test_ratios_are_spread_evenly_over_half_the_images() -> None:
    numbers = np.random.default_rng(0).random(16).astype(np.float32)
    counts = spread_counts(numbers, 196, 0.5, (0.1, 0.5))
    assert (counts == 0).sum() == 8
    wanted = [int(196 * (0.1 + 0.4 * (i + 1) / 8)) for i in range(8)]
    assert sorted(counts[counts > 0].tolist()) == wanted
    assert counts[np.argsort(numbers)[:8]].tolist() == wanted
    other = spread_counts(numbers[::-1].copy(), 196, 0.5, (0.1, 0.5))
    assert other.sum() == counts.sum()  # every batch hides as many
    assert spread_counts(np.zeros(2, np.float32), 4, 0.5, (0.1, 0.2)).tolist() == [1, 0]


@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (6, 10), (2, 2), (1, 9)])
def test_counts_are_exact(grid: tuple[int, int]) -> None:
    patches = grid[0] * grid[1]
    counts = np.arange(40) % (patches + 1)
    masks = block_masks(draw(np.arange(40)), counts, grid)
    assert masks.shape == (40, *grid)
    assert masks.dtype == bool
    assert masks.sum((1, 2)).tolist() == counts.tolist()


def test_a_mask_depends_on_its_position_alone() -> None:
    counts = np.asarray([20, 40, 60, 0, 30, 50])
    whole = block_masks(draw(np.arange(10, 16)), counts, (14, 14))
    assert np.array_equal(block_masks(draw(np.arange(12, 16)), counts[2:], (14, 14)), whole[2:])
    assert not np.array_equal(
        whole[0], block_masks(draw(np.arange(9, 10)), counts[:1], (14, 14))[0]
    )
    both = draw(np.arange(3), 2)("block", 8)
    assert both.shape == (6, 8)
    assert not np.array_equal(both[:3], both[3:])


def test_blocks_have_their_area_and_aspect() -> None:
    numbers = np.random.default_rng(0).random((500, 4))
    left = np.full(500, 50)
    blocks = _blocks(numbers, left, (14, 14))
    found = blocks.any((1, 2))
    assert found.mean() > 0.9  # few exceed the grid
    heights, widths = blocks.any(2).sum(1)[found], blocks.any(1).sum(1)[found]
    areas = blocks.sum((1, 2))[found]
    assert np.array_equal(heights * widths, areas)  # rectangles
    assert areas.min() >= LEAST_BLOCK - 1  # a side is rounded to whole patches
    assert areas.max() <= 50 * 1.25
    low, high = ASPECT
    assert (heights / widths).min() >= low / 2
    assert (heights / widths).max() <= high * 2
    assert abs(np.log(heights / widths).mean()) < 0.1
    assert blocks[:, 0].any() and blocks[:, -1].any() and blocks[..., 0].any()


def test_most_of_a_mask_is_blocks() -> None:
    """A hidden patch has far more hidden neighbours than one of a random mask of that size."""
    masks = block_masks(draw(np.arange(60)), np.full(60, 58), (14, 14))
    beside = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks[:, :, 1:].sum()
    assert beside > 0.6  # 58 of 196 at random: 0.3
    places = masks.mean(0)
    assert places.min() > 0.02 and places.max() < 0.8  # no place is never or always hidden
