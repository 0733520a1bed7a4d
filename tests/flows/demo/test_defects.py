import io

import numpy as np
import pytest
from PIL import Image

from flows.demo import defects, digits
from infra.digests import generator


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return digits.render(3, digits.Look("blue", "yellow"), generator("picture"))


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


@pytest.mark.parametrize("extension", [defects.JPEG, defects.PNG])
def test_corrupt_files_do_not_decode(image: Image.Image, extension: str) -> None:
    whole = defects.encode(image, extension)
    assert defects.decodes(whole)
    damaged = [defects.corrupt(whole, generator("corrupt", number)) for number in range(60)]
    assert sum(defects.decodes(data) for data in damaged) <= 6  # the corpus draws these again
    assert {b"<!DOCTYPE"} < {data[:9] for data in damaged}  # web pages, and other damage
    assert any(len(data) < len(whole) and whole.startswith(data) for data in damaged)


def test_blank_images_are_of_nearly_one_colour() -> None:
    for number in range(40):
        pixels = np.asarray(defects.blank(generator("blank", number)))
        colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
        assert len(colours) <= 2 and counts.max() / counts.sum() > 0.95


def test_sizes_of_small_and_stretched_images(image: Image.Image) -> None:
    for number in range(40):
        assert 12 <= min(defects.too_small(image, generator(number)).size) <= 30
        wide, high = defects.extreme_aspect(image, generator(number)).size
        assert max(wide, high) / min(wide, high) > 4.4
        assert min(wide, high) >= 64


def test_near_duplicates_and_copies_show_the_same_picture(image: Image.Image) -> None:
    before = np.asarray(image.convert("L").resize((16, 16)), float).ravel()
    for number in range(30):
        for make in (defects.near_duplicate, defects.copy):
            data = make(image, generator(number))
            again = opened(data)
            assert data != defects.encode(image, defects.JPEG)
            assert min(again.size) >= 50
            after = np.asarray(again.convert("L").resize((16, 16)), float).ravel()
            assert np.corrcoef(before, after)[0, 1] > 0.85
