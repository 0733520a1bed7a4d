"""Draw fractal images: a pure function of (settings, system, instance), the same bytes anywhere."""

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curation.synthetic import kernels, painting
from curation.synthetic.ifs import turns
from curation.synthetic.kernels import ORBITS
from curation.synthetic.plans import Plan, planned
from curation.synthetic.settings import FractalSettings

NO_LEVELS = np.zeros((0, 0), np.uint8)


def visits(plan: Plan, points: int) -> NDArray[np.uint32]:
    """How often `points` points visit each pixel, uint32 [size + 2, size + 2].

    The margin of one pixel holds the points outside the image.
    """
    counts = np.zeros((plan.size + 2, plan.size + 2), np.uint32)
    steps = turns(-(-points // ORBITS))
    kernels.visit(plan.maps, plan.places, steps, points, plan.points, counts)
    return counts


def filled(settings: FractalSettings, plan: Plan, counts: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The levels that `fill` makes of counts, uint8 [size, size]; 0 where nothing is."""
    levels = np.empty((plan.size, plan.size), np.uint8)
    if settings.fill == "patch":
        painting.stamp(counts, patch(plan.numbers), 255, levels)
    elif settings.fill == "patches":
        painting.stamps(counts, *plan.noise, painting.MID_GREY, levels)
    else:
        painting.grade(counts, settings.fill == "density", levels)
    return levels


def patch(numbers: NDArray[np.float64]) -> int:
    """The nine bits of the image's patch, at least one of them set."""
    return 1 + int(511 * numbers[kernels.PATCH])


def draw(settings: FractalSettings, system: int, instance: int) -> NDArray[np.uint8]:
    """One image, uint8 [size, size, 3]."""
    plan = planned(settings, system, instance, settings.size)
    levels = filled(settings, plan, visits(plan, settings.points))
    image = np.empty((plan.size, plan.size, 3), np.uint8)
    ramps = np.stack([front_ramp(settings, plan.numbers), back_ramp(settings, plan.numbers)])
    behind = backdrop(settings, plan.size, plan.numbers, plan.noise)
    painting.paint(levels, behind, ramps, image)
    smooth(settings, plan.numbers, image)
    return image


def smooth(
    settings: FractalSettings, numbers: NDArray[np.float64], image: NDArray[np.uint8]
) -> None:
    """Blur the share of the images that `blur` says, by a Gaussian of sigma 0.5 to 1."""
    side = blur_side(settings, numbers)
    if side > 0:
        painting.blur(image, side)


def blur_side(settings: FractalSettings, numbers: NDArray[np.float64]) -> int:
    """The weight of a neighbour, in 256ths; 0 for no blur."""
    if numbers[kernels.BLUR] >= settings.blur:
        return 0
    sigma = 0.5 + 0.5 * float(numbers[kernels.SIGMA])
    side = math.exp(-0.5 / sigma**2)
    return round(256 * side / (1 + 2 * side))


def backdrop(
    settings: FractalSettings,
    size: int,
    numbers: NDArray[np.float64],
    noise: tuple[np.uint32, np.uint32],
) -> NDArray[np.uint8]:
    """The levels of what lies behind, uint8 [size, size]; empty for black."""
    if settings.background == "black":
        return NO_LEVELS
    levels = np.empty((size, size), np.uint8)
    if settings.background == "clouds":
        side = 1 << (size - 1).bit_length()
        grid = np.empty((side + 1, side + 1), np.float32)
        painting.diamond_square(grid, float(decay(numbers)), *noise)
    else:
        steps = np.arange(size, dtype=np.float64) / (size - 1)
        across, down = (2 * numbers[kernels.ACROSS : kernels.DOWN + 1] - 1).tolist()
        grid = (across * steps[None, :] + down * steps[:, None]).astype(np.float32)
    painting.grid_levels(grid, levels)
    return levels


def decay(numbers: Any) -> Any:
    """How much smaller the noise of the clouds gets from one level to the next."""
    return 0.4 + 0.4 * numbers[..., kernels.DECAY]


def front_ramp(settings: FractalSettings, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The colours of the 256 levels."""
    return ramp(*front_hues(numbers)) if settings.colour else GREYS


def back_ramp(settings: FractalSettings, numbers: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The colours of the 256 background levels."""
    if settings.background == "black":
        return BLACK
    return ramp(*back_hues(numbers)) if settings.colour else GREYS // 2


def front_hues(numbers: Any) -> tuple[Any, ...]:
    """Hue, its turn, two saturations and two values from numbers [..., NUMBERS] of any array kind.

    One turn of the hue, saturation and value fixed.
    """
    saturation = 0.3 + 0.7 * numbers[..., kernels.SATURATION]
    value = 0.5 + 0.5 * numbers[..., kernels.VALUE]
    return numbers[..., kernels.HUE], 1.0, saturation, saturation, value, value


def back_hues(numbers: Any) -> tuple[Any, ...]:
    """As front_hues, for the background: a range of hues that grows clearer."""
    turn = 0.25 + 0.75 * numbers[..., kernels.BACK_TURN]
    saturation = 0.4 + 0.2 * numbers[..., kernels.BACK_SATURATION]
    clear = saturation + 0.1 + 0.2 * numbers[..., kernels.BACK_RISE]
    value = 0.4 + 0.2 * numbers[..., kernels.BACK_VALUE]
    return numbers[..., kernels.BACK_HUE], turn, saturation, clear, value, 0.9


def ramp(*hues: float) -> NDArray[np.uint8]:
    """The 256 colours of front_hues or back_hues."""
    colours = np.empty((256, 3), np.uint8)
    hue, turn, low, high, dark, light = map(float, hues)
    painting.hue_ramp(hue, turn, (low, high), (dark, light), colours)
    return colours


BLACK = np.zeros((256, 3), np.uint8)
GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


def encode(image: NDArray[np.uint8], form: str) -> bytes:
    """The image as a PNG or JPEG file, without metadata: the same pixels give the same bytes."""
    buffer = io.BytesIO()
    if form == "png":
        Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
