import math

import numpy as np
import pytest

from curation.synthetic import kernels
from curation.synthetic.kernels import TABLE, chaos_game, count, diamond_square, word

SIERPINSKI = np.array(
    [[0.5, 0, 0, 0.5, 0, 0], [0.5, 0, 0, 0.5, 0.5, 0], [0.5, 0, 0, 0.5, 0.25, 0.5]]
)
MASK = 2**64 - 1


def splitmix64(key: int, index: int) -> int:
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_words_are_those_of_splitmix64():
    # The first outputs of the published generator for seed 0.
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(word(np.uint64(0), index)) for index in range(3)] == expected
    assert int(word(np.uint64(MASK), 10**6)) == splitmix64(MASK, 10**6)


def test_chaos_game_agrees_with_a_plain_loop():
    table = (np.arange(TABLE) % 3).astype(np.uint8)
    points = np.empty((1000, 2), np.float32)
    box = chaos_game(SIERPINSKI, table, np.uint64(7), points)
    x = y = 0.0  # the fixed point of map 0
    expected = []
    for index in range(1000):
        bits = splitmix64(7, index // 5) >> 12 * (index % 5)
        a, b, c, d, e, f = SIERPINSKI[table[bits & TABLE - 1]]
        x, y = a * x + b * y + e, c * x + d * y + f
        expected.append((x, y))
    np.testing.assert_array_equal(points, np.array(expected, np.float32))
    left, top, right, bottom = box
    assert left == top == 0.0  # the start is in the box, too
    assert math.isclose(right, points[:, 0].max(), rel_tol=1e-6)
    assert math.isclose(bottom, points[:, 1].max(), rel_tol=1e-6)


def test_count_loses_only_what_lies_outside_the_box():
    points = np.array([[0, 0], [0.99, 0], [0.5, 0.5], [0.5, 0.5], [1.5, 0], [-0.01, 0]], np.float32)
    counts = np.zeros((2, 4), np.uint32)
    hit = count(points, (0.0, 0.0, 1.0, 1.0), counts)
    assert counts.tolist() == [[1, 0, 0, 1], [0, 0, 2, 0]]
    assert hit == 3


def test_diamond_square_fills_the_grid_smoothly_from_0_to_1():
    grid = np.full((65, 65), np.nan, np.float32)
    diamond_square(grid, 0.5, np.uint64(3))
    assert grid.min() == 0.0 and grid.max() == pytest.approx(1.0, abs=1e-5)
    assert np.abs(np.diff(grid, axis=0)).mean() < 0.1 < grid.std()
    again = np.zeros_like(grid)
    diamond_square(again, 0.5, np.uint64(3))
    np.testing.assert_array_equal(grid, again)


def test_hue_ramp_is_hsv():
    import colorsys

    ramp = np.zeros((256, 3), np.uint8)
    kernels.hue_ramp(0.7, 1.0, (0.4, 0.6), (0.5, 0.9), ramp)
    for level in (0, 100, 255):
        share = level / 256
        rgb = colorsys.hsv_to_rgb((0.7 + share) % 1, 0.4 + 0.2 * share, 0.5 + 0.4 * share)
        np.testing.assert_allclose(ramp[level], [255 * part for part in rgb], atol=1)


def test_paint_shows_the_background_where_no_point_fell():
    counts = np.array([[0, 1], [3, 10_000]], np.uint32)
    grid = np.full((2, 2), 0.5, np.float32)
    front = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    back = np.zeros((256, 3), np.uint8)
    back[127] = 9, 8, 7
    image = np.zeros((2, 2, 3), np.uint8)
    kernels.paint(counts, grid, np.stack([front, back]), image)
    assert image[0, 0].tolist() == [9, 8, 7]
    levels = [int(255 * math.log1p(value) / math.log1p(10_000)) for value in (1, 3)]
    assert image[0, 1, 0] == levels[0] and image[1, 0, 0] == levels[1]
    assert abs(int(image[1, 1, 0]) - 255) <= 1
