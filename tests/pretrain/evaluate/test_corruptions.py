from typing import get_args

import numpy as np
import pytest
from skimage.data import astronaut

from infra.digests import generator
from pretrain.evaluate import corruptions
from pretrain.evaluate_settings import Corruption

PHOTO = np.asarray(astronaut()[:256, 100:292])  # 256 x 192
SMALL = np.asarray(astronaut()[:256:8, 100:356:8])  # 32 x 32
NAMES = get_args(Corruption)


def distance(name: str, severity: int, image: np.ndarray = SMALL) -> float:
    found = corruptions.corrupt(image, name, severity, generator(name, 1))
    return float(np.abs(found.astype(float) - image).mean())


def test_the_settings_name_what_is_there():
    assert set(NAMES) == set(corruptions.CORRUPTIONS) and len(NAMES) == 12


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_gives_the_same_image_of_the_same_size(name):
    first, again = (corruptions.corrupt(PHOTO, name, 3, generator(name)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.uint8 and first.shape == PHOTO.shape
    assert not np.array_equal(first, PHOTO)


@pytest.mark.parametrize("name", NAMES)
def test_severity_grows(name):
    found = [distance(name, severity, PHOTO) for severity in (1, 3, 5)]
    assert 1 < found[0] < found[1] < found[2] < 128


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 3)])
def test_tiny_and_flat_images_stay_images(name, shape):
    flat = np.full((*shape, 3), 255, np.uint8)
    for severity in (1, 5):
        found = corruptions.corrupt(flat, name, severity, generator(name))
        assert found.shape == flat.shape


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "zoom_blur", "elastic_transform"])
def test_what_moves_light_keeps_a_flat_image(name):
    flat = np.full((40, 50, 3), 100, np.uint8)
    np.testing.assert_array_equal(corruptions.corrupt(flat, name, 5, generator(name)), flat)


def test_noise_has_the_stated_strength():
    grey = np.full((224, 224, 3), 128, np.uint8)
    noisy = corruptions.corrupt(grey, "gaussian_noise", 1, generator(1)).astype(float) / 255
    assert noisy.std() == pytest.approx(0.08, abs=0.002)
    shot = corruptions.corrupt(grey, "shot_noise", 1, generator(1)).astype(float) / 255
    assert shot.std() == pytest.approx((128 / 255 / 60) ** 0.5, abs=0.003)
    struck = corruptions.corrupt(grey, "impulse_noise", 5, generator(1))
    assert (struck != 128).mean() == pytest.approx(0.27, abs=0.01)


def test_large_images_are_reduced_and_lengths_shrink_with_small_ones():
    large = np.zeros((448, 896, 3), np.uint8)
    assert corruptions.reduce(large).shape == (224, 448, 3)
    assert corruptions.reduce(SMALL) is SMALL
    # A blur of 3 pixels of 224 is less than one of 32: the small image stays recognisable.
    assert distance("defocus_blur", 1) < distance("defocus_blur", 5) < 40


def test_a_defocused_point_is_a_disc():
    point = np.zeros((224, 224, 3))
    point[112, 112] = 1
    found = corruptions.defocus_blur(point, 2, generator(0))[..., 0]
    assert found.sum() == pytest.approx(1) and found[112, 112] == pytest.approx(
        1 / (np.pi * 36), rel=0.01
    )
    assert found[112, 119] == pytest.approx(0, abs=1e-9)
