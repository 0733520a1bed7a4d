"""Where the driver of a training and its workers meet: jobs, how far they are, signs of life.

An actor of Ray, so that they need to share nothing but the store; nothing here imports Ray.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

from infra.progress import Pulse

LOOK = 0.2  # seconds between two looks at the desk
GREET = 5.0  # seconds between two signs that a worker is there


@dataclass(frozen=True)
class State:
    """How far a job is: `failure` is (what, way out); `worker` the process that is at it.

    silent: seconds since the last sign of any worker.
    """

    step: int = 0
    pulse: Pulse = field(default_factory=Pulse)
    done: bool = False
    failure: tuple[str, str] | None = None
    worker: int | None = None
    silent: float = field(default=0.0, compare=False)


class Desk:
    """Where the driver leaves jobs and the worker picks them up. Jobs are bytes here."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._current: tuple[str, bytes] | None = None
        self._states: dict[str, State] = {}
        self._closed = False
        self._heard = time.monotonic()

    async def submit(self, name: str, job: bytes) -> None:
        self._states[name] = State()
        self._waiting.append((name, job))

    async def take(self, worker: int) -> bytes | None:
        """The next job, first the one that a lost worker left; None: go home."""
        while self._current is None:
            if self._waiting:
                self._current = self._waiting.popleft()
            elif self._closed:
                return None
            else:
                await asyncio.sleep(LOOK)
        name, job = self._current
        self._states[name] = replace(self._states[name], worker=worker)
        return job

    async def tell(self, step: int, pulse: Pulse) -> bool:
        """Note how far the current job is; False: nobody waits for it any more."""
        assert self._current
        name = self._current[0]
        self._states[name] = replace(self._states[name], step=step, pulse=pulse)
        return not self._closed

    async def finish(self, failure: tuple[str, str] | None) -> None:
        """Note the end of the current job; of several workers the first word counts."""
        if self._current is None:
            return
        name = self._current[0]
        self._states[name] = replace(self._states[name], done=True, failure=failure)
        self._current = None

    async def greet(self) -> None:
        """A worker is there."""
        self._heard = time.monotonic()

    async def look(self, name: str) -> State:
        return replace(self._states[name], silent=time.monotonic() - self._heard)

    async def close(self) -> None:
        self._closed = True


@contextlib.contextmanager
def greeting(desk: Any) -> Generator[None]:
    """Meanwhile the desk hears that a worker is there, however long its steps take."""
    over = threading.Event()

    def greet() -> None:
        while not over.wait(GREET):
            desk.greet.remote()

    desk.greet.remote()
    thread = threading.Thread(target=greet, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
