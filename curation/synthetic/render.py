"""Draw fractal images: a pure function of (settings, system, instance), the same bytes anywhere."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.synthetic.ifs import System, draw_system, jittered
from curation.synthetic.kernels import chaos_game, count, diamond_square, hue_ramp, paint
from curation.synthetic.settings import FractalSettings
from infra.digests import generator

LEAST_SHOWN = 0.25  # of the cells the whole fractal hits; an emptier zoom shows the whole


def draw(settings: FractalSettings, system: int, instance: int) -> NDArray[np.uint8]:
    """One image, uint8 [size, size, 3]."""
    rng = generator(settings.seed, "fractals", "instance", system, instance)
    key, cloud_key = (np.uint64(value) for value in rng.integers(0, 2**64, 2, dtype=np.uint64))
    drawn = draw_system(settings, system)
    if settings.jitter:
        drawn = jittered(drawn, rng, settings.contraction)
    counts = density(settings, drawn, key, rng)
    grid = backdrop(settings, cloud_key, rng)
    ramps = np.stack([front_ramp(settings.colour, rng), back_ramp(settings, rng)])
    image = np.empty((settings.size, settings.size, 3), np.uint8)
    paint(counts, grid, ramps, image)
    return image


def density(
    settings: FractalSettings, system: System, key: np.uint64, rng: np.random.Generator
) -> NDArray[np.uint32]:
    """How often the chaos game visits each pixel, uint32 [size, size], zoomed and flipped."""
    size = settings.size
    points = np.empty((settings.points, 2), np.float32)
    box = chaos_game(system.maps, system.table, key, points)
    counts = np.zeros((size, size), np.uint32)
    whole = count(points, box, counts)
    if settings.zoom:
        zoomed = np.zeros_like(counts)
        if count(points, _zoom(box, rng), zoomed) >= LEAST_SHOWN * whole:
            counts = zoomed
    if settings.flips:
        transpose, up_down, left_right = rng.integers(0, 2, 3)
        counts = counts.T if transpose else counts
        counts = counts[::-1] if up_down else counts
        counts = counts[:, ::-1] if left_right else counts
    return np.ascontiguousarray(counts)


def _zoom(
    box: tuple[float, float, float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Move the box by up to a fifth of its extent and scale each side by 0.6 to 1.6."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    x, y = rng.uniform(-0.2, 0.2, 2)
    scale_x, scale_y = rng.uniform(0.6, 1.6, 2)
    centre_x, centre_y = (left + right) / 2 + x * width, (top + bottom) / 2 + y * height
    half_x, half_y = scale_x * width / 2, scale_y * height / 2
    return centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y


def backdrop(
    settings: FractalSettings, key: np.uint64, rng: np.random.Generator
) -> NDArray[np.float32]:
    """What lies behind, float32 [>= size, >= size], levels 0 to 1."""
    size = settings.size
    decay, across, down = rng.uniform(0.4, 0.8), *rng.uniform(-1, 1, 2)
    if settings.background == "clouds":
        side = 1 << (size - 1).bit_length()
        grid = np.empty((side + 1, side + 1), np.float32)
        diamond_square(grid, decay, key)
        return grid
    steps = np.arange(size, dtype=np.float32) / np.float32(size - 1)
    if settings.background == "gradient":
        slope = np.float32(across) * steps[None, :] + np.float32(down) * steps[:, None]
        low, high = min(across, 0) + min(down, 0), max(across, 0) + max(down, 0)
        levels = (slope - np.float32(low)) / np.float32(max(high - low, 1e-6))
        return levels.clip(0, 1).astype(np.float32)
    return np.zeros((size, size), np.float32)


def front_ramp(colour: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The colours of the 256 density levels: one turn of the hue, saturation and value fixed."""
    shift, saturation, value = rng.uniform(0, 1), rng.uniform(0.3, 1), rng.uniform(0.5, 1)
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    if colour:
        hue_ramp(shift, 1.0, (saturation, saturation), (value, value), ramp)
    return ramp


def back_ramp(settings: FractalSettings, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The colours of the 256 background levels: a range of hues that grows clearer."""
    shift, turn, value = rng.uniform(0, 1), rng.uniform(0.25, 1), rng.uniform(0.4, 0.6)
    saturation, rise = rng.uniform(0.4, 0.6), rng.uniform(0.1, 0.3)
    if settings.background == "black":
        return np.zeros((256, 3), np.uint8)
    ramp = np.repeat((np.arange(256) // 2).astype(np.uint8)[:, None], 3, axis=1)
    if settings.colour:
        hue_ramp(shift, turn, (saturation, saturation + rise), (value, 0.9), ramp)
    return ramp


def encode(image: NDArray[np.uint8], form: str) -> bytes:
    """The image as a PNG or JPEG file, without metadata: the same pixels give the same bytes."""
    buffer = io.BytesIO()
    if form == "png":
        Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
