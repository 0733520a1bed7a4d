"""Laws on a cluster: how long each stage takes, what bounds it, what it costs, what does not fit.

    seconds of a stage = fixed + the longest of    work / workers          "workers"
                                                   shards x the driver's   "driver"
                                                   bytes / the store's     "store"
                                                   one process's work      "one process"

A node that a spot market takes loses half a shard of each of its workers, and what they need to
start. Stages come one after the other, as runs do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from flows.simulate.cluster import Cluster, Group
from flows.simulate.laws import STEPS, WHOLE, WIDE, Law, Laws, part_bytes

HOUR = 3600.0
GB = 1e9
FAR = 100.0  # times the largest calibration: beyond, the forecast says so


@dataclass(frozen=True)
class StageForecast:
    """One stage. worker_hours: of all its workers together. memory: of one, bytes."""

    name: str
    group: str
    rows: float
    shards: int
    seconds: float
    bound: str
    worker_hours: float
    memory: float
    bytes: float
    cost: float


@dataclass(frozen=True)
class Forecast:
    """A whole run. rows: of the pool. driver_memory: bytes. notes: what to look at."""

    rows: float
    stages: Sequence[StageForecast]
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

    rows_a_shard: of the pool; None: as in the calibration.
    """
    larger = rows_a_shard / laws.rows_a_shard if rows_a_shard else 1.0
    stages = [_stage(law, cluster, rows, larger) for law in laws.stages]
    other = laws.other(rows)
    seconds = other + sum(stage.seconds for stage in stages)
    hourly = sum(group.nodes * group.price for group in cluster.groups)
    if cluster.autoscaling:
        cost = sum(stage.cost for stage in stages)
        cost += other / HOUR * min(group.nodes * group.price for group in cluster.groups)
    else:
        cost = seconds / HOUR * hourly
    besides, part = part_bytes()
    driver = besides + part * max((stage.shards for stage in stages), default=0)
    notes = [*_notes(laws, cluster, stages, rows)]
    if larger > 2:
        notes.append(
            f"the calibration had shards of {laws.rows_a_shard:,.0f} rows: stages of one process, "
            "which open each shard, take less with larger ones"
        )
    return Forecast(rows, stages, seconds, cost, driver, notes)


def _stage(law: Law, cluster: Cluster, pool: float, larger: float) -> StageForecast:
    """larger: how many times the calibration's rows are in a shard."""
    group = cluster.group_of(law.name)
    rows = law.rows(pool)
    shards = ceil(rows / (law.rows_a_shard * larger)) if law.rows_a_shard else 0
    own = group.own_rate(law.name)
    work = (rows * own) if own is not None else law.seconds(rows) / group.speed
    bytes_ = rows * law.bytes
    if law.kind == WIDE:
        workers = min(group.nodes * group.workers, max(shards, 1))
        bounds = {"workers": work * _lost(law, group, work / max(shards, 1)) / workers}
        bounds["driver"] = shards * cluster.driver_ms / 1000
    else:
        bounds = {"one process" if law.kind == WHOLE else "training": work}
    if cluster.store_gb_per_second:
        bounds["store"] = bytes_ / (cluster.store_gb_per_second * GB)
    bound = max(bounds, key=lambda name: bounds[name])
    seconds = law.fixed + bounds[bound]
    return StageForecast(
        law.name, group.name, 0.0 if law.kind == STEPS else rows, shards, seconds, bound,
        work / HOUR, law.memory(rows), bytes_, seconds / HOUR * group.nodes * group.price,
    )  # fmt: skip


def _lost(law: Law, group: Group, shard: float) -> float:
    """How much more is worked where nodes go away. shard: seconds."""
    again = group.lost_per_hour / HOUR * (shard / 2 + law.fixed)
    return 1 / (1 - again) if again < 1 else float("inf")


def _notes(
    laws: Laws, cluster: Cluster, stages: Sequence[StageForecast], rows: float
) -> Iterator[str]:
    for law, stage in zip(laws.stages, stages, strict=True):
        group = cluster.group_of(law.name)
        held = group.memory_gb * GB
        wide = law.kind == WIDE
        need = stage.memory * (group.workers if wide else 1)
        if need > held:
            who = f"{group.workers} workers of a node" if wide else "its one process"
            yield (
                f"{law.name}: {who} need {need / GB:,.0f} GB, "
                f"a node of {group.name} has {held / GB:,.0f}"
            )
        if wide and 0 < stage.shards < group.nodes * group.workers:
            yield (
                f"{law.name}: {stage.shards} shards keep only as many of "
                f"{group.nodes * group.workers} workers busy"
            )
    if len(laws.calibrated) == 1 and any(law.kind == WHOLE for law in laws.stages):
        yield "one calibration: what stages of one process take to start is counted for every row"
    largest = laws.calibrated[-1]
    if rows > FAR * largest:
        yield (
            f"{rows / largest:,.0f} times the largest calibration ({largest:,} rows): tried up to "
            f"{FAR:g} times"
        )
