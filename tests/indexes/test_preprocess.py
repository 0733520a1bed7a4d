import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indexes.preprocess import MAX_ASPECT, Preprocess

MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.sampled_from([32, (32, 32), (24, 40), (40, 24)]),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 99),
)
def test_equals_open_clips_transform(
    height: int, width: int, size: object, mode: str, interpolation: str, seed: int
) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if max(height, width) > MAX_ASPECT * min(height, width):
        height = width
    config = {
        "size": size,
        "mean": MEAN,
        "std": STD,
        "resize_mode": mode,
        "interpolation": interpolation,
        "fill_color": 7,
    }
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    expected = transform(Image.fromarray(image))
    assert torch.equal(Preprocess.from_config(config)([image])[0], expected)


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 1, 3)])
def test_an_absurdly_long_image_stays_small(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 128, np.uint8)
    preprocess = Preprocess((32, 32), MEAN, STD)
    assert preprocess.fit(image).shape == (32, 32, 3)
    assert preprocess([image, image]).shape == (2, 3, 32, 32)
