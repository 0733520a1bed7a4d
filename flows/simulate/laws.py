"""How a stage grows with rows and shards of the pool: fitted to logs of small runs and benchmarks.

A stage over shards takes a fixed time (workers start, libraries load, the manifest is put) and the
same work for every row and every shard, spread over the workers. A stage of one process takes
base + row x rows + shard x shards. Three runs tell these apart: one, one of more rows in as many
shards, one of as many rows in more shards. What fewer leave open is told, and counted for what is
the most. Beyond the sizes of the logs some stages grow faster than their rows: of these the
benchmarks tell how (constants.json, made by tests/bench/constants.py from the results it names).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

from flows.simulate.calibration import RunLog, StageLog
from flows.simulate.planes import Fit, Plane, Point, exactly
from flows.simulate.planes import fit as fit_planes
from infra.errors import SluiceError

CONSTANTS = Path(__file__).parent / "constants.json"

STEPS, WHOLE, WIDE = "steps", "whole", "wide"
ROWS, SHARDS, START = "rows", "shards", "start"  # what seconds are taken for

Curve = Sequence[tuple[float, float]]  # (rows, seconds of one process), ascending
POOL_ROWS, POOL_SHARDS = Plane(row=1.0), Plane(shard=1.0)


@dataclass(frozen=True)
class Law:
    """One stage. rows, shards: of those of the pool. fixed: seconds before and after the work.

    kind: "wide" where workers share it, "whole" where one process does it, "steps" for a training.
    work: seconds of one worker. bytes: that are written. memory: of the worker that needs most:
    bytes in any case, and for each row. curve: a benchmark's seconds of one process at larger
    sizes. All of these are of the stage's own rows and shards.
    """

    name: str
    kind: str
    rows: Plane
    shards: Plane
    fixed: float
    work: Fit
    bytes: Fit
    memory: Plane
    curve: Curve = ()

    def parts(self, rows: float, shards: float, work: Plane) -> Mapping[str, float]:
        """Seconds of one worker by what they are taken for, if `work` is what it does."""
        slow = max(along(self.curve, rows) - work.base, 0.0)
        return {
            START: work.base,
            ROWS: max(work.row * rows, slow),
            SHARDS: work.shard * shards,
        }


@dataclass(frozen=True)
class Laws:
    """Of a whole run; other: seconds of no stage. calibrated: rows of the pools of the logs.

    rows_a_shard: of the pool of the largest log.
    """

    stages: Sequence[Law]
    other: Fit
    calibrated: tuple[int, ...]
    rows_a_shard: float


def fit(logs: Sequence[RunLog]) -> Laws:
    """Laws from the logs of one recipe over pools of one or more sizes."""
    logs = sorted(logs, key=lambda each: (each.rows, each.rows_a_shard))
    names = [set(each.stages) for each in logs]
    if any(each != names[0] for each in names):
        odd = sorted(set.union(*names) - set.intersection(*names))
        raise SluiceError(
            f"the logs are not of one recipe: not all of them have the stages {', '.join(odd)}",
            "calibrate with the same recipe and target, over pools of different size",
        )
    laws = [_law([each.stages[name] for each in logs], logs) for name in logs[-1].stages]
    other = fit_planes([(each.rows, each.shards, each.other) for each in logs])
    return Laws(laws, other, tuple(each.rows for each in logs), logs[-1].rows_a_shard)


def _law(seen: Sequence[StageLog], logs: Sequence[RunLog]) -> Law:
    """Of a stage, as each of the logs has it."""
    known = _constants().get(seen[-1].name, {})
    rows, shards = POOL_ROWS, POOL_SHARDS  # of a stage that sees them all
    sizes = [(each.rows, each.shards) for each in logs]
    fixed, curve = 0.0, [(a, b) for a, b in known.get("seconds", [])]
    if not seen[-1].shards:
        kind, work = STEPS, _steps(seen, sizes)
    elif seen[-1].whole:
        kind, work = WHOLE, fit_planes(_points(sizes, [each.work for each in seen]))
        fixed = _mean([each.seconds - each.work for each in seen])
    else:
        kind, curve = WIDE, []
        rows = _share([each.rows for each in logs], [each.rows for each in seen], POOL_ROWS)
        shards = _share([each.shards for each in logs], [each.shards for each in seen], POOL_SHARDS)
        sizes = [(each.rows, each.shards) for each in seen]
        told = [each for each in seen if each.warm] or seen[-1:]
        work = fit_planes([(n, 1.0, taken) for each in told for n, taken in each.later], base=False)
        fixed = _mean([e.seconds - work(e.rows, e.shards) / e.workers for e in told])
    return Law(
        seen[-1].name, kind, rows, shards, max(fixed, 0.0), work,
        fit_planes(_points(sizes, [each.bytes for each in seen])),
        Plane(float(max(each.memory for each in seen)), known.get("bytes_a_row", 0.0)), curve,
    )  # fmt: skip


def _points(sizes: Sequence[tuple[int, int]], seen: Sequence[float]) -> list[Point]:
    return [(*size, value) for size, value in zip(sizes, seen, strict=True)]


def _share(pool: Sequence[int], seen: Sequence[int], per: Plane) -> Plane:
    """Those that a stage sees: as many whatever the pool, or a part of the pool's (`per`)."""
    if len({*seen}) == 1 < len({*pool}):
        return Plane(float(seen[0]))
    part = sum(seen) / sum(pool)
    return Plane(0.0, per.row * part, per.shard * part)


def _steps(seen: Sequence[StageLog], sizes: Sequence[tuple[int, int]]) -> Fit:
    """Seconds of a training: of as many steps as the recipe says, whatever the pool."""
    step = _mean([each.seconds / max(each.total, 1) for each in seen])
    if len({each.total for each in seen}) == 1:
        return exactly(Plane(step * seen[-1].total))
    return fit_planes(_points(sizes, [each.total * step for each in seen]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def along(curve: Curve, rows: float) -> float:
    """Seconds at so many rows by a curve: straight between points of its logarithms, and beyond
    the last as between the last two. 0 before the first: there the logs know better.
    """
    if len(curve) < 2 or rows < curve[0][0]:
        return 0.0
    (x0, y0), (x1, y1) = next(
        ((a, b) for a, b in pairwise(curve) if rows <= b[0]), (curve[-2], curve[-1])
    )
    power = log(y1 / y0) / log(x1 / x0)
    return exp(log(y0) + power * log(rows / x0))


@cache
def _constants() -> Mapping[str, Any]:
    return json.loads(CONSTANTS.read_text())["stages"]


@cache
def part_bytes() -> tuple[float, float]:
    """What the driver holds: bytes besides, and for each part of a manifest."""
    driver = json.loads(CONSTANTS.read_text())["driver"]
    return driver["bytes"], driver["bytes_a_part"]
