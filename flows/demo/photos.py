"""Photographs bundled with scikit-image and scikit-learn, and crops of them.

The files are read from the installed packages' folders, without importing the packages.
"""

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from infra.digests import generator
from infra.errors import SluiceError

TRIES = 8192  # rectangles drawn for each photograph
BLOCK = 128  # of them tested against the kept ones at a time
TEXTURE = 9.0  # the least standard deviation of a crop's 8 x 8 block means, grey levels
SIDE = (64, 129)  # pixels of the shorter side


@dataclass(frozen=True)
class Photo:
    """Where a photograph lies, and how crops of it are taken."""

    package: str
    path: str
    crops: int = 128  # at most
    smallest: float = 0.3  # the least side of a crop, as a share of the shorter side
    texture: float = TEXTURE
    overlap: float = 0.6  # the largest intersection over union of two crops
    inside: tuple[float, float, float, float] = (0, 0, 1, 1)  # the part to crop from, as shares


PHOTOS = {
    "astronaut": Photo("skimage", "data/astronaut.png"),
    "brick": Photo("skimage", "data/brick.png", 96, 0.22, 6.0),
    "camera": Photo("skimage", "data/camera.png"),
    "cat": Photo("skimage", "data/chelsea.png"),
    "clock": Photo("skimage", "data/clock_motion.png", 48, texture=12.0),
    "coffee": Photo("skimage", "data/coffee.png"),
    "coins": Photo("skimage", "data/coins.png"),
    "grass": Photo("skimage", "data/grass.png", 112, 0.25, 7.0),
    "gravel": Photo("skimage", "data/gravel.png", 112, 0.25, 7.0),
    "galaxies": Photo("skimage", "data/hubble_deep_field.jpg", 128, 0.25),
    "tissue": Photo("skimage", "data/ihc.png"),
    "moon": Photo("skimage", "data/moon.png", 96, 0.25),
    "page": Photo("skimage", "data/page.png"),
    "retina": Photo("skimage", "data/retina.jpg", 128, 0.25, inside=(0.15, 0.15, 0.85, 0.85)),
    "rocket": Photo("skimage", "data/rocket.jpg", smallest=0.22, overlap=0.5),
    "formula": Photo("skimage", "data/text.png"),
    "cell": Photo("skimage", "data/cell.png", 48, 0.2, 12.0),
    "motorcycle": Photo("skimage", "data/motorcycle_left.png"),
    "temple": Photo("sklearn", "datasets/images/china.jpg"),
    "flower": Photo("sklearn", "datasets/images/flower.jpg"),
}

Box = tuple[int, int, int, int]  # left, top, right, bottom, pixels


def package_file(package: str, path: str) -> Path:
    """A data file of an installed package."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = Path(folder) / path
        if found.exists():
            return found
    raise SluiceError(
        f"the demo's picture {package}/{path} is not installed",
        "install scikit-image and scikit-learn (they are in requirements.lock), or name your own "
        "shards in the recipe's source",
    )


@functools.lru_cache(maxsize=len(PHOTOS))
def load(concept: str) -> Image.Image:
    """The photograph of a concept, RGB."""
    photo = PHOTOS[concept]
    with Image.open(package_file(photo.package, photo.path)) as image:
        width, height = image.size
        left, top, right, bottom = photo.inside
        box = (left * width, top * height, right * width, bottom * height)
        return image.convert("RGB").crop(box)


def zoom(concept: str, box: Box) -> float:
    """The shorter side of a crop as a share of the photograph's."""
    return min(box[2] - box[0], box[3] - box[1]) / min(load(concept).size)


def crop_boxes(concept: str, seed: int, limit: int | None) -> list[Box]:
    """Boxes drawn in turn, small ones more often; those that overlap or are flat are skipped."""
    photo, image = PHOTOS[concept], load(concept)
    count = photo.crops if limit is None else min(limit, photo.crops)
    drawn = _candidates(image.size, photo.smallest, generator(seed, "demo-crops", concept))
    sums = _integral(np.asarray(image.convert("L"), np.float64))
    kept: list[Box] = []
    for drawn_block in np.split(drawn, range(BLOCK, TRIES, BLOCK)):
        block = drawn_block[(_overlap(drawn_block, kept) <= photo.overlap).all(axis=1)]
        apart = _overlap(block, block) <= photo.overlap
        free = _texture(sums, block) >= photo.texture
        for index, box in enumerate(block):
            if len(kept) == count:
                return kept
            if free[index]:
                kept.append(tuple(box.tolist()))
                free &= apart[index]
    return kept


def _candidates(size: tuple[int, int], smallest: float, rng: np.random.Generator) -> np.ndarray:
    """Random boxes int [TRIES, 4]; the density of sides falls with their square."""
    short = min(size)
    low, high = max(smallest, 40 / short), 0.95
    side = short / rng.uniform(1 / high, 1 / low, TRIES)
    stretch = np.exp(rng.uniform(-0.34, 0.34, TRIES))
    wide = np.minimum(side * np.maximum(stretch, 1), size[0]).astype(int)
    tall = np.minimum(side * np.maximum(1 / stretch, 1), size[1]).astype(int)
    left = (rng.random(TRIES) * (size[0] - wide + 1)).astype(int)
    top = (rng.random(TRIES) * (size[1] - tall + 1)).astype(int)
    return np.stack([left, top, left + wide, top + tall], axis=1)


def render(concept: str, box: Box, rng: np.random.Generator) -> Image.Image:
    """The crop, its shorter side resized to 64..128 pixels."""
    side = int(rng.integers(*SIDE))
    wide, high = box[2] - box[0], box[3] - box[1]
    factor = side / min(wide, high)
    size = (max(side, round(wide * factor)), max(side, round(high * factor)))
    return load(concept).resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)


def _overlap(boxes: np.ndarray, others: np.ndarray | list[Box]) -> np.ndarray:
    """Intersection over union of boxes [n, 4] with others [m, 4]: [n, m]."""
    with_boxes = np.reshape(np.asarray(others, int), (-1, 4))
    low = np.maximum(boxes[:, None, :2], with_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], with_boxes[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(side[:, 2:] - side[:, :2], axis=1) for side in (boxes, with_boxes)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def _integral(values: np.ndarray) -> np.ndarray:
    return np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _texture(sums: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Standard deviation of each crop's 8 x 8 block means: what stays of it in a thumbnail."""
    columns = np.linspace(boxes[:, 0], boxes[:, 2], 9, axis=1).astype(int)
    rows = np.linspace(boxes[:, 1], boxes[:, 3], 9, axis=1).astype(int)
    corners = sums[rows[:, :, None], columns[:, None, :]]
    blocks = np.diff(np.diff(corners, axis=1), axis=2)
    areas = np.diff(rows)[:, :, None] * np.diff(columns)[:, None, :]
    return (blocks / areas).std(axis=(1, 2))
