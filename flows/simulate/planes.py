"""What grows with rows and with shards: base + row x rows + shard x shards, none below 0.

Least squares without negative values, exactly: of the unconstrained fits to every choice of the
three, the best of those that come out with none. Logs may leave open what takes the time: all for
the rows and all for the shards fit alike where shards are of one size, and what is less than the
noise of the logs may be anything up to it. Such planes are kept beside the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

APART = 0.25  # how much rows a shard must vary, beside their mean, to tell rows from shards
SAME = 1e-6  # of what was measured: planes that differ by no more at the logs are equally good
NOISE = 0.05  # as much may a second run differ

Point = tuple[float, float, float]  # rows, shards, what was measured of them


@dataclass(frozen=True)
class Plane:
    """base + row x rows + shard x shards."""

    base: float = 0.0
    row: float = 0.0
    shard: float = 0.0

    def __call__(self, rows: float, shards: float) -> float:
        return self.base + self.row * rows + self.shard * shards


@dataclass(frozen=True)
class Fit:
    """best: several where the points do not tell them apart. alike: these, and all within noise."""

    best: Sequence[Plane]
    alike: Sequence[Plane]

    def __call__(self, rows: float, shards: float) -> float:
        """By the highest of the best: what is not told apart is not foretold too low."""
        return max(plane(rows, shards) for plane in self.best)


def exactly(plane: Plane) -> Fit:
    return Fit((plane,), (plane,))


def fit(points: Sequence[Point], base: bool = True) -> Fit:
    """base: whether something may be taken whatever the rows and shards."""
    if not points:
        return exactly(Plane())
    rows, shards, seen = np.asarray(points, float).T
    sizes = rows / shards
    if sizes.std() < APART * sizes.mean():  # one is then told by the other, but for noise
        shards = rows / sizes.mean()
    columns = np.stack([np.full(len(seen), float(base)), rows, shards], axis=1)
    scale = columns.max(axis=0, initial=1e-9)
    columns /= scale
    found: list[tuple[Plane, np.ndarray]] = []
    for chosen in chain.from_iterable(combinations(range(3), count) for count in range(4)):
        values, _, rank, _ = np.linalg.lstsq(columns[:, chosen], seen, rcond=SAME)
        if rank == len(chosen) and (values >= 0).all():
            terms = np.zeros(3)
            terms[list(chosen)] = values / scale[list(chosen)]
            found.append((Plane(*terms.tolist()), columns[:, chosen] @ values))
    _, nearest = min(found, key=lambda each: float(np.linalg.norm(each[1] - seen)))
    size = float(np.linalg.norm(seen))
    best, alike = (
        [plane for plane, told in found if np.linalg.norm(told - nearest) <= limit * size]
        for limit in (SAME, NOISE)
    )
    return Fit(best, alike)
