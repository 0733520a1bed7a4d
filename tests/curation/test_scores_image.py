import io
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from curation.decode import decode
from curation.score import Batch
from curation.scores.image import NEAR, STATISTICS, ImageScorer, statistics
from curation.stored import Stored


def measured(image: np.ndarray) -> dict[str, float]:
    return dict(zip(STATISTICS, statistics(image), strict=True))


def flat(*colour: int, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def test_a_flat_picture() -> None:
    assert measured(flat(255, 0, 0)) == pytest.approx(
        {
            "brightness": 0.299,
            "contrast": 0,
            "entropy": 0,
            "sharpness": 0,
            "saturation": 1,
            "uniformity": 1,
            "border": 1,
        },
        abs=2e-3,  # luma is in whole levels
    )


def test_half_black_half_white() -> None:
    image = flat(0, 0, 0)
    image[:, 15:] = 255
    found = measured(image)
    assert found["brightness"] == pytest.approx(0.5, abs=1e-5)
    assert found["contrast"] == pytest.approx(0.5, abs=1e-5)
    assert found["entropy"] == pytest.approx(1)
    assert found["uniformity"] == pytest.approx(0.5)
    assert found["saturation"] == 0


def test_entropy_of_all_levels_is_eight_bits() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert measured(np.stack([levels] * 3, axis=2))["entropy"] == pytest.approx(8)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    image = flat(100, 100, 100, size=(5, 5))
    image[2, 2] = 110
    laplacian = np.array([[0, 10, 0], [10, -40, 10], [0, 10, 0]])
    assert measured(image)["sharpness"] == pytest.approx(laplacian.var(), rel=1e-3)


def plain_statistics(image: np.ndarray) -> dict[str, float]:
    """The definitions, in NumPy and double precision."""
    red, green, blue = np.moveaxis(image.astype(np.int64), 2, 0)
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    share = np.bincount(luma.ravel()) / luma.size
    share = share[share > 0]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    laplacian = around - 4 * luma[1:-1, 1:-1]
    high, low = image.max(axis=2).astype(float), image.min(axis=2).astype(float)
    cells = (red >> 4) * 256 + (green >> 4) * 16 + (blue >> 4)
    colour = image[cells == np.bincount(cells.ravel()[::5]).argmax()].mean(axis=0)
    top, bottom = plain_margin(image), plain_margin(image[::-1])
    bottom = min(bottom, len(image) - top)
    inner = image[top : len(image) - bottom].transpose(1, 0, 2)
    left, right = plain_margin(inner), plain_margin(inner[::-1])
    wide = max(len(inner) - left - right, 0)
    return {
        "brightness": luma.mean() / 255,
        "contrast": luma.std() / 255,
        "entropy": -(share * np.log2(share)).sum(),
        "sharpness": laplacian.var() if laplacian.size else 0,
        "saturation": ((high - low) / np.maximum(high, 1)).mean(),
        "uniformity": (np.abs(image - colour) <= NEAR).all(axis=2).mean(),
        "border": 1 - wide * (len(image) - top - bottom) / luma.size,
    }


def plain_margin(lines: np.ndarray) -> int:
    """How many lines from the first keep each channel within NEAR levels."""
    if not lines.size:
        return 0
    highest = np.maximum.accumulate(lines.max(axis=1))
    lowest = np.minimum.accumulate(lines.min(axis=1))
    return (highest - lowest <= NEAR).all(axis=1).sum()


SIZES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 3), (40, 50), (5, 3000), (3000, 1), (33, 1027)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["noise", "dark", "black", "white", "bars", "photograph"])
def test_statistics_are_their_definitions(size: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    if kind == "dark":
        image >>= 5
    elif kind in ("black", "white"):
        image[:] = 0 if kind == "black" else 255
    elif kind == "bars":
        image[: size[0] // 4] = 3
        image[:, -(size[1] // 3) :] = (250, 10, 30)
    elif kind == "photograph":
        photograph = Image.fromarray(data.astronaut())
        image = np.asarray(photograph.resize((size[1], size[0])))
    assert measured(image) == pytest.approx(plain_statistics(image), rel=1e-6, abs=1e-4)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_statistics_of_any_picture(height: int, width: int, shift: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8) >> shift
    assert measured(image) == pytest.approx(plain_statistics(image), rel=1e-6, abs=1e-4)


def test_a_letter_box_is_its_share_of_the_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    image[:5], image[-10:] = 0, 255
    assert measured(image)["border"] == pytest.approx(15 / 40)
    image[5:-10, 50:] = 9
    assert measured(image)["border"] == pytest.approx(1 - 25 * 50 / 2400)


def test_a_layout_in_memory_does_not_matter() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    frozen = image.copy()
    frozen.flags.writeable = False
    for other in (frozen, np.asfortranarray(image), np.repeat(image, 2, axis=0)[::2]):
        assert measured(other) == measured(image)


def test_blur_lowers_sharpness() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    small = Image.fromarray(noise).resize((10, 10)).resize((40, 40))
    assert measured(np.asarray(small))["sharpness"] < measured(noise)["sharpness"] / 5


@pytest.mark.parametrize("shade", [7, 8, 9, 127, 128, 255])
def test_a_flat_colour_counts_whole_after_lossy_coding(shade: int) -> None:
    """Shades on the edge between two cells of the grid of colours as well."""
    buffer = io.BytesIO()
    Image.fromarray(flat(shade, 255 - shade, 8)).save(buffer, "JPEG", quality=70)
    image, _ = decode(buffer.getvalue())
    assert image is not None
    assert measured(image)["uniformity"] == 1


def test_tiny_pictures_have_numbers_too() -> None:
    for size in ((1, 1), (1, 9), (2, 2)):
        assert all(math.isfinite(value) for value in measured(flat(1, 2, 3, size=size)).values())


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_ranges(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found = measured(image)
    assert all(math.isfinite(value) for value in found.values())
    for name in ("brightness", "contrast", "saturation", "uniformity", "border"):
        assert 0 <= found[name] <= 1
    assert 0 <= found["entropy"] <= 8
    assert found["uniformity"] >= 1 / (height * width)


def test_columns() -> None:
    rows = pa.table({"status": ["ok", "rejected", "ok"]})
    images = [flat(0, 0, 0, size=(10, 40)), None, None]
    stored = [Stored(6, 85, True), None, None]
    table = (
        ImageScorer().score(Batch(rows, images, [None, None, "truncated"], stored=stored)).columns
    )
    assert table["decode_error"].to_pylist() == [None, None, "truncated"]
    assert table["width"].to_pylist() == [40, None, None]
    assert table["height"].to_pylist() == [10, None, None]
    assert table["aspect"].to_pylist() == [4, None, None]
    assert table["uniformity"].to_pylist() == [1, None, None]
    assert table["orientation"].to_pylist() == [6, None, None]
    assert table["jpeg_quality"].to_pylist() == [85, None, None]
    assert table["animated"].to_pylist() == [True, None, None]
    assert table.schema == ImageScorer.columns
