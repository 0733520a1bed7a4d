"""Progress for people: one line per stage, with shards done, rate and remaining time.

On a terminal the lines are drawn in place by rich; elsewhere each stage prints a plain line
when it starts, at most every five seconds, and when it ends.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_INTERVAL = 5.0  # seconds between two plain lines of one stage


@dataclass(frozen=True)
class Done:
    """What came of one shard: `rows` = `kept` + the sum over `dropped`.

    bytes: of the files it left. begin: Unix seconds. worker: host and process. retries: of requests
    to remote stores. memory: the most bytes that the worker held meanwhile; 0: unknown. waiting,
    gpu_use, gpu_memory: see `infra.feeding.Fed`.
    """

    name: str
    rows: int
    kept: int
    dropped: Mapping[str, int]
    bytes: int
    begin: float
    seconds: float
    cpu_seconds: float
    worker: str
    retries: int = 0
    memory: int = 0
    waiting: float = 0.0
    gpu_use: float = 0.0
    gpu_memory: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Pulse:
    """How a training is, in words and figures.

    waiting: the share of its time that it lately waited for data. gpu_use: that a GPU worked,
    gpu_memory: the most bytes of one that it held; 0 without one.
    """

    note: str = ""
    waiting: float = 0.0
    gpu_use: float = 0.0
    gpu_memory: int = 0


class Line(Protocol):
    """The line of one stage. done: the shard whose end this is, where there are shards; pulse: of
    a training.
    """

    def advance(
        self, steps: int = 1, note: str = "", done: Done | None = None, pulse: Pulse | None = None
    ) -> None: ...
    def finish(self, note: str = "") -> None: ...


class Display(Protocol):
    """Where stages show how far they are."""

    def stage(self, name: str, total: int, unit: str = "shards") -> Line: ...
    def say(self, text: str) -> None: ...
    def __enter__(self) -> "Display": ...
    def __exit__(self, *_: object) -> None: ...


def duration(seconds: float) -> str:
    """7 -> "7 s", 75 -> "1 min 15 s", 7300 -> "2 h 2 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """Bytes for people."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:,.0f} {unit}"


class Pace:
    """Steps a second, counted from the first: what came before it was getting ready.

    What an earlier run had done comes as one advance too, before the first step.
    """

    READY = 2  # advances that only move the start

    def __init__(self) -> None:
        self.done = 0
        self._advances = 0
        self._start = (time.monotonic(), 0)

    def advance(self, steps: int) -> float | None:
        """The pace after `steps` more; None as long as there is none."""
        self.done += steps
        self._advances += 1
        now = time.monotonic()
        if self._advances <= self.READY:
            self._start = now, self.done
            return None
        start, done = self._start
        return (self.done - done) / max(now - start, 1e-3)


class PlainLine:
    def __init__(self, display: "PlainDisplay", name: str, total: int, unit: str) -> None:
        self._display, self._name, self._total, self._unit = display, name, total, unit
        self._pace = Pace()
        self._start = self._last = time.monotonic()

    def advance(
        self, steps: int = 1, note: str = "", done: Done | None = None, pulse: Pulse | None = None
    ) -> None:
        rate = self._pace.advance(steps)
        now, passed = time.monotonic(), self._pace.done
        if now - self._last < PLAIN_INTERVAL or passed >= self._total:
            return
        self._last = now
        words = [f"{self._name}: {passed}/{self._total} {self._unit}"]
        if rate:
            words += [f"{rate:.1f}/s", f"{duration((self._total - passed) / rate)} left"]
        self._display.say(", ".join([*words, note] if note else words))

    def finish(self, note: str = "") -> None:
        took = duration(time.monotonic() - self._start)
        self._display.say(
            f"{self._name}: {self._total} {self._unit} in {took}{', ' + note if note else ''}"
        )


class PlainDisplay:
    """Plain lines, for logs and pipes."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self._write = write

    def say(self, text: str) -> None:
        if self._write:
            self._write(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def stage(self, name: str, total: int, unit: str = "shards") -> Line:
        self.say(f"{name}: {total} {unit} to do")
        return PlainLine(self, name, total, unit)

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return None


class SilentDisplay(PlainDisplay):
    """Nothing at all, for tests and notebooks."""

    def say(self, text: str) -> None:
        return None


class RichLine:
    def __init__(self, progress: Progress, task: TaskID, total: int) -> None:
        self._progress, self._task, self._total = progress, task, total
        self._pace = Pace()

    def advance(
        self, steps: int = 1, note: str = "", done: Done | None = None, pulse: Pulse | None = None
    ) -> None:
        rate = self._pace.advance(steps)
        text = f"{rate:.1f}/s {note}" if rate else note
        self._progress.update(self._task, advance=steps, note=text)

    def finish(self, note: str = "") -> None:
        self._progress.update(self._task, completed=self._total, note=note)
        self._progress.stop_task(self._task)


class RichDisplay:
    """Lines drawn in place on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=console,
        )

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def stage(self, name: str, total: int, unit: str = "shards") -> Line:
        task = self._progress.add_task(name, total=total, unit=unit, note="")
        return RichLine(self._progress, task, total)

    def __enter__(self) -> "RichDisplay":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class Several:
    """Several displays that are told the same."""

    def __init__(self, displays: Sequence[Display]) -> None:
        self._displays = list(displays)
        self._entered = ExitStack()

    def say(self, text: str) -> None:
        for each in self._displays:
            each.say(text)

    def stage(self, name: str, total: int, unit: str = "shards") -> Line:
        return SeveralLines([each.stage(name, total, unit) for each in self._displays])

    def __enter__(self) -> "Several":
        for each in self._displays:
            self._entered.enter_context(each)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._entered.__exit__(*raised)


class SeveralLines:
    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def advance(
        self, steps: int = 1, note: str = "", done: Done | None = None, pulse: Pulse | None = None
    ) -> None:
        for line in self._lines:
            line.advance(steps, note, done, pulse)

    def finish(self, note: str = "") -> None:
        for line in self._lines:
            line.finish(note)


def display() -> Display:
    """Lines in place where standard error is a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    return RichDisplay(console) if console.is_terminal else PlainDisplay()
