import numpy as np
import pytest

from flows.demo import photos
from flows.demo.photos import PHOTOS
from infra.digests import generator
from infra.errors import SluiceError


def overlap(first: photos.Box, second: photos.Box) -> float:
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("concept", ["coffee", "page", "cell"])
def test_crops_lie_inside_and_do_not_repeat(concept: str) -> None:
    boxes = photos.crop_boxes(concept, 0, None)
    width, height = photos.load(concept).size
    assert len(boxes) >= 40
    for index, box in enumerate(boxes):
        assert 0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height
        for other in boxes[:index]:
            assert overlap(box, other) <= PHOTOS[concept].overlap


def test_crops_show_something() -> None:
    for box in photos.crop_boxes("clock", 0, None):
        grey = photos.load("clock").convert("L").resize((8, 8), photos.Image.Resampling.BOX, box)
        assert np.asarray(grey, float).std() > PHOTOS["clock"].texture - 2


def test_render_keeps_the_shorter_side_in_bounds() -> None:
    for number in range(20):
        image = photos.render("temple", (10, 20, 310, 200), generator(number))
        assert 64 <= min(image.size) <= 128
        assert max(image.size) / min(image.size) == pytest.approx(300 / 180, rel=0.02)


def test_a_missing_picture_says_what_to_install() -> None:
    with pytest.raises(SluiceError, match=r"(?s)nothing\.png.*scikit-image"):
        photos.package_file("skimage", "data/nothing.png")
