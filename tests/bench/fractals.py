"""Fractal images a second on one core: our renderer against a plain numba one; and on a GPU.

The plain one follows the description in "Improving Fractal Pre-training" (Anderson & Farrell,
2022): numba's own random numbers, all points kept in double precision, then a histogram, then
NumPy for the log-density and the colours. Both draw the same systems, at 256 x 256 with
100,000 points, in turns. How far each one's density is from the limit, that of 4,000,000 points of
the plain one, is total variation: 0 for equal, 1 for disjoint. Run: python tests/bench/fractals.py
"""

import time
from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np
from record import keep

from curation.synthetic.ifs import draw_system, weights
from curation.synthetic.plans import Plan, planned
from curation.synthetic.render import draw, visits
from curation.synthetic.scene import draw_scene
from curation.synthetic.settings import FractalSettings

SIZE, POINTS, IMAGES, REPEATS = 256, 100_000, 200, 5
LIMIT, COMPARED = 4_000_000, 40  # points of the limit; systems compared with it
GPU_SIZE, GPU_IMAGES, GPU_REPEATS = 224, 4096, 5
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


def rates(functions: dict[str, Callable[[int], object]]) -> dict[str, float]:
    """The middle of the images a CPU second over the repeats, in each of which all take turns."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function(0)
    for _ in range(REPEATS):
        for name, function in functions.items():
            start = time.process_time()
            for system in range(IMAGES):
                function(system)
            found[name].append(IMAGES / (time.process_time() - start))
    return {name: sorted(each)[REPEATS // 2] for name, each in found.items()}


def plain_density(plan: Plan, shares: np.ndarray, points: int, seed: int) -> np.ndarray:
    """Visits of the plain renderer's orbit in the frame of `plan`: what both count is the same."""
    orbit = reference_orbit(plan.maps.astype(float), np.cumsum(shares), points, seed)
    cells = orbit.clip(0, SIZE + 1.5).astype(int)
    counts = np.bincount(cells[:, 1] * (SIZE + 2) + cells[:, 0], minlength=(SIZE + 2) ** 2)
    return counts.reshape(SIZE + 2, SIZE + 2)


def distance(one: np.ndarray, other: np.ndarray, cells: int) -> float:
    side = SIZE // cells
    shares = [
        each[1:-1, 1:-1].reshape(cells, side, cells, side).sum(axis=(1, 3)) / each[1:-1, 1:-1].sum()
        for each in (one, other)
    ]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def densities(settings: FractalSettings) -> dict[str, Any]:
    """Mean distance to the limit, over systems, of ours and of the plain one."""
    found = []
    for system in range(COMPARED):
        plan = planned(settings, system, 0, SIZE)
        shares = weights(draw_system(settings, system).maps)
        limit = plain_density(plan, shares, LIMIT, 1)
        both = visits(plan, POINTS), plain_density(plan, shares, POINTS, 2)
        found.append([[distance(each, limit, cells) for each in both] for cells in (SIZE, 16)])
    pixels, coarse = np.mean(found, axis=0).round(4).tolist()
    return {
        "pixels": dict(zip(("ours", "peer"), pixels, strict=True)),
        "16 x 16 cells": dict(zip(("ours", "peer"), coarse, strict=True)),
    }


def on_gpu(settings: FractalSettings) -> dict[str, Any] | str:
    """Images a second of wall time, planning on one core of the CPU included."""
    import torch

    from curation.synthetic.torch_render import draw_batch

    if not torch.cuda.is_available():
        return "not measured: no GPU at hand"
    wanted = [(index % IMAGES, index // IMAGES) for index in range(GPU_IMAGES)]
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "batch": GPU_IMAGES}
    for background in ("black", "clouds"):
        options = settings.model_copy(update={"background": background, "size": GPU_SIZE})
        draw_batch(options, wanted)
        seconds = []
        for _ in range(GPU_REPEATS):
            torch.cuda.synchronize()
            start = time.perf_counter()
            draw_batch(options, wanted)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        found[background] = round(GPU_IMAGES / sorted(seconds)[GPU_REPEATS // 2], 1)
    return found


def main() -> None:
    settings = FractalSettings(size=SIZE, points=POINTS, systems=IMAGES, **PLAIN)
    small, full = FractalSettings(), FractalSettings(size=SIZE, points=POINTS, systems=IMAGES)
    for system in range(IMAGES):
        draw_system(settings, system)
    grey = settings.model_copy(update={"colour": False})
    found = rates({
        "grey": lambda system: draw(grey, system, 0),
        "peer grey": lambda system: reference(system, False, settings),
        "colour": lambda system: draw(settings, system, 0),
        "peer colour": lambda system: reference(system, True, settings),
        "all_variations": lambda system: draw(full, system, 0),
        "demo_64_pixels": lambda system: draw(small, system % small.systems, system),
        "scene_64_pixels": lambda system: draw_scene(small, system),
    })  # fmt: skip
    peer = {name: found.pop(f"peer {name}") for name in ("grey", "colour")}
    report = {
        "what": "fractal images per CPU second on one core",
        "sizes": {"pixels": SIZE, "points": POINTS, "images": IMAGES, "demo_points": small.points},
        "ours": {name: round(value, 1) for name, value in found.items()},
        "peer": {name: round(value, 1) for name, value in peer.items()},
        "ratio": {name: round(found[name] / value, 2) for name, value in peer.items()},
        "density_distance_to_limit": densities(settings),
        "gpu_coloured_224": on_gpu(settings),
    }
    keep("fractals", report, "numba", "numpy")


if __name__ == "__main__":
    main()
