import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.resample import LEAST_SIGMA, blur, resample, shrink


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def area_matrix(size: int, target: int) -> np.ndarray:
    """[target, size]: which share of each old pixel lies in each new one, by definition."""
    edges = np.arange(target + 1) * size / target
    old = np.arange(size)
    shared = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return shared.clip(0) * target / size


def by_definition(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    rows, columns = area_matrix(pixels.shape[0], height), area_matrix(pixels.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, pixels.astype(float), columns)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_smaller_pictures_hold_area_averages(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    target = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    pixels = noise(width, height, width)
    small = shrink(pixels, (width, height), target)
    # Shares in 256ths and a rounding in each direction; noise is their worst case.
    assert np.abs(small - by_definition(pixels, *target)).max() <= 2


@pytest.mark.parametrize("colour", [0, 1, 127, 128, 254, 255])
def test_one_colour_stays_what_it_is(colour: int) -> None:
    flat = np.full((61, 97, 3), colour, np.uint8)
    for size in ((97, 61), (96, 60), (13, 7), (1, 1), (97, 1), (200, 90)):
        assert (resample(flat, *size) == colour).all()


@pytest.mark.parametrize("cell", [2, 4, 8])
def test_a_part_of_a_cell_at_the_end_does_not_shift_the_picture(cell: int) -> None:
    width, height = 203, 117  # no multiples of 2, 4 or 8
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(width)
    ramp[..., 1] = np.arange(height)[:, None]
    padded = np.pad(ramp, ((0, -height % cell), (0, -width % cell), (0, 0)), "edge")
    cells = padded.reshape(-(-height // cell), cell, -(-width // cell), cell, 3)
    reduced = np.rint(cells.mean(axis=(1, 3))).astype(np.uint8)
    given_whole = shrink(ramp, (width, height), (11, 6)).astype(int)
    assert np.abs(shrink(reduced, (width, height), (11, 6), cell) - given_whole).max() <= 1


def test_larger_pictures_keep_a_straight_ramp() -> None:
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2)
    large = resample(ramp, 120, 16).astype(int)
    assert large.shape == (16, 120, 3)
    assert np.abs(large[8, 10:-10, 0] - (np.arange(10, 110) * 2 - 1)).max() <= 1


def fine_detail(pixels: np.ndarray) -> float:
    """Energy of the Laplacian: what is left of edges, and with them of a face."""
    grey = pixels.astype(float).mean(axis=2)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2]
    return float(((laplacian - grey[1:-1, 2:]) ** 2).mean())


@pytest.mark.parametrize("box", [(0.4, 0.3, 0.7, 0.8), (0.0, 0.0, 0.3, 0.3), (0.9, 0.5, 1.2, 1.3)])
def test_nothing_of_a_face_is_left_and_nothing_else_is_touched(
    box: tuple[float, float, float, float],
) -> None:
    pixels = noise(200, 160)
    blurred = blur(pixels, [box])
    x0, y0, x1, y1 = (
        round(share * side) for share, side in zip(box, (200, 160, 200, 160), strict=True)
    )
    face = (slice(y0, y1), slice(x0, x1))
    assert fine_detail(blurred[face]) < 0.001 * fine_detail(pixels[face])
    margin = round(0.1 * max(x1 - x0, y1 - y0)) + 3  # and what rounding may add
    outside = np.ones((160, 200), bool)
    outside[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = False
    assert (blurred[outside] == pixels[outside]).all()
    assert outside.any()


def test_coarse_features_of_a_face_go_too() -> None:
    """Stripes as wide as an eye (a tenth of the box) lose nearly all their contrast."""
    pixels = np.full((200, 200, 3), 30, np.uint8)
    pixels[:, (np.arange(200) // 16) % 2 == 0] = 220
    inside = blur(pixels, [(0.1, 0.1, 0.9, 0.9)])[60:140, 60:140]
    assert inside.astype(int).max() - inside.min() < 0.3 * 190


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5, 0.5), (1.5, 1.5, 1.9, 1.9), (0.7, 0.8, 0.4, 0.3)])
def test_boxes_without_area_outside_or_turned_round(
    box: tuple[float, float, float, float],
) -> None:
    pixels = noise(64, 64)
    turned = (box[2], box[3], box[0], box[1])
    assert np.array_equal(blur(pixels, [box]), blur(pixels, [turned]))
    if box[0] > 1:
        assert np.array_equal(blur(pixels, [box]), pixels)


def test_a_small_box_is_blurred_by_a_least_sigma() -> None:
    pixels = noise(64, 64)
    blurred = blur(pixels, [(0.5, 0.5, 0.5625, 0.5625)])[32:36, 32:36]
    assert blurred.std() < pixels[32:36, 32:36].std() / (2 * LEAST_SIGMA)
