"""Events of a run, made of what stages show: `Told` is a display that speaks to programs.

Every event has `event` (its kind, below), `at` (Unix seconds) and `run`:

    run_begin     target, store
    stage_begin   stage, total, unit
    resumed       stage, count: shards that an earlier run had done
    shard         stage, and what `infra.progress.Done` holds: name, rows, kept, dropped, bytes,
                  begin, seconds, cpu_seconds, worker, retries, memory, waiting, gpu_use, gpu_memory
    advance       stage, count, note: steps of what has no shards, such as training; of this also
                  waiting, gpu_use, gpu_memory (infra.progress.Pulse)
    said          text
    stage_end     stage, seconds
    run_end       state: "completed", "failed" or "cancelled"; error
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TextIO

from infra.progress import Done, Line, Pulse
from infra.secrets import redacted

ALERT = "alert: "  # begins what is said when somebody should look

Event = Mapping[str, Any]
Listener = Callable[[Event], object]


class Told:
    """A display whose words are events. A listener that fails is left out; the run goes on."""

    def __init__(self, run: str, listeners: Sequence[Listener]) -> None:
        self.run = run
        self._listeners = list(listeners)
        self._lock = threading.Lock()  # training shows its steps from a thread of its own

    def tell(self, kind: str, **facts: Any) -> None:
        told = {name: redacted(v) if isinstance(v, str) else v for name, v in facts.items()}
        event = {"event": kind, "at": round(time.time(), 3), "run": self.run, **told}
        with self._lock:
            for listener in list(self._listeners):
                try:
                    listener(event)
                except Exception as error:  # a full disk, a port that is gone
                    self._listeners.remove(listener)
                    name = getattr(listener, "name", type(listener).__name__)
                    print(f"no more {name}: {error}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        self.tell("said", text=text)

    def stage(self, name: str, total: int, unit: str = "shards") -> Line:
        self.tell("stage_begin", stage=name, total=total, unit=unit)
        return _ToldLine(self, name)

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            close = getattr(listener, "close", None)
            if close is not None:
                close()


class _ToldLine:
    def __init__(self, told: Told, name: str) -> None:
        self._told, self._name, self._begin = told, name, time.monotonic()

    def advance(
        self, steps: int = 1, note: str = "", done: Done | None = None, pulse: Pulse | None = None
    ) -> None:
        if done is not None:
            self._told.tell("shard", stage=self._name, **done.to_json())
        elif note == "resumed":
            self._told.tell("resumed", stage=self._name, count=steps)
        else:
            figures = asdict(pulse) if pulse else {}
            self._told.tell("advance", stage=self._name, count=steps, **{**figures, "note": note})

    def finish(self, note: str = "") -> None:
        seconds = round(time.monotonic() - self._begin, 3)
        self._told.tell("stage_end", stage=self._name, seconds=seconds, note=note)


class JsonLines:
    """Writes each event as one line of JSON, at once: a structured log."""

    name = "log of events"

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __call__(self, event: Event) -> None:
        self._file.write(json.dumps(event, ensure_ascii=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file not in (sys.stdout, sys.stderr):
            self._file.close()
