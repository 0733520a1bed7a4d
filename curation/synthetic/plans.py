"""All that is random in an image, decided before anything is drawn: every renderer draws from it.

A plan is a pure function of (settings, system, instance, size).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curation.synthetic import kernels
from curation.synthetic.ifs import draw_system, turns
from curation.synthetic.kernels import COLUMNS, MOST_MAPS, NOISE_WORD, NUMBERS, ORBITS
from curation.synthetic.settings import FractalSettings
from infra.digests import digest


@dataclass(frozen=True)
class Plan:
    """What is random in one image.

    maps float32 [n, 6], in pixels of a size x size image whose first pixel spans 1 to 2; places
    uint8 [ORBITS]: the map at each place; points float32 [2, ORBITS]: where the orbits start;
    numbers float64 [NUMBERS], uniform in [0, 1); noise: the key of the noise of its pixels.
    """

    size: int
    maps: NDArray[np.float32]
    places: NDArray[np.uint8]
    points: NDArray[np.float32]
    numbers: NDArray[np.float64]
    noise: tuple[np.uint32, np.uint32]


@functools.cache
def root(seed: int, stage: str) -> int:
    """The key from which all keys of a stage come."""
    return int(digest([seed, "fractals", stage]), 16)


def keyed(seed: int, stage: str, *numbers: int) -> np.uint64:
    """The random stream that belongs to these numbers."""
    key = np.uint64(root(seed, stage))
    for number in numbers:
        key = np.uint64(kernels.word(key, number))
    return key


def noise_key(key: np.uint64) -> tuple[np.uint32, np.uint32]:
    """The key of the noise of an image's pixels, in two halves."""
    bits = int(kernels.word(key, NOISE_WORD))
    return np.uint32(bits & 0xFFFFFFFF), np.uint32(bits >> 32)


def planned(settings: FractalSettings, system: int, instance: int, size: int) -> Plan:
    """What is random in one image, of `size` pixels a side."""
    drawn = draw_system(settings, system)
    key = keyed(settings.seed, "instance", system, instance)
    maps = np.empty((len(drawn.maps), COLUMNS), np.float32)
    places, numbers = np.empty(ORBITS, np.uint8), np.empty(NUMBERS)
    points = drawn.points.copy()
    kernels.plan(
        drawn.maps, drawn.box, points, turns(kernels.SETTLING + kernels.TRACED), size,
        *varied(settings), numbers, key, maps, places,
    )  # fmt: skip
    return Plan(size, maps, places, points, numbers, noise_key(key))


@dataclass(frozen=True)
class Plans:
    """As Plan, for many images at once: every array has one more axis in front.

    maps float32 [i, MOST_MAPS, 6], of which a system may have fewer; noise uint32 [i, 2].
    """

    size: int
    maps: NDArray[np.float32]
    places: NDArray[np.uint8]
    points: NDArray[np.float32]
    numbers: NDArray[np.float64]
    noise: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.maps)


def planned_all(settings: FractalSettings, wanted: Sequence[tuple[int, int]], size: int) -> Plans:
    """The plans of pairs (system, instance): those of `planned`, with less to do for each."""
    pairs = np.array(wanted, np.int64).reshape(-1, 2)
    names, which = np.unique(pairs[:, 0], return_inverse=True)
    systems = [draw_system(settings, int(name)) for name in names]
    maps = np.zeros((len(systems), MOST_MAPS, COLUMNS))
    for index, system in enumerate(systems):
        maps[index, : len(system.maps)] = system.maps
    keys = np.empty(len(pairs), np.uint64)
    kernels.key_all(np.uint64(root(settings.seed, "instance")), pairs, keys)
    plans = Plans(
        size, np.zeros((len(pairs), MOST_MAPS, COLUMNS), np.float32),
        np.empty((len(pairs), ORBITS), np.uint8), np.empty((len(pairs), 2, ORBITS), np.float32),
        np.empty((len(pairs), NUMBERS)), np.empty((len(pairs), 2), np.uint32),
    )  # fmt: skip
    kernels.plan_all(
        maps, np.array([len(system.maps) for system in systems]),
        np.array([system.box for system in systems]),
        np.stack([system.points for system in systems]), which, keys,
        turns(kernels.SETTLING + kernels.TRACED), size, *varied(settings),
        plans.numbers, plans.maps, plans.places, plans.points,
    )  # fmt: skip
    plans.noise[:] = [noise_key(key) for key in keys]
    return plans


def varied(settings: FractalSettings) -> tuple[float, bool, bool, bool]:
    """What the settings say of an instance, as `kernels.plan` takes it."""
    limit = settings.contraction if settings.jitter else 0.0
    return limit, settings.parametrisation == "fractaldb", settings.zoom, settings.flips
