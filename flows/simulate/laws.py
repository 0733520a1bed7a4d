"""How a stage grows with the rows of the pool: fitted to logs of small runs, and to benchmarks.

A stage over shards takes a fixed time (workers start, libraries load, the manifest is put) and the
same work for every row, spread over the workers. A stage of one process takes a + b x rows; two
runs of different size tell a from b. From one run b alone is taken, which is too much at scale.
Beyond the sizes of the logs some stages grow faster than their rows: of these the benchmarks tell
how (constants.json, made by tests/bench/constants.py from the results that it names).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import exp, log
from pathlib import Path
from typing import Any

from flows.simulate.calibration import POOL, RunLog, StageLog
from infra.errors import SluiceError

CONSTANTS = Path(__file__).parent / "constants.json"

STEPS, WHOLE, WIDE = "steps", "whole", "wide"

Curve = Sequence[tuple[float, float]]  # (rows, seconds of one process), ascending


@dataclass(frozen=True)
class Line:
    """base + slope x, neither below 0."""

    base: float
    slope: float

    def __call__(self, x: float) -> float:
        return self.base + self.slope * x


@dataclass(frozen=True)
class Law:
    """One stage. rows: of those of the pool. fixed: seconds before and after the work.

    kind: "wide" where workers share it, "whole" where one process does it, "steps" for a training.
    work: seconds of one worker, of the stage's rows. rows_a_shard: where it is wide. bytes: written
    a row. memory: of the worker that needs most, of the stage's rows. curve: a benchmark's seconds
    of one process at larger sizes.
    """

    name: str
    kind: str
    rows: Line
    fixed: float
    work: Line
    rows_a_shard: float
    bytes: float
    memory: Line
    curve: Curve = ()

    def seconds(self, rows: float) -> float:
        """Of one worker, for so many rows of this stage."""
        return max(self.work(rows), along(self.curve, rows))


@dataclass(frozen=True)
class Laws:
    """Of a whole run; other: seconds of no stage, of the pool's rows."""

    stages: Sequence[Law]
    other: Line
    calibrated: tuple[int, ...]  # rows of the pools of the logs

    @property
    def rows_a_shard(self) -> float:
        """Of the pool."""
        return next(law.rows_a_shard for law in self.stages if law.name == POOL)


def fit(logs: Sequence[RunLog]) -> Laws:
    """Laws from the logs of one recipe over pools of one or more sizes."""
    logs = sorted(logs, key=lambda each: each.rows)
    names = [set(each.stages) for each in logs]
    if any(each != names[0] for each in names):
        odd = sorted(set.union(*names) - set.intersection(*names))
        raise SluiceError(
            f"the logs are not of one recipe: not all of them have the stages {', '.join(odd)}",
            "calibrate with the same recipe and target, over pools of different size",
        )
    pools = [each.rows for each in logs]
    laws = [_law([each.stages[name] for each in logs], pools) for name in logs[-1].stages]
    return Laws(laws, line(pools, [each.other for each in logs]), tuple(pools))


def _law(seen: Sequence[StageLog], pools: Sequence[int]) -> Law:
    largest = seen[-1]
    known = _constants().get(largest.name, {})
    pool, fixed, shard = Line(0.0, 1.0), 0.0, 0.0  # rows of a stage that sees them all
    if not largest.shards:
        kind, rows, work = STEPS, pool, _steps(seen, pools)
    elif largest.whole:
        kind, rows, work = WHOLE, pool, line(pools, [each.work for each in seen])
        fixed = _mean([each.seconds - each.work for each in seen])
    else:
        told = [each for each in seen if each.warm] or [largest]
        kind, rows, work = WIDE, _rows(seen, pools), Line(0.0, _rate(told))
        fixed = _mean([each.seconds - each.work_later / each.workers for each in told])
        shard = largest.rows / largest.shards
    measured = max(each.memory for each in seen)
    return Law(
        largest.name, kind, rows, max(fixed, 0.0), work, shard,
        largest.bytes / max(rows(pools[-1]), 1),
        Line(float(measured), known.get("bytes_a_row", 0.0)),
        [(a, b) for a, b in known.get("seconds", [])],
    )  # fmt: skip


def _rows(seen: Sequence[StageLog], pools: Sequence[int]) -> Line:
    """Those that a stage sees: a part of the pool, or as many whatever the pool."""
    counts = [each.rows for each in seen]
    return Line(float(counts[0]), 0.0) if len({*counts}) == 1 < len(seen) else line(pools, counts)


def _steps(seen: Sequence[StageLog], pools: Sequence[int]) -> Line:
    """Seconds of a training: of as many steps as the recipe says, whatever the pool."""
    step = _mean([each.seconds / max(each.total, 1) for each in seen])
    if len({each.total for each in seen}) == 1:
        return Line(step * seen[-1].total, 0.0)
    steps = line(pools, [each.total for each in seen])
    return Line(steps.base * step, steps.slope * step)


def _rate(seen: Sequence[StageLog]) -> float:
    """Seconds a row once a worker is warm; the largest run has most to say."""
    rows = sum(each.rows for each in seen)
    return sum(each.work_later for each in seen) / rows if rows else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def line(x: Sequence[float], y: Sequence[float]) -> Line:
    """The line through points: the largest x alone says the slope where all are one."""
    middle, mean = _mean(x), _mean(y)
    spread = sum((each - middle) ** 2 for each in x)
    if not spread:
        return Line(0.0, mean / middle if middle else 0.0)
    slope = sum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / spread
    slope = max(slope, 0.0)
    base = mean - slope * middle
    if base < 0:
        return Line(0.0, sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x))
    return Line(base, slope)


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
