"""Scikit-learn's handwritten digits (8 x 8) as ink on coloured paper."""

import functools
import gzip
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flows.demo.photos import package_file

COLOURS = {
    "red": (200, 35, 40),
    "orange": (240, 140, 30),
    "yellow": (245, 220, 70),
    "green": (40, 140, 65),
    "blue": (40, 80, 190),
    "purple": (120, 55, 160),
    "pink": (245, 160, 190),
    "brown": (115, 75, 45),
    "black": (25, 25, 28),
    "grey": (140, 142, 145),
    "white": (240, 240, 236),
    "cyan": (110, 210, 220),
}
CONTRAST = 85.0  # the least difference of ink and paper in brightness, grey levels
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Look:
    """How one digit is drawn; `ink` and `paper` are names of COLOURS."""

    ink: str
    paper: str


@functools.lru_cache(maxsize=1)
def load() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 8, 8] with values 0..16 and labels [1797]."""
    with gzip.open(package_file("sklearn", "datasets/data/digits.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return table[:, :64].reshape(-1, 8, 8), table[:, 64]


def choose_look(rng: np.random.Generator) -> Look:
    """Two colours that differ enough in brightness to read one on the other."""
    names = list(COLOURS)
    paper = names[rng.integers(len(names))]
    bright = {name: float(LUMA @ np.array(colour)) for name, colour in COLOURS.items()}
    inks = [name for name in names if abs(bright[name] - bright[paper]) >= CONTRAST]
    return Look(inks[rng.integers(len(inks))], paper)


def render(index: int, look: Look, rng: np.random.Generator) -> Image.Image:
    """Digit `index`, enlarged, turned and placed at random, on uneven paper; side 64..128."""
    side = int(rng.integers(64, 129))
    width = int(side * rng.uniform(1.0, 1.25))
    ink = _coverage(index, side, width, rng)
    paper = _paper(np.array(COLOURS[look.paper], np.float32), side, width, rng)
    stroke = np.array(COLOURS[look.ink], np.float32) + rng.normal(0, 9, 3).astype(np.float32)
    pixels = paper + ink[:, :, None] * (stroke - paper)
    pixels += rng.normal(0, 3.0, (side, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _coverage(index: int, side: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """How much ink lies on each pixel, 0..1, float32 [side, width]."""
    # A margin all around, or strokes that touch the edge of the 8 x 8 would end in a cut.
    strength = np.pad(load()[0][index].astype(np.float32) / 16 * 255, 1)
    glyph = Image.fromarray(strength.astype(np.uint8))
    size = rng.uniform(0.85, 1.2) * side
    glyph = glyph.resize((int(size * rng.uniform(0.85, 1.1)), int(size)), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, expand=True)
    spare = np.array([width - glyph.width, side - glyph.height])
    corner = np.round(spare * rng.uniform(0.1, 0.9, 2)).astype(int)
    canvas = Image.new("L", (width, side))
    canvas.paste(glyph, (int(corner[0]), int(corner[1])))
    # A steep curve turns the blur of the enlargement into the edge of a stroke.
    return 1 / (1 + np.exp(-(np.asarray(canvas, np.float32) - 105) / 16))


def _paper(colour: np.ndarray, side: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Paper with a slope of light and soft stains, float32 [side, width, 3]."""
    direction = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[-0.5 : 0.5 : side * 1j, -0.5 : 0.5 : width * 1j].astype(np.float32)
    light = (rows * np.sin(direction) + columns * np.cos(direction)) * rng.uniform(10, 45)
    stains = Image.fromarray(rng.normal(0, 1, (5, 5)).astype(np.float32))
    stains = np.asarray(stains.resize((width, side), Image.Resampling.BICUBIC))
    tint = rng.normal(0, 9, 3).astype(np.float32)
    return colour + tint + (light + stains * rng.uniform(5, 14))[:, :, None]
