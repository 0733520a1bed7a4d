"""Several fractals in one picture, each of its own system: images with more than one label."""

import numpy as np
from numpy.typing import NDArray

from curation.synthetic import kernels, painting
from curation.synthetic.kernels import NUMBERS
from curation.synthetic.plans import keyed, noise_key, planned
from curation.synthetic.render import back_ramp, backdrop, filled, front_ramp, smooth, visits
from curation.synthetic.settings import FractalSettings

MOST_OBJECTS = 32  # of one scene; instances of their systems are numbered by scene and object
PUBLISHED = (1, 5)
SMALLEST = 8  # pixels along the side of an object
LEAST_POINTS = 1 / 8  # of `points`, for small objects; others have them by their area
COUNT = 29  # which of a scene's numbers says how many objects it has


def draw_scene(settings: FractalSettings, number: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Scene `number`: uint8 [size, size, 3], and the systems it shows in rising order.

    settings.objects fractals, (1, 5) where it is not set, of random systems, sizes, places and
    colours, over one background; later ones cover earlier ones. At least half of the square of
    each lies inside (Anderson & Farrell, 2022). A pure function of both.
    """
    size = settings.size
    key = keyed(settings.seed, "scene", number)
    numbers = np.empty(NUMBERS)
    kernels.uniform(key, numbers)
    image = np.empty((size, size, 3), np.uint8)
    ramps = np.stack([front_ramp(settings, numbers), back_ramp(settings, numbers)])
    behind = backdrop(settings, size, numbers, noise_key(key))
    painting.paint(np.zeros((size, size), np.uint8), behind, ramps, image)
    for instance in _objects(settings, number, numbers):
        _add(settings, instance, image)
    smooth(settings, numbers, image)
    return image, shown(settings, number)


def shown(settings: FractalSettings, number: int) -> tuple[int, ...]:
    """The systems that scene `number` shows, in rising order; nothing is drawn."""
    numbers = _numbers(settings, "scene", number)
    objects = _objects(settings, number, numbers)
    return tuple(sorted({_system(settings, _numbers(settings, "object", o)) for o in objects}))


def _numbers(settings: FractalSettings, stage: str, number: int) -> NDArray[np.float64]:
    numbers = np.empty(NUMBERS)
    kernels.uniform(keyed(settings.seed, stage, number), numbers)
    return numbers


def _objects(settings: FractalSettings, number: int, numbers: NDArray[np.float64]) -> range:
    """The objects of a scene, numbered among those of all scenes."""
    fewest, most = settings.objects or PUBLISHED
    count = fewest + int(numbers[COUNT] * (most - fewest + 1))
    return range(number * MOST_OBJECTS, number * MOST_OBJECTS + count)


def _system(settings: FractalSettings, numbers: NDArray[np.float64]) -> int:
    return int(numbers[0] * settings.systems)


def _add(settings: FractalSettings, instance: int, image: NDArray[np.uint8]) -> None:
    """Put one object into the image."""
    numbers = _numbers(settings, "object", instance)
    system = _system(settings, numbers)
    low, high = settings.object_size
    side = max(SMALLEST, round((low + (high - low) * float(numbers[1])) * settings.size))
    plan = planned(settings, system, instance, side)
    share = max((side / settings.size) ** 2, LEAST_POINTS)
    levels = filled(settings, plan, visits(plan, max(1, round(settings.points * share))))
    top, left = place(side, settings.size, numbers[2:].tolist())
    painting.paste(levels, front_ramp(settings, plan.numbers), top, left, image)


def place(side: int, size: int, numbers: list[float]) -> tuple[int, int]:
    """Where the corner of a square goes: the first place that shows at least half of its area.

    numbers: two for every place that is tried; after the last it lies wholly inside.
    """
    room = size - side
    for down, across in zip(numbers[::2], numbers[1::2], strict=True):
        top, left = (round(value * size - side / 2) for value in (down, across))
        rows = min(top + side, size) - max(top, 0)
        columns = min(left + side, size) - max(left, 0)
        if 2 * rows * columns >= side * side:
            return top, left
    return round(numbers[0] * room), round(numbers[1] * room)
