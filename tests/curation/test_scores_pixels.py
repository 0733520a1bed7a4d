import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from curation.scores.pixels import GRID, descriptor, dimension, grid


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A picture with structure at all scales: noise of several grids, enlarged and added."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3), np.float32)
    for side in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        total += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32) / side
    total *= 160 / total.max()
    return Image.fromarray(total.astype(np.uint8))


def similarity(first: Image.Image, second: Image.Image) -> float:
    return float(descriptor(np.asarray(first)) @ descriptor(np.asarray(second)))


def changed(image: Image.Image, how: str) -> Image.Image:
    if how == "resized":
        return image.resize((77, 131), Image.Resampling.LANCZOS)
    if how == "brightened":
        return ImageEnhance.Brightness(image).enhance(1.3)
    if how == "cropped":
        return image.crop((2, 1, image.width - 2, image.height - 2))
    return image.quantize(64).convert("RGB")


@pytest.mark.parametrize("how", ["resized", "brightened", "cropped", "quantised"])
def test_slight_changes_stay_near(how: str) -> None:
    for seed in range(5):
        image = scene(seed)
        assert similarity(image, changed(image, how)) > 0.93


def test_different_pictures_are_far() -> None:
    vectors = np.stack([descriptor(np.asarray(scene(seed))) for seed in range(20)])
    others = (vectors @ vectors.T)[np.triu_indices(20, 1)]
    assert others.max() < 0.6


def test_a_mirrored_picture_is_another() -> None:
    image = scene(1)
    assert similarity(image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) < 0.6


def test_colour_counts() -> None:
    """Two pictures of equal brightness, one red on green and the other green on red."""
    red, green = (150, 50, 50), (50, 101, 50)
    halves = [Image.new("RGB", (64, 64), colour) for colour in (red, green)]
    halves[0].paste(green, (32, 0, 64, 64))
    halves[1].paste(red, (32, 0, 64, 64))
    assert similarity(halves[0], halves[1]) < 0


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_grid_is_that_of_pillow(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    expected = Image.fromarray(image).resize(
        (GRID, GRID), Image.Resampling.BILINEAR, reducing_gap=3.0
    )
    assert np.array_equal(np.asarray(grid(image)), np.asarray(expected))


@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from(["noise", "flat"]), st.integers(0, 255)
)
@settings(max_examples=60, deadline=None)
def test_unit_length_or_zero_for_any_size(height: int, width: int, kind: str, level: int) -> None:
    image = np.full((height, width, 3), level, np.uint8)
    if kind == "noise":
        image = np.random.default_rng(level).integers(0, 256, image.shape, np.uint8)
    vector = descriptor(image)
    assert vector.shape == (dimension(),) and vector.dtype == np.float32
    length = float(np.linalg.norm(vector))
    assert length == pytest.approx(1, abs=1e-5) or (length == 0 and not vector.any())
    if kind == "flat":
        assert length == 0
