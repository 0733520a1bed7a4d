"""How a run stands, folded from its events: what its page shows."""

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.telemetry.events import ALERT

RUNNING, COMPLETED, FAILED, CANCELLED = "running", "completed", "failed", "cancelled"
SLOW = 5.0  # a shard that takes so many times the median of its stage
QUIET = 10.0  # medians without an end: then a stage is said to hang
QUIET_LEAST = 120.0  # seconds, where shards are quick
STARVED = 0.5  # of its time that a GPU waits; then it is said to starve
SMOOTH = 20  # shards
KEPT = 200  # seconds of the last shards, and lines of what was said, that are remembered


@dataclass
class StageState:
    """One stage: counts of shards (or steps), of rows by outcome, and its pace.

    starving: the share of its time that a GPU waits for data, lately; 0 without one.
    """

    name: str
    total: int
    unit: str
    begin: float
    done: int = 0
    resumed: int = 0
    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter[str])
    bytes: int = 0
    cpu_seconds: float = 0.0
    work_seconds: float = 0.0  # of all workers together
    retries: int = 0
    starving: float = 0.0
    workers: set[str] = field(default_factory=set[str])
    recent: deque[float] = field(default_factory=lambda: deque[float](maxlen=KEPT))
    note: str = ""
    last: float = 0.0  # Unix seconds of the last sign of progress
    end: float | None = None

    @property
    def share(self) -> float:
        return 1.0 if self.end is not None else self.done / self.total if self.total else 0.0

    @property
    def dropped(self) -> int:
        return self.rows - self.outcomes["kept"]

    def rate(self, now: float) -> float:
        """Shards or steps a second, of those done in this run."""
        seconds = (self.end or now) - self.begin
        return (self.done - self.resumed) / seconds if seconds > 0 else 0.0

    def left(self, now: float) -> float | None:
        """Seconds to the end at this pace; None where nobody can tell."""
        rate = self.rate(now)
        return (self.total - self.done) / rate if rate and self.end is None else None

    def median(self) -> float | None:
        ordered = sorted(self.recent)
        return ordered[len(ordered) // 2] if ordered else None

    def quiet_for(self, now: float) -> float | None:
        """Seconds since its last progress, where that is too long; else None."""
        if self.end is not None:
            return None
        silent = now - max(self.last, self.begin)
        return silent if silent > max(QUIET * (self.median() or 0.0), QUIET_LEAST) else None


@dataclass
class RunState:
    """A run: its stages in the order they began. `apply` takes its events."""

    run: str = ""
    target: str = ""
    store: str = ""
    state: str = RUNNING
    error: str = ""
    begin: float = 0.0
    at: float = 0.0  # of the last event
    end: float | None = None
    stages: dict[str, StageState] = field(default_factory=dict[str, StageState])
    said: deque[tuple[float, str]] = field(
        default_factory=lambda: deque[tuple[float, str]](maxlen=KEPT)
    )

    name = "page"

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.at = event["at"]
        match event["event"]:
            case "run_begin":
                self.run, self.begin = event["run"], event["at"]
                self.target, self.store = event["target"], event["store"]
            case "stage_begin":
                begun = StageState(event["stage"], event["total"], event["unit"], event["at"])
                self.stages[begun.name] = begun
            case "resumed":
                self.stages[event["stage"]].done += event["count"]
                self.stages[event["stage"]].resumed += event["count"]
            case "shard":
                _shard(self.stages[event["stage"]], event)
            case "advance":
                stage = self.stages[event["stage"]]
                stage.done, stage.last = stage.done + event["count"], event["at"]
                stage.note = event["note"]
                if event.get("gpu_memory"):
                    stage.starving = event["waiting"]
            case "stage_end":
                stage = self.stages[event["stage"]]
                stage.end, stage.note = event["at"], event["note"]
            case "said":
                self.said.append((event["at"], event["text"]))
            case "run_end":
                self.state, self.end = event["state"], event["at"]
                self.error = event.get("error") or ""
            case _:
                return

    def seconds(self, now: float | None = None) -> float:
        return (self.end or now or time.time()) - self.begin

    def cost(self, per_hour: float, now: float | None = None) -> float:
        """What the run has cost at so much an hour for all its machines, until now or its end."""
        return self.seconds(now) / 3600 * per_hour

    def worries(self, now: float | None = None) -> list[str]:
        """What somebody should look at; [] for a healthy run."""
        now = now or time.time()
        found = [text for _, text in self.said if text.startswith(ALERT)]
        found += [f"failed: {self.error}"] if self.state == FAILED else []
        if self.state != RUNNING:
            return found
        for stage in self.stages.values():
            if (silent := stage.quiet_for(now)) is not None:
                found.append(f"{stage.name}: nothing has ended for {silent / 60:.0f} minutes")
            median = stage.median()
            if median and stage.recent[-1] > SLOW * median and stage.recent[-1] > 1:
                found.append(
                    f"{stage.name}: the last shard took {stage.recent[-1]:.0f} s, "
                    f"usually {median:.0f} s"
                )
            if stage.end is None and stage.starving > STARVED:
                found.append(
                    f"{stage.name}: its GPU waits for data {stage.starving:.0%} of the time; "
                    "give it more processors, or a faster store"
                )
        return found


def _shard(stage: StageState, event: Mapping[str, Any]) -> None:
    stage.done += 1
    stage.rows += event["rows"]
    stage.outcomes["kept"] += event["kept"]
    stage.outcomes.update(event["dropped"])
    stage.bytes += event["bytes"]
    stage.cpu_seconds += event["cpu_seconds"]
    stage.work_seconds += event["seconds"]
    stage.workers.add(event["worker"])
    stage.retries += event["retries"]
    if event.get("gpu_memory"):  # of the first shard of a worker half is loading: a running mean
        stage.starving += (event["waiting"] - stage.starving) / min(stage.done, SMOOTH)
    stage.recent.append(event["seconds"])
    stage.last = event["at"]
