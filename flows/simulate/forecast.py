"""Laws on a cluster: how long each stage takes, what bounds it, what it costs, what does not fit.

    seconds of a stage = fixed + the longest of    work / workers          "workers"
                                                   shards x the driver's   "driver"
                                                   bytes / the store's     "store"
                                                   one process's work      "one process"

A node that a spot market takes loses half a shard of each of its workers, and what they need to
start. Stages come one after the other, as runs do. With an autoscaler a node is paid for while it
has something to do, one of them in a stage of one process; else all are, all the time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from flows.simulate.cluster import Cluster, Group
from flows.simulate.laws import ROWS, STEPS, WHOLE, WIDE, Law, Laws, part_bytes
from flows.simulate.planes import Plane
from infra.progress import duration

HOUR = 3600.0
GB = 1e9
FAR = 100.0  # times the largest calibration: beyond, the forecast says so
BETWEEN = "between stages"  # what the seconds of no stage are called
MATTERS = 0.01  # share of the whole time below which nothing is said of a stage
OPEN = 1.2  # how many times the least that fits the logs the most may be without a word
LARGER = 2.0  # how many times the calibration's rows may be in a shard without a word


@dataclass(frozen=True)
class StageForecast:
    """One stage. worker_hours: of all its workers together. memory: of one, bytes.

    bound: what its time is of; taken_for: what most of the work is done for, "rows", "shards" or
    "start". least, most: seconds that the logs fit as well, within their noise.
    """

    name: str
    group: str
    rows: float
    shards: int
    seconds: float
    least: float
    most: float
    bound: str
    taken_for: str
    worker_hours: float
    memory: float
    bytes: float
    cost: float


@dataclass(frozen=True)
class Forecast:
    """A whole run. rows, shards: of the pool. other: seconds of no stage. driver_memory: bytes.

    notes: what to look at.
    """

    rows: float
    shards: int
    stages: Sequence[StageForecast]
    other: float
    seconds: float
    cost: float
    driver_memory: float
    notes: Sequence[str]

    @property
    def bytes(self) -> float:
        return sum(stage.bytes for stage in self.stages)

    @property
    def memory(self) -> float:
        """The most that one worker takes."""
        return max((stage.memory for stage in self.stages), default=0.0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"bytes": self.bytes, "memory": self.memory}


def forecast(
    laws: Laws, cluster: Cluster, rows: float, rows_a_shard: float | None = None
) -> Forecast:
    """What a run over a pool of so many rows would take.

    rows_a_shard: of the pool; None: what the cluster says, else as in the largest calibration.
    """
    a_shard = rows_a_shard or cluster.rows_a_shard or laws.rows_a_shard
    shards = ceil(rows / a_shard)
    stages = [_stage(law, cluster, rows, shards) for law in laws.stages]
    other = laws.other(rows, shards)
    others = [plane(rows, shards) for plane in laws.other.alike]
    ranges = {stage.name: (stage.least, stage.most) for stage in stages}
    ranges[BETWEEN] = min(others), max(others)
    seconds = other + sum(stage.seconds for stage in stages)
    hourly = sum(group.nodes * group.price for group in cluster.groups)
    if cluster.autoscaling:
        cost = sum(stage.cost for stage in stages)
        cost += other / HOUR * min(group.price for group in cluster.groups)
    else:
        cost = seconds / HOUR * hourly
    besides, part = part_bytes()
    driver = besides + part * max((stage.shards for stage in stages), default=0)
    notes = [
        *_unfit(laws, cluster, stages, seconds),
        *_open(ranges, seconds),
        *_larger(laws, a_shard),
        *_far(laws, rows),
    ]
    return Forecast(rows, shards, stages, other, seconds, cost, driver, notes)


def _stage(law: Law, cluster: Cluster, pool: float, pool_shards: int) -> StageForecast:
    group = cluster.group_of(law.name)
    rows, shards = law.rows(pool, pool_shards), ceil(law.shards(pool, pool_shards))
    written = law.bytes(rows, shards)
    work = max((_work(law, group, rows, shards, plane) for plane in law.work.best), key=_sum)
    seconds, bound = _seconds(law, cluster, shards, _sum(work), written)
    others = [_work(law, group, rows, shards, plane) for plane in law.work.alike]
    ends = [_seconds(law, cluster, shards, _sum(each), written)[0] for each in others]
    return StageForecast(
        law.name, group.name, 0.0 if law.kind == STEPS else rows,
        shards if law.kind == WIDE else 0, seconds, min(ends), max(ends), bound,
        max(work, key=lambda name: work[name]), _sum(work) / HOUR,
        law.memory(rows, shards), written,
        seconds / HOUR * _nodes(law, group, shards) * group.price,
    )  # fmt: skip


def _nodes(law: Law, group: Group, shards: int) -> int:
    """How many have something to do."""
    if law.kind == WIDE:
        return min(group.nodes, ceil(shards / group.workers))
    return 1 if law.kind == WHOLE else group.nodes


def _sum(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def _work(law: Law, group: Group, rows: float, shards: int, plane: Plane) -> dict[str, float]:
    """Seconds of one worker of this group by what they are taken for."""
    own = group.own_rate(law.name)
    if own is not None:
        return {ROWS: rows * own}
    parts = law.parts(rows, shards, plane)
    return {name: part / group.speed for name, part in parts.items()}


def _seconds(
    law: Law, cluster: Cluster, shards: int, work: float, written: float
) -> tuple[float, str]:
    """Of the stage, and what bounds it. work: seconds of one worker. written: bytes."""
    group = cluster.group_of(law.name)
    if law.kind == WIDE:
        workers = min(group.nodes * group.workers, max(shards, 1))
        bounds = {"workers": work * _lost(law, group, work / max(shards, 1)) / workers}
        bounds["driver"] = shards * cluster.driver_ms / 1000
    else:
        bounds = {"one process" if law.kind == WHOLE else "training": work}
    if cluster.store_gb_per_second:
        bounds["store"] = written / (cluster.store_gb_per_second * GB)
    bound = max(bounds, key=lambda name: bounds[name])
    return law.fixed + bounds[bound], bound


def _lost(law: Law, group: Group, shard: float) -> float:
    """How much more is worked where nodes go away. shard: seconds."""
    again = group.lost_per_hour / HOUR * (shard / 2 + law.fixed)
    return 1 / (1 - again) if again < 1 else float("inf")


def _unfit(
    laws: Laws, cluster: Cluster, stages: Sequence[StageForecast], seconds: float
) -> Iterator[str]:
    """What the machines do not hold, or would not use."""
    for law, stage in zip(laws.stages, stages, strict=True):
        group = cluster.group_of(law.name)
        held, workers = group.memory_gb * GB, group.nodes * group.workers
        wide = law.kind == WIDE
        need = stage.memory * (group.workers if wide else 1)
        if need > held:
            who = f"{group.workers} workers of a node need" if wide else "its one process needs"
            yield (
                f"{law.name}: {who} {need / GB:,.0f} GB, "
                f"a node of {group.name} has {held / GB:,.0f}"
            )
        if wide and 0 < stage.shards < workers and stage.seconds > MATTERS * seconds:
            yield f"{law.name}: shards for {stage.shards} of {workers} workers only"


def _open(ranges: Mapping[str, tuple[float, float]], seconds: float) -> Iterator[str]:
    """What the logs do not tell. ranges: the least and the most seconds that they fit, by stage."""
    vague = [
        f"{name} ({long(least)} to {long(most)})"
        for name, (least, most) in sorted(ranges.items(), key=lambda each: -each[1][1])
        if most > OPEN * least and most > MATTERS * seconds
    ]
    if vague:
        yield (
            "the logs do not tell well what start, rows and shards take, each for itself, of "
            f"{', '.join(vague)}. Three logs tell: of a pool, of one with more rows in as many "
            "shards, of one with as many rows in more shards; the larger they are, the better"
        )


def _larger(laws: Laws, a_shard: float) -> Iterator[str]:
    """What shards larger than the calibration's may bring. a_shard: rows of the pool."""
    if a_shard <= LARGER * laws.rows_a_shard:
        return
    yield (
        f"shards have {a_shard:,.0f} rows, of the calibration {laws.rows_a_shard:,.0f}: what a "
        "worker holds of one may need more memory"
    )
    blind = [
        law.name
        for law in laws.stages
        if law.kind != STEPS and law.rows.row and not law.curve
        if not any(plane.row for plane in law.work.alike)
    ]
    if blind:
        yield (
            f"too short to be seen in the logs is what a row takes of {', '.join(blind)}: "
            "calibrate with larger shards"
        )


def _far(laws: Laws, rows: float) -> Iterator[str]:
    """How far from the benchmarks and the calibration this is."""
    grown = [
        f"{law.name} ({law.curve[-1][0]:,.0f} rows)"
        for law in laws.stages
        if law.curve and rows > FAR * law.curve[-1][0]
    ]
    if grown:
        yield f"far beyond the benchmarks of how they grow are {', '.join(grown)}"
    largest = laws.calibrated[-1]
    if rows > FAR * largest:
        yield (
            f"{rows / largest:,.0f} times the largest calibration ({largest:,} rows): tried up to "
            f"{FAR:g} times"
        )


def long(seconds: float) -> str:
    """As `duration`; from two days on in days."""
    return duration(seconds) if seconds < 48 * HOUR else f"{seconds / 24 / HOUR:,.1f} days"
