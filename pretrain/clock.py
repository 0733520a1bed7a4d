"""Where the seconds of a run go: waiting for data, or working."""

import json
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from infra import filesystem
from infra.filesystem import join

SPEED = "speed.json"  # in a run's folder, and no part of its content


@dataclass
class Spent:
    """What a run measured of itself. Seconds; peak is bytes of a GPU, 0 without one.

    first: the first step of this process, which compiles and fills the queues, and is no part of
    the rest.
    """

    steps: int = 0
    waited: float = 0.0
    stepped: float = 0.0
    first: float = 0.0
    peak: int = 0

    def words(self, batch: int) -> str:
        total = self.waited + self.stepped
        if not self.steps or not total:
            return "too few steps to tell"
        rate = self.steps * batch / total
        return f"{rate:.0f} images a second, {self.waited / total:.0%} of the time waiting for data"

    def save(self, url: str) -> None:
        filesystem.write_bytes(url, SPEED, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, url: str) -> "Spent | None":
        """What the run at `url` measured; None where it did not."""
        path = join(url, SPEED)
        return cls(**filesystem.read_json(path)) if filesystem.exists(path) else None


class Clock:
    """How long steps wait for data and how long they work, on the device's own clock.

    A GPU is given its work ahead, so there it counts how long it stood idle between two steps:
    from the end of one to the start of the next, by its own events, without a halt.
    Call `got` when the data of a step is there, `done` at its end, `read` where the device has
    been waited for anyhow (a loss was read).
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._marks: list[tuple[Any, Any, Any]] = []  # end of the last step, start, end
        self._end: Any = self._mark()
        self._start: Any = None
        self.spent = Spent()

    def _mark(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def got(self) -> None:
        self._start = self._mark()

    def skip(self) -> None:
        """After what was done since `done` and is neither waiting nor a step."""
        self._end = self._mark()

    def done(self) -> None:
        end = self._mark()
        self._marks.append((self._end, self._start, end))
        self._end = end

    def read(self) -> tuple[float, float]:
        """Seconds waited and worked since the last call; adds them to `spent`."""
        if self._gpu:
            torch.cuda.synchronize()
            self.spent.peak = torch.cuda.max_memory_allocated()
        waited = stepped = 0.0
        for before, start, end in self._marks:
            wait, work = self._between(before, start), self._between(start, end)
            if not self.spent.first:
                self.spent.first = wait + work
                continue
            waited, stepped = waited + wait, stepped + work
            self.spent.steps += 1
        self._marks.clear()
        self.spent.waited += waited
        self.spent.stepped += stepped
        return waited, stepped

    def _between(self, start: Any, end: Any) -> float:
        seconds = start.elapsed_time(end) / 1e3 if self._gpu else end - start
        return seconds if math.isfinite(seconds) else 0.0
