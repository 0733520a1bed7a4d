"""Fractal images a second on one core: our renderer against a plain numba one.

The plain one follows the description in "Improving Fractal Pre-training" (Anderson & Farrell,
2022): numba's own random numbers, all points kept in double precision, then a histogram, then
NumPy for the log-density and the colours. Both draw the same systems, at 256 x 256 with
100,000 points. Run: python tests/bench/fractals.py
"""

import time
from collections.abc import Callable

import numba as nb
import numpy as np
from record import keep

from curation.synthetic.ifs import draw_system
from curation.synthetic.render import draw
from curation.synthetic.settings import FractalSettings

SIZE, POINTS, IMAGES, REPEATS = 256, 100_000, 200, 3
PLAIN = {"jitter": False, "zoom": False, "flips": False, "background": "black"}


@nb.njit
def reference_orbit(maps, edges, points, seed):
    np.random.seed(seed)
    orbit = np.empty((points, 2))
    x = y = 0.0
    for index in range(-20, points):
        draw = np.random.random()
        k = 0
        while k < len(edges) - 1 and draw > edges[k]:
            k += 1
        x, y = (
            maps[k, 0] * x + maps[k, 1] * y + maps[k, 4],
            maps[k, 2] * x + maps[k, 3] * y + maps[k, 5],
        )
        if index >= 0:
            orbit[index] = x, y
    return orbit


@nb.njit
def reference_counts(orbit, size):
    counts = np.zeros((size, size), np.int32)
    left, right = orbit[:, 0].min(), orbit[:, 0].max()
    top, bottom = orbit[:, 1].min(), orbit[:, 1].max()
    for x, y in orbit:
        column = int((x - left) / (right - left + 1e-9) * (size - 1))
        counts[int((y - top) / (bottom - top + 1e-9) * (size - 1)), column] += 1
    return counts


def reference(system: int, colour: bool, settings: FractalSettings) -> np.ndarray:
    maps = draw_system(settings, system).maps
    areas = np.abs(maps[:, 0] * maps[:, 3] - maps[:, 1] * maps[:, 2]) + 1e-3
    orbit = reference_orbit(maps, np.cumsum(areas / areas.sum()), POINTS, system)
    counts = reference_counts(orbit, SIZE)
    grey = np.log1p(counts.astype(np.float32))
    grey = (255 * grey / grey.max()).astype(np.uint8)
    if not colour:
        return grey
    turn = np.arange(256)[:, None] / 255 + np.array([0.0, 1 / 3, 2 / 3])
    image = (127.5 + 127.5 * np.sin(2 * np.pi * turn)).astype(np.uint8)[grey]
    image[counts == 0] = 0
    return image


def rate(function: Callable[[int], object]) -> float:
    """The middle of the images a CPU second over the repeats."""
    function(0)
    rates = []
    for _ in range(REPEATS):
        start = time.process_time()
        for system in range(IMAGES):
            function(system)
        rates.append(IMAGES / (time.process_time() - start))
    return sorted(rates)[REPEATS // 2]


def main() -> None:
    settings = FractalSettings(size=SIZE, points=POINTS, systems=IMAGES, **PLAIN)
    small = FractalSettings()
    for system in range(IMAGES):
        draw_system(settings, system)
    grey = settings.model_copy(update={"colour": False})
    clouds = settings.model_copy(update={"background": "clouds"})
    ours = {
        "grey": rate(lambda system: draw(grey, system, 0)),
        "colour": rate(lambda system: draw(settings, system, 0)),
        "colour_on_clouds": rate(lambda system: draw(clouds, system, 0)),
        "demo_64_pixels": rate(lambda system: draw(small, system % small.systems, system)),
    }
    peer = {name: rate(lambda s, c=name == "colour": reference(s, c, settings))
            for name in ("grey", "colour")}  # fmt: skip
    report = {
        "what": "fractal images per CPU second on one core",
        "sizes": {"pixels": SIZE, "points": POINTS, "images": IMAGES, "demo_points": small.points},
        "ours": {name: round(value, 1) for name, value in ours.items()},
        "peer": {name: round(value, 1) for name, value in peer.items()},
        "ratio": {name: round(ours[name] / value, 2) for name, value in peer.items()},
    }
    keep("fractals", report, "numba", "numpy")


if __name__ == "__main__":
    main()
