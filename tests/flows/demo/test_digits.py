import numpy as np

from flows.demo import digits
from infra.digests import generator


def test_all_digits_of_the_package_are_there() -> None:
    images, labels = digits.load()
    assert images.shape == (1797, 8, 8) and images.max() == 16
    assert np.bincount(labels).min() >= 170


def test_ink_is_darker_than_paper_and_lies_where_the_digit_is() -> None:
    images, labels = digits.load()
    for index in range(0, 200, 7):
        rng = generator("look", index)
        look = digits.choose_look(rng)
        picture = digits.render(index, look, rng)
        assert 64 <= min(picture.size) <= 128
        grey = np.asarray(picture.convert("L"), float)
        dark = np.argwhere(grey < (grey.min() + np.median(grey)) / 2) / grey.shape
        assert 0.02 < len(dark) / grey.size < 0.5, (index, labels[index], look)
        ink = np.argwhere(images[index] > 8) + 0.5
        centre = (ink.mean(0) + 1) / 10  # a margin of one pixel is added around
        assert np.abs(dark.mean(0) - centre).max() < 0.2


def test_same_generator_same_picture() -> None:
    look = digits.Look("red", "white")
    first = digits.render(5, look, generator(1))
    assert first.tobytes() == digits.render(5, look, generator(1)).tobytes()
    assert first.tobytes() != digits.render(5, look, generator(2)).tobytes()
