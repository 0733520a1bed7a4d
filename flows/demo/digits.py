"""Scikit-learn's handwritten digits (8 x 8) as ink on coloured paper."""

import functools
import gzip
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flows.demo.photos import package_file

INKS = {
    "red": (190, 25, 35),
    "blue": (25, 50, 165),
    "green": (15, 100, 50),
    "purple": (95, 25, 130),
    "brown": (95, 55, 25),
    "black": (20, 20, 24),
}
PAPERS = {
    "white": (246, 246, 243),
    "yellow": (250, 236, 130),
    "pink": (250, 200, 215),
    "cyan": (170, 232, 236),
    "orange": (252, 196, 120),
    "grey": (198, 200, 202),
}


@dataclass(frozen=True)
class Look:
    """How one digit is drawn; names of INKS and PAPERS."""

    ink: str
    paper: str


@functools.lru_cache(maxsize=1)
def load() -> tuple[np.ndarray, np.ndarray]:
    """Images [1797, 8, 8] with values 0..16 and labels [1797]."""
    with gzip.open(package_file("sklearn", "datasets/data/digits.csv.gz")) as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return table[:, :64].reshape(-1, 8, 8), table[:, 64]


def choose_look(rng: np.random.Generator) -> Look:
    """A coloured ink on a light paper."""
    inks, papers = list(INKS), list(PAPERS)
    return Look(inks[rng.integers(len(inks))], papers[rng.integers(len(papers))])


def render(index: int, look: Look, rng: np.random.Generator) -> Image.Image:
    """Digit `index`, enlarged, turned a little, near the middle of uneven paper; side 64..128."""
    side = int(rng.integers(64, 129))
    width = int(side * rng.uniform(1.0, 1.15))
    ink = _coverage(index, side, width, rng)
    paper = _paper(np.array(PAPERS[look.paper], np.float32), side, width, rng)
    stroke = np.array(INKS[look.ink], np.float32) + rng.normal(0, 9, 3).astype(np.float32)
    pixels = paper + ink[:, :, None] * (stroke - paper)
    pixels += rng.normal(0, 3.0, (side, width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _coverage(index: int, side: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """How much ink lies on each pixel, 0..1, float32 [side, width]."""
    # A margin all around, or strokes that touch the edge of the 8 x 8 would end in a cut.
    strength = np.pad(load()[0][index].astype(np.float32) / 16 * 255, 1)
    glyph = Image.fromarray(strength.astype(np.uint8))
    size = rng.uniform(0.9, 1.15) * side
    glyph = glyph.resize((int(size * rng.uniform(0.87, 1.07)), int(size)), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR, expand=True)
    spare = np.array([width - glyph.width, side - glyph.height])
    corner = np.round(spare * 0.5 + rng.uniform(-0.06, 0.06, 2) * side).astype(int)
    canvas = Image.new("L", (width, side))
    canvas.paste(glyph, (int(corner[0]), int(corner[1])))
    # A steep curve turns the blur of the enlargement into the edge of a stroke.
    return 1 / (1 + np.exp(-(np.asarray(canvas, np.float32) - 122) / 18))


def _paper(colour: np.ndarray, side: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Paper with a slope of light, soft stains and, mostly, rules: float32 [side, width, 3]."""
    direction = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[-0.5 : 0.5 : side * 1j, -0.5 : 0.5 : width * 1j].astype(np.float32)
    shade = (rows * np.sin(direction) + columns * np.cos(direction)) * rng.uniform(10, 50)
    stains = Image.fromarray(rng.normal(0, 1, (5, 5)).astype(np.float32))
    shade += np.asarray(stains.resize((width, side), Image.Resampling.BICUBIC)) * rng.uniform(6, 16)
    kind = rng.random()
    tilt = rng.uniform(-0.08, 0.08)
    spacing, depth = rng.uniform(0.12, 0.3), rng.uniform(25, 55)
    if kind < 0.7:  # ruled
        shade -= depth * _rules(rows + tilt * columns, spacing, rng.random())
    if kind < 0.35:  # and squared
        shade -= depth * _rules(columns - tilt * rows, spacing, rng.random())
    tint = rng.normal(0, 9, 3).astype(np.float32)
    return colour + tint + shade[:, :, None]


def _rules(place: np.ndarray, spacing: float, phase: float) -> np.ndarray:
    """Thin soft lines, 1 on the line and 0 off it; place and spacing in shares of a side."""
    distance = np.abs((place / spacing + phase) % 1 - 0.5) * spacing
    return np.exp(-((distance / 0.012) ** 2))
