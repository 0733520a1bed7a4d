import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indexes.resize import BITS, Window, filter_weights, resize

METHODS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
SIDE = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(sorted(METHODS)), st.integers(0, 99))
def test_is_pillows_width_and_then_height(
    height: int, width: int, tall: int, wide: int, method: str, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    slim = Image.fromarray(image).resize((wide, height), METHODS[method])
    expected = np.asarray(slim.resize((wide, tall), METHODS[method]))
    rows, columns = Window(height, tall, 0, tall), Window(width, wide, 0, wide)
    whole = resize(image, rows, columns, method)
    assert np.array_equal(whole, expected)
    top, left = tall // 3, wide // 4
    part = resize(
        image,
        Window(height, tall, top, (tall + 1) // 2),
        Window(width, wide, left, (wide + 1) // 2),
        method,
    )
    assert np.array_equal(part, expected[top:, left:][: len(part), : part.shape[1]])


@pytest.mark.parametrize("size", [(3000, 40), (40, 3000), (2100, 700)])
def test_many_taps_and_long_rows(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)[:, ::-1]
    rows, columns = Window(size[0], 9, 0, 9), Window(size[1], 1400, 0, 1400)
    expected = Image.fromarray(image).resize((1400, size[0]), Image.Resampling.BICUBIC)
    expected = expected.resize((1400, 9), Image.Resampling.BICUBIC)
    assert np.array_equal(resize(image, rows, columns, "bicubic"), np.asarray(expected))


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize(("size", "grown"), [(1, 9), (7, 7), (100, 3), (3, 100)])
def test_weights_add_up_to_one(size: int, grown: int, method: str) -> None:
    found = filter_weights(Window(size, grown, 0, grown), method)
    assert np.abs(found.weights.sum(axis=1) - 2**BITS).max() <= found.weights.shape[1] / 2
    assert found.weights.shape == (grown, found.weights.shape[1])
    assert found.first.min() >= 0
    last = found.low + found.first[:, None] + np.arange(found.weights.shape[1])
    assert not found.weights[last >= size].any()
