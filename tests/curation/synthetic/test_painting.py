import colorsys
import math

import numpy as np
import pytest

from curation.synthetic import painting
from infra.digests import generator

KEY = np.uint32(123), np.uint32(45678)


def test_diamond_square_is_smooth_and_the_same_each_time():
    grid = np.full((65, 65), np.nan, np.float32)
    painting.diamond_square(grid, 0.5, *KEY)
    assert np.isfinite(grid).all()
    assert np.abs(np.diff(grid, axis=0)).mean() < 0.2 * (grid.max() - grid.min())
    again = np.zeros_like(grid)
    painting.diamond_square(again, 0.5, *KEY)
    np.testing.assert_array_equal(grid, again)
    levels = np.empty((60, 60), np.uint8)
    painting.grid_levels(grid, levels)
    expected = 255 * (grid[:60, :60] - grid.min()) / (grid.max() - grid.min())
    np.testing.assert_allclose(levels, expected, atol=1.01)


def test_diamond_square_puts_means_between_corners():
    grid = np.zeros((3, 3), np.float32)
    painting.diamond_square(grid, 0.5, *KEY)
    offsets = [painting.noise(*KEY, index) * 2.0**-32 - 0.5 for index in range(9)]
    a, ab, b, _, middle, bd, c, _, d = grid.ravel().tolist()
    assert [a, b, c, d] == pytest.approx([offsets[i] for i in (0, 2, 6, 8)], abs=1e-6)
    assert middle == pytest.approx((a + b + c + d) / 4 + offsets[4], abs=1e-6)
    assert ab == pytest.approx((a + b + 2 * middle) / 4 + offsets[1], abs=1e-6)
    assert bd == pytest.approx((b + d + 2 * middle) / 4 + offsets[5], abs=1e-6)


def test_noise_is_even():
    words = np.array([painting.noise(*KEY, index) for index in range(4000)], np.uint32)
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.04
    assert len(set(words.tolist())) >= 3999


def test_hue_ramp_is_hsv():
    ramp = np.zeros((256, 3), np.uint8)
    painting.hue_ramp(0.7, 1.0, (0.4, 0.6), (0.5, 0.9), ramp)
    for level in (0, 100, 255):
        share = level / 256
        rgb = colorsys.hsv_to_rgb((0.7 + share) % 1, 0.4 + 0.2 * share, 0.5 + 0.4 * share)
        np.testing.assert_allclose(ramp[level], [255 * part for part in rgb], atol=1)


def grade(inner: list[list[int]], log: bool) -> np.ndarray:
    counts = np.full((len(inner) + 2, len(inner) + 2), 99_999, np.uint32)  # the margin is no part
    counts[1:-1, 1:-1] = inner
    levels = np.empty((len(inner), len(inner)), np.uint8)
    painting.grade(counts, log, levels)
    return levels


def test_levels_are_of_the_density_or_its_logarithm():
    expected = [int(255 * math.log1p(value) / math.log1p(10_000)) for value in (0, 1, 3)]
    assert grade([[0, 1], [3, 10_000]], True).ravel().tolist()[:3] == expected
    assert grade([[0, 1], [3, 10_000]], True)[1, 1] in (254, 255)
    assert grade([[0, 1], [50, 100]], False).tolist() == [[0, 2], [127, 255]]
    assert grade([[0, 1], [3, 10_000]], False).tolist() == [[0, 1], [1, 255]]  # seen, though faint
    assert grade([[0, 0], [0, 0]], True).max() == 0


def test_a_patch_goes_around_every_cell():
    counts = np.zeros((7, 7), np.uint32)
    counts[3, 3] = 5
    counts[1, 1] = 1  # the first cell of the image: a part of its patch is outside
    counts[0, 4] = 7  # the margin
    levels = np.empty((5, 5), np.uint8)
    painting.stamp(counts, 0b100_010_001, 200, levels)
    assert np.argwhere(levels == 200).tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    painting.stamp(counts, 0b000_000_010, 200, levels)
    assert np.argwhere(levels).tolist() == [[1, 2]]


@pytest.mark.parametrize("visits", [1, 2, 5, 20])
def test_patches_cover_a_cell_as_its_points_would(visits):
    counts = np.zeros((302, 302), np.uint32)
    counts[2:-1:3, 2:-1:3] = visits
    levels = np.empty((300, 300), np.uint8)
    painting.stamps(counts, *KEY, 127, levels)
    share = (levels == 127).reshape(100, 3, 100, 3).mean(axis=(0, 2))
    np.testing.assert_allclose(share, 1 - 0.5 ** min(visits, 50), atol=0.025)


def test_paint_shows_the_background_where_no_point_fell():
    ramps = np.stack([np.full((256, 3), 100, np.uint8), np.full((256, 3), 9, np.uint8)])
    ramps[0, 7], ramps[1, 3] = (1, 2, 3), (4, 5, 6)
    levels = np.array([[0, 7], [1, 0]], np.uint8)
    image = np.empty((2, 2, 3), np.uint8)
    painting.paint(levels, np.array([[3, 3], [3, 0]], np.uint8), ramps, image)
    assert image.tolist() == [[[4, 5, 6], [1, 2, 3]], [[100] * 3, [9] * 3]]
    painting.paint(levels, np.zeros((0, 0), np.uint8), ramps, image)
    assert image.tolist() == [[[9] * 3, [1, 2, 3]], [[100] * 3, [9] * 3]]


def test_paste_stays_inside():
    image = np.zeros((4, 4, 3), np.uint8)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    levels = np.array([[1, 2, 0], [3, 4, 5], [6, 7, 8]], np.uint8)
    painting.paste(levels, ramp, -1, 2, image)
    assert image[:, :, 0].tolist() == [[0, 0, 3, 4], [0, 0, 6, 7], [0] * 4, [0] * 4]
    painting.paste(levels, ramp, 2, -2, image)
    assert image[:, :, 0].tolist() == [[0, 0, 3, 4], [0, 0, 6, 7], [0] * 4, [5, 0, 0, 0]]


def test_blur_is_a_gaussian_of_three_pixels():
    image = generator(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = np.array([60, 136, 60]) / 256
    rows = sum(kernel[i] * padded[i : i + 9] for i in range(3))
    expected = sum(kernel[i] * rows[:, i : i + 12] for i in range(3))
    painting.blur(image, 60)
    np.testing.assert_allclose(image, expected, atol=0.501)
