"""What the log of a run tells of each stage: `run.events=FILE` writes one."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.errors import SluiceError

POOL = "ingest pool"
WAY_OUT = "calibrate with a whole run in an empty store: --set run.events=FILE --store NEW"


@dataclass
class StageLog:
    """One stage of one run. seconds: of wall clock. work: of all its workers together.

    total: of its steps, where it has no shards. whole: its one shard is all rows together.
    later: (rows, seconds of a worker) of the shards that were not a worker's first, for which it
    loads libraries and networks; warm: whether there were such shards, else these are all. memory:
    the most that a worker held while it did a shard, in bytes; 0 where the log does not tell.
    """

    name: str
    seconds: float = 0.0
    total: int = 0
    whole: bool = False
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    work: float = 0.0
    workers: int = 1
    later: Sequence[tuple[int, float]] = ()
    warm: bool = False
    memory: int = 0


@dataclass(frozen=True)
class RunLog:
    """One run. rows: of the pool, by which all else is scaled. other: seconds of no stage."""

    path: str
    rows: int
    seconds: float
    stages: Mapping[str, StageLog] = field(repr=False)

    @property
    def other(self) -> float:
        return max(self.seconds - sum(stage.seconds for stage in self.stages.values()), 0.0)

    @property
    def shards(self) -> int:
        """Of the pool."""
        return self.stages[POOL].shards

    @property
    def rows_a_shard(self) -> float:
        """Of the pool."""
        return self.rows / self.shards

    @property
    def workers(self) -> int:
        return max(stage.workers for stage in self.stages.values())


def read_log(path: str) -> RunLog:
    """The last run of a log of events. SluiceError where it is none, or not of a whole run."""
    events = list(_events(path))
    begun = [place for place, event in enumerate(events) if event["event"] == "run_begin"]
    if not begun:
        raise SluiceError(f"{path} holds no run", WAY_OUT)
    events = events[begun[-1] :]
    if events[-1].get("state") != "completed":
        raise SluiceError(f"the run {events[0]['run']} in {path} did not complete", WAY_OUT)
    if any(event["event"] == "resumed" for event in events):
        raise SluiceError(f"the run {events[0]['run']} in {path} went on from another", WAY_OUT)
    stages = _stages(events)
    if POOL not in stages or not stages[POOL].rows:
        raise SluiceError(f"the run in {path} took in no pool", WAY_OUT)
    return RunLog(path, stages[POOL].rows, events[-1]["at"] - events[0]["at"], stages)


def _events(path: str) -> Iterator[Mapping[str, Any]]:
    try:
        with Path(path).open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    event = json.loads(line)
                    _ = event["event"], event["at"], event["run"]
                except (ValueError, TypeError, KeyError) as error:
                    raise SluiceError(
                        f"line {number} of {path} is no event of a run", WAY_OUT
                    ) from error
                yield event
    except (OSError, UnicodeDecodeError) as error:
        raise SluiceError(f"cannot read {path}: {error}", WAY_OUT) from error


def _stages(events: Sequence[Mapping[str, Any]]) -> dict[str, StageLog]:
    found: dict[str, StageLog] = {}
    shards: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        match event["event"]:
            case "stage_begin":
                found.setdefault(event["stage"], StageLog(event["stage"])).total += event["total"]
            case "shard":
                shards[event["stage"]].append(event)
            case "stage_end":
                found[event["stage"]].seconds += event["seconds"]
            case _:
                continue
    for name, done in shards.items():
        _count(found[name], done)
    return found


def _count(stage: StageLog, shards: Sequence[Mapping[str, Any]]) -> None:
    stage.shards = len(shards)
    stage.whole = len(shards) == 1 and not shards[0]["name"].isdecimal()  # shards are numbered
    stage.rows = sum(each["rows"] for each in shards)
    stage.bytes = sum(each["bytes"] for each in shards)
    stage.work = sum(each["seconds"] for each in shards)
    stage.memory = max(each.get("memory", 0) for each in shards)
    by_worker: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for each in sorted(shards, key=lambda each: each["begin"]):
        by_worker[each["worker"]].append(each)
    stage.workers = len(by_worker)
    later = [each for done in by_worker.values() for each in done[1:] if each["rows"]]
    stage.warm = bool(later)  # else a worker for each shard: what starting takes is not told apart
    counted = later or [each for each in shards if each["rows"]]
    stage.later = [(each["rows"], each["seconds"]) for each in counted]
