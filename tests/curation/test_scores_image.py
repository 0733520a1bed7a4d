import io
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.decode import decode
from curation.score import Batch
from curation.scores.image import STATISTICS, ImageScorer, statistics


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
    for name in ("brightness", "contrast", "saturation", "uniformity"):
        assert 0 <= found[name] <= 1
    assert 0 <= found["entropy"] <= 8
    assert found["uniformity"] >= 1 / (height * width)


def test_columns() -> None:
    rows = pa.table({"status": ["ok", "rejected", "ok"]})
    images = [flat(0, 0, 0, size=(10, 40)), None, None]
    table = ImageScorer().score(Batch(rows, images, [None, None, "truncated"])).columns
    assert table["decode_error"].to_pylist() == [None, None, "truncated"]
    assert table["width"].to_pylist() == [40, None, None]
    assert table["height"].to_pylist() == [10, None, None]
    assert table["aspect"].to_pylist() == [4, None, None]
    assert table["uniformity"].to_pylist() == [1, None, None]
    assert table.schema == ImageScorer.columns
