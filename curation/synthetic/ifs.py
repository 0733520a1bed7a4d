"""Iterated function systems: how they are drawn, and which are fit to be used.

A system is a set of affine maps of the plane; its picture is the attractor that the chaos game
traces (Barnsley, 1988). It is drawn in one of two ways:

- svd: each linear part is rotation x diag(s1, s2) x reflection x rotation, with singular values
  whose sigma factor, the sum of s1 + 2 s2 over the maps, lies in [(5 + n) / 2, (6 + n) / 2]: there
  the attractors are rich (Anderson & Farrell, 2022). Fit are systems whose every map contracts.
- fractaldb: all six numbers of a map are uniform in (-1, 1) (Kataoka et al., 2020). Most such
  systems have a map that stretches. Fit are those that contract on average.

What is fit also has a finite attractor, wider than a line, that fills enough of its box.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.synthetic import kernels
from curation.synthetic.kernels import COLUMNS, ORBITS
from curation.synthetic.settings import FractalSettings
from infra.digests import generator
from infra.errors import SluiceError

Box = tuple[float, float, float, float]

ATTEMPTS = 5000  # draws before a system is given up; about three in four are fit by default
SETTLING, TRACED = 192, 64  # steps of ORBITS points before, and for, the box
# Cells along a side of the grid, and points, that the filling rate is taken with. FractalDB takes
# 100,000 points on 512 x 512: as many a cell as here.
TRIALS = {"svd": (64, 16_384), "fractaldb": (128, 6_250)}
THINNEST = 1e-4  # least ratio of the attractor's variances along and across it
NEAREST = 1e-6  # least extent of an attractor


@dataclass(frozen=True)
class System:
    """maps float64 [n, 6]: a, b, c, d, e, f of (a x + b y + e, c x + d y + f).

    box: left, top, right, bottom of its attractor; points float32 [2, ORBITS]: on the attractor,
    spread as orbits are.
    """

    maps: NDArray[np.float64]
    box: Box
    points: NDArray[np.float32]


def singular_values(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw [count, 2] pairs 1 >= s1 >= s2 >= 0 whose sigma factor lies in the good band.

    One value after the other, uniformly between the bounds within which the maps that are
    left can still bring the sum to the sigma factor.
    """
    left = rng.uniform((5 + count) / 2, (6 + count) / 2)
    values = np.empty((count, 2))
    for index in range(count - 1):
        least = left - 3 * (count - 1 - index)  # each later map adds at most 1 + 2
        first = rng.uniform(max(0.0, least / 3), min(1.0, left))
        low, high = max(0.0, (least - first) / 2), min(first, (left - first) / 2)
        second = rng.uniform(min(low, high), high)
        values[index] = first, second
        left -= first + 2 * second
    second = rng.uniform(max(0.0, (left - 1) / 2), left / 3)
    values[-1] = left - 2 * second, second
    return values


