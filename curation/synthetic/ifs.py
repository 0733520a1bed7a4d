"""Iterated function systems: how they are drawn, and which are fit to be used.

A system is a set of affine maps of the plane; its picture is the attractor that the chaos game
traces (Barnsley, 1988). Each linear part is drawn as rotation x diag(s1, s2) x reflection x
rotation, with singular values whose sigma factor, the sum of s1 + 2 s2 over the maps, lies in
[(5 + n) / 2, (6 + n) / 2]: there the attractors are rich (Anderson & Farrell, 2022).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.synthetic.kernels import TABLE, chaos_game, count
from curation.synthetic.settings import FractalSettings
from infra.digests import generator
from infra.errors import SluiceError

ATTEMPTS = 1000  # draws before a system is given up; about three in four are fit by default
TRIAL_GRID = 64  # cells along a side when the filling rate is taken
TRIAL_POINTS = 16_384
LEAST_SHARE = 0.02  # of the points, for a map so flat that its determinant is near 0


@dataclass(frozen=True)
class System:
    """maps float64 [n, 6]: a, b, c, d, e, f of (a x + b y + e, c x + d y + f).

    table uint8 [TABLE]: the map that 12 random bits stand for, by the maps' probabilities.
    """

    maps: NDArray[np.float64]
    table: NDArray[np.uint8]


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


def largest_singular_value(maps: NDArray[np.float64]) -> float:
    """The Lipschitz constant of the system: below 1, it has exactly one attractor."""
    largest = 0.0
    for a, b, c, d in maps[:, :4].tolist():
        squares = a * a + b * b + c * c + d * d
        determinant = a * d - b * c
        root = math.sqrt(max(squares * squares - 4 * determinant * determinant, 0.0))
        largest = max(largest, math.sqrt((squares + root) / 2))
    return largest


def choice_table(maps: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Entries in proportion to |det|, so that points spread evenly over the attractor."""
    weights = np.abs(maps[:, 0] * maps[:, 3] - maps[:, 1] * maps[:, 2])
    weights = np.maximum(weights, LEAST_SHARE * max(float(weights.sum()), 1e-12))
    edges = np.cumsum(weights) / weights.sum() * TABLE
    entries = np.arange(TABLE, dtype=np.float64) + 0.5
    return np.searchsorted(edges, entries).clip(max=len(maps) - 1).astype(np.uint8)


def filling_rate(system: System, key: int = 0) -> float:
    """The share of a TRIAL_GRID x TRIAL_GRID grid over the attractor's box that is hit."""
    points = np.empty((TRIAL_POINTS, 2), np.float32)
    counts = np.zeros((TRIAL_GRID, TRIAL_GRID), np.uint32)
    box = chaos_game(system.maps, system.table, np.uint64(key), points)
    return count(points, box, counts) / counts.size


def draw_system(settings: FractalSettings, number: int) -> System:
    """System `number` of `settings`: the first of its draws that contracts and fills.

    A pure function of both. Raises SluiceError when no draw is fit.
    """
    return _draw(settings.seed, number, settings.maps, settings.contraction, settings.filling)


@functools.lru_cache(maxsize=4096)
def _draw(
    seed: int, number: int, counts: tuple[int, int], contraction: float, filling: float
) -> System:
    for attempt in range(ATTEMPTS):
        rng = generator(seed, "fractals", "system", number, attempt)
        maps = random_maps(rng, int(rng.integers(counts[0], counts[1] + 1)))
        if largest_singular_value(maps) > contraction:
            continue
        system = System(maps, choice_table(maps))
        if filling_rate(system) >= filling:
            return system
    raise SluiceError(
        f"no fractal system {number} in {ATTEMPTS} draws has singular values up to "
        f"{contraction} and fills {filling:.0%} of its box",
        "raise fractals.contraction or lower fractals.filling",
    )


def jittered(
    system: System, rng: np.random.Generator, contraction: float, attempts: int = 4
) -> System:
    """The system with the linear part of one map scaled by 0.8 to 1.1, if it still contracts."""
    for _ in range(attempts):
        maps = system.maps.copy()
        maps[int(rng.integers(len(maps))), :4] *= rng.uniform(0.8, 1.1)
        if largest_singular_value(maps) <= contraction:
            return System(maps, choice_table(maps))
    return system
