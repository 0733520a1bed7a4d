import io

import numpy as np
import pytest
from PIL import Image

from curation.synthetic.render import draw, encode
from curation.synthetic.settings import FractalSettings

SMALL = FractalSettings(size=32, points=4000)


def test_an_image_depends_on_system_and_instance_not_on_order():
    wanted = [(0, 0), (0, 1), (1, 0), (3, 7)]
    images = {key: draw(SMALL, *key) for key in wanted}
    for key in reversed(wanted):
        np.testing.assert_array_equal(images[key], draw(SMALL, *key))
    assert len({image.tobytes() for image in images.values()}) == len(wanted)
    assert images[0, 0].shape == (32, 32, 3) and images[0, 0].dtype == np.uint8


def test_other_seeds_give_other_images():
    other = SMALL.model_copy(update={"seed": 1})
    assert draw(SMALL, 0, 0).tobytes() != draw(other, 0, 0).tobytes()


@pytest.mark.parametrize("size", [16, 33, 100])
def test_any_size(size):
    image = draw(FractalSettings(size=size, points=2000), 2, 0)
    assert image.shape == (size, size, 3)
    assert image.std() > 5


def test_black_background_leaves_the_fractal_alone():
    image = draw(SMALL.model_copy(update={"background": "black"}), 0, 0)
    lit = (image.sum(axis=2) > 0).mean()
    assert 0.02 < lit < 0.95


def test_gradient_background_is_smooth():
    options = SMALL.model_copy(update={"background": "gradient", "colour": False})
    image = draw(options, 0, 0)[:, :, 0].astype(int)
    steps = np.abs(np.diff(image, axis=0))
    assert np.median(steps) <= 8  # away from the fractal, levels hardly change


def test_grey_images_are_grey():
    image = draw(SMALL.model_copy(update={"colour": False}), 1, 1)
    assert (image[:, :, 0] == image[:, :, 1]).all() and (image[:, :, 1] == image[:, :, 2]).all()


def test_no_image_is_empty():
    black = SMALL.model_copy(update={"background": "black"})
    for system in range(5):
        for instance in range(20):
            assert (draw(black, system, instance).sum(axis=2) > 0).mean() > 0.02


def test_encoding_is_repeatable_and_png_is_lossless():
    image = draw(SMALL, 0, 3)
    for form, magic in (("png", b"\x89PNG"), ("jpg", b"\xff\xd8\xff")):
        data = encode(image, form)
        assert data == encode(image.copy(), form) and data.startswith(magic)
    decoded = np.asarray(Image.open(io.BytesIO(encode(image, "png"))))
    np.testing.assert_array_equal(decoded, image)