def random_maps(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw maps [count, 6] by their singular value decomposition, translations in (-1, 1)."""
    maps = np.empty((count, 6))
    for index, (first, second) in enumerate(singular_values(rng, count)):
        turn, twist = rng.uniform(-math.pi, math.pi, 2)
        signs = 1 - 2 * rng.integers(0, 2, 2)
        # math, not numpy: its sine does not depend on the vector width of the processor.
        cos_u, sin_u, cos_v, sin_v = (
            math.cos(turn),
            math.sin(turn),
            math.cos(twist),
            math.sin(twist),
        )
        first, second = first * signs[0], second * signs[1]
        maps[index, 0] = cos_u * first * cos_v - sin_u * second * sin_v
        maps[index, 1] = -cos_u * first * sin_v - sin_u * second * cos_v
        maps[index, 2] = sin_u * first * cos_v + cos_u * second * sin_v
        maps[index, 3] = -sin_u * first * sin_v + cos_u * second * cos_v
        maps[index, 4:] = rng.uniform(-1, 1, 2)
    return maps


@functools.cache
def turns(steps: int) -> NDArray[np.int64]:
    """How far the places turn in each step of an orbit: the same in all images."""
    found = np.empty(steps, np.int64)
    kernels.shifts(np.uint64(0), found)
    return found


def weights(maps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probabilities of maps [n, 6]."""
    found = np.empty(len(maps))
    kernels.weigh(maps, found)
    return found


def contraction(maps: NDArray[np.float64], parametrisation: str) -> float:
    """What must stay below 1: the largest singular value, or for fractaldb a mean over the maps."""
    return kernels.contraction(maps, weights(maps), parametrisation == "fractaldb")


def places(shares: NDArray[np.float64], key: int) -> NDArray[np.uint8]:
    """The maps on their places, by probability: [ORBITS]."""
    found = np.empty(ORBITS, np.uint8)
    kernels.arrange(shares, np.uint64(key), found)
    return found


def traced(maps: NDArray[np.float64], key: int = 0) -> System:
    """The system of maps [n, 6], with its box and points: not finite where orbits diverge."""
    a, b, c, d, e, f = maps[0].tolist()
    determinant = (1 - a) * (1 - d) - b * c
    points = np.zeros((2, ORBITS), np.float32)
    if abs(determinant) > NEAREST:  # the fixed point of map 0 lies on the attractor
        points[0] = ((1 - d) * e + b * f) / determinant
        points[1] = (c * e + (1 - a) * f) / determinant
    found = places(weights(maps), key)
    turned = turns(SETTLING + TRACED)
    box = kernels.trace(maps.astype(np.float32), found, turned, SETTLING, points)
    return System(maps, box, points)


def is_flat(system: System) -> bool:
    """Whether the attractor is no more than a point or a line, or has no bounds."""
    left, top, right, bottom = system.box
    extent = max(right - left, bottom - top)
    if not NEAREST < extent < 1 / NEAREST:  # false for NaN, too
        return True
    (xx, xy), (_, yy) = np.cov(system.points.astype(np.float64) / extent).tolist()
    root = math.hypot(xx - yy, 2 * xy)
    return xx + yy - root < THINNEST * (xx + yy + root)


def filling_rate(system: System, grid: int, points: int, key: int = 0) -> float:
    """The share of the cells of a grid over the attractor's box that `points` points hit."""
    maps = np.empty((len(system.maps), COLUMNS), np.float32)
    starts = system.points.copy()
    kernels.see(system.maps, starts, kernels.framed(system.box, grid), maps)
    counts = np.zeros((grid + 2, grid + 2), np.uint32)
    found = places(weights(system.maps), key)
    kernels.visit(maps, found, turns(-(-points // ORBITS)), points, starts, counts)
    return float(np.count_nonzero(counts[1:-1, 1:-1])) / grid**2


def draw_system(settings: FractalSettings, number: int) -> System:
    """System `number` of `settings`: the first of its draws that is fit.

    A pure function of both. Raises SluiceError when no draw is fit.
    """
    return _draw(
        settings.seed, number, settings.parametrisation, settings.maps, settings.contraction,
        settings.filling,
    )  # fmt: skip


@functools.lru_cache(maxsize=16_384)
def _draw(
    seed: int, number: int, kind: str, counts: tuple[int, int], limit: float, filling: float
) -> System:
    for attempt in range(ATTEMPTS):
        rng = generator(seed, "fractals", "system", number, attempt)
        count = int(rng.integers(counts[0], counts[1] + 1))
        maps = rng.uniform(-1, 1, (count, 6)) if kind == "fractaldb" else random_maps(rng, count)
        if contraction(maps, kind) > limit:
            continue
        system = traced(maps)
        if not is_flat(system) and filling_rate(system, *TRIALS[kind]) >= filling:
            return system
    raise SluiceError(
        f"no fractal system {number} in {ATTEMPTS} draws contracts to {limit} and fills "
        f"{filling:.0%} of its box",
        "raise fractals.contraction or lower fractals.filling",
    )
