import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from indexes.preprocess import MAX_ASPECT, Preprocess

MEAN, STD = (0.48, 0.45, 0.4), (0.26, 0.27, 0.28)
LEVELS = 8  # of 255, by which two exact filters may differ where they round and overshoot


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    size=st.sampled_from([32, (32, 32), (24, 40), (40, 24)]),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 99),
)
def test_is_within_rounding_of_open_clips_transform(
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
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    transform = image_transform_v2(PreprocessCfg(**config), is_train=False)
    expected = transform(Image.fromarray(image))
    found = Preprocess.from_config(config)([image])[0]
    oblong = mode == "squash" or size in [(24, 40), (40, 24)] or mode == "longest"
    assert oblong or torch.equal(found, expected)
    levels = (found - expected).abs() * torch.tensor(STD).view(3, 1, 1) * 255
    assert float(levels.max()) < LEVELS + 0.01
    assert float((levels > 1.01).float().mean()) < 0.01


def test_what_need_not_be_resampled_is_equal_to_the_bit() -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    config = {"size": 32, "mean": MEAN, "std": STD}
    image = np.random.default_rng(0).integers(0, 256, (32, 47, 3), dtype=np.uint8)
    expected = image_transform_v2(PreprocessCfg(**config), is_train=False)(Image.fromarray(image))
    assert torch.equal(Preprocess.from_config(config)([image])[0], expected)


@pytest.mark.parametrize("shape", [(1, 200_000, 3), (200_000, 1, 3)])
def test_an_absurdly_long_image_stays_small(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 128, np.uint8)
    preprocess = Preprocess((32, 32), MEAN, STD)
    assert preprocess.fit(image).shape == (32, 32, 3)
    assert preprocess([image, image]).shape == (2, 3, 32, 32)


def test_every_level_is_normalised_as_open_clip_does_it() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    mean, std = torch.tensor(MEAN).view(-1, 1, 1), torch.tensor(STD).view(-1, 1, 1)
    expected = levels.float().div(255).sub(mean).div(std)
    assert torch.equal(Preprocess((16, 16), MEAN, STD).normalise(levels), expected)
