"""The runner: a function over many items, on this process, on processes, or on Ray (ray_runner).

`Runner.map` keeps a bounded window of work in flight, retries what a lost worker was doing,
gives up on an item after its deadline, and yields (index, result) as items finish. What the
function raises is final; a lost process or a time-out is tried again.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from infra.errors import SluiceError

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 2
DEADLINE = 3600.0  # seconds one item may take
WINDOW = 2  # items in flight for each worker


class Runner(Protocol):
    """Where work runs. Use as a context manager: leaving it stops the workers."""

    @property
    def workers(self) -> int: ...

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retries: int = RETRIES,
        deadline: float = DEADLINE,
        gpu: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        """gpu: the function uses a GPU where there is one; the workers share them all."""
        ...

    def rest(self) -> None:
        """Leave processors and GPUs to what is started beside the runner next: a training."""
        ...

    def __enter__(self) -> "Runner": ...
    def __exit__(self, *_: object) -> None: ...


class LostError(SluiceError):
    """An item whose workers died, or took too long, once more than is allowed."""

    def __init__(self, index: int, losses: int, why: str) -> None:
        super().__init__(
            f"item {index} was lost {losses} times: {why}",
            "look for memory shortage or a crash in the worker's log above, lower run.workers, "
            "and run the same command again: finished shards are kept",
        )
        self.index = index
        self.losses = losses
        self.why = why


DIED = "its process died"


def overdue(deadline: float) -> str:
    return f"it took longer than {deadline:g} s"


class InlineRunner:
    """One item after the other in this process: for tests and debuggers."""

    workers = 1

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retries: int = RETRIES,
        deadline: float = DEADLINE,
        gpu: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        for index, item in enumerate(items):
            yield index, function(item)

    def rest(self) -> None:
        return None

    def __enter__(self) -> "InlineRunner":
        return self

    def __exit__(self, *_: object) -> None:
        return None


_own = 1  # processors


def own_processors() -> int:
    """How many processors this process has for itself, beside those of other workers."""
    return _own


@contextlib.contextmanager
def lent(workers: int) -> Generator[None]:
    """For a while this process has the processors of so many workers: the others are idle.

    Never more than there are on this machine; the other workers may be on others.
    """
    global _own
    before, _own = _own, max(min(_own * workers, processors()), 1)
    try:
        yield
    finally:
        _own = before


def limit_threads(own: int = 1) -> None:
    """One thread for arithmetic: workers are the parallelism, and sums keep their order.

    own: the processors of this worker; threads that read and decode may take what is left.
    """
    global _own
    _own = own
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _become_worker(own: int) -> None:
    """Set up a worker process: one thread, no life beyond its parent's, deaf to Ctrl-C."""
    limit_threads(own)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it, and stops us
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A parent that was killed says no farewell, and an orphan would wait for work for ever.
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


class Queue:
    """The items still to do, and how often each was lost.

    Items that were in flight together when a process died go one at a time from then on: only
    so is it known which one did it, and none is blamed for another.
    """

    def __init__(self, count: int, retries: int) -> None:
        self._waiting = deque(range(count))
        self._suspects: deque[int] = deque()
        self._losses: Counter[tuple[int, str]] = Counter()
        self._retries = retries
        self.alone = False  # whether the item last taken must have the workers for itself

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def take(self, in_flight: int, room: int) -> int | None:
        """The next item that may start beside `in_flight` others; None for "not now"."""
        if in_flight and (self.alone or self._suspects):
            return None
        self.alone = bool(self._suspects)
        if self._suspects:
            return self._suspects.popleft()
        return self._waiting.popleft() if self._waiting and in_flight < room else None

    def put_back(self, indexes: Iterable[int]) -> None:
        self._waiting.extendleft(sorted(indexes, reverse=True))

    def blame(self, indexes: Iterable[int], why: str, retries: int | None = None) -> None:
        """Count a loss of each; LostError for one that is out of tries.

        retries: how many for this reason, where it has a number of its own.
        """
        allowed = self._retries if retries is None else retries
        for index in indexes:
            self._losses[index, why] += 1
            if self._losses[index, why] > allowed:
                raise LostError(index, self._losses[index, why], why)

    def suspect(self, indexes: Iterable[int]) -> None:
        self._suspects.extend(indexes)


class LocalRunner:
    """Processes on this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers,
                multiprocessing.get_context("spawn"),
                initializer=_become_worker,
                initargs=(max(processors() // self.workers, 1),),
            )
        return self._pool

    def _discard(self) -> None:
        """Kill the workers: a hung one answers no polite request."""
        if self._pool is not None:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retries: int = RETRIES,
        deadline: float = DEADLINE,
        gpu: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        queue = Queue(len(items), retries)
        running: dict[Future[Any], tuple[int, float]] = {}
        try:
            yield from self._results(function, items, queue, running, deadline)
        finally:
            if running:  # an item failed: what ran beside it must not write behind our back
                self._discard()

    def _results(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        queue: Queue,
        running: dict[Future[Any], tuple[int, float]],
        deadline: float,
    ) -> Iterator[tuple[int, Result]]:
        ended: SimpleQueue[Future[Any]] = SimpleQueue()
        while queue or running:
            failure = None
            try:
                self._submit(function, items, queue, running, ended)
            except BrokenProcessPool:  # a worker died while it had nothing to do
                failure = DIED
            stranded = []
            for future in _taken(ended, timeout=1.0 if running else 0.0):
                if future not in running:  # it was given up before
                    continue
                index, _ = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    failure = DIED
                    stranded.append(index)
                else:
                    yield index, result
            # Among others an item may first wait for one of them: twice the time is its share.
            patience = deadline if queue.alone else WINDOW * deadline
            if any(time.monotonic() - start > patience for _, start in running.values()):
                failure = overdue(deadline)
            if failure:
                self._discard()
                stranded += [index for index, _ in running.values()]
                running.clear()
                queue.blame(sorted(stranded), failure)
                queue.suspect(sorted(stranded))

    def _submit(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        queue: Queue,
        running: dict[Future[Any], tuple[int, float]],
        ended: "SimpleQueue[Future[Any]]",
    ) -> None:
        while (index := queue.take(len(running), WINDOW * self.workers)) is not None:
            try:
                future = self._executor().submit(function, items[index])
            except BrokenProcessPool:
                queue.put_back([index])
                raise
            running[future] = (index, time.monotonic())
            future.add_done_callback(ended.put)

    def rest(self) -> None:
        return None  # idle processes take nothing but memory

    def __enter__(self) -> "LocalRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()


def _taken(ended: "SimpleQueue[Future[Any]]", timeout: float) -> list[Future[Any]]:
    """Those that have ended, once one has or after `timeout` seconds.

    Not by `concurrent.futures.wait`: a Ctrl-C that falls between the locks it takes leaves one
    locked, and the pool then never ends.
    """
    taken: list[Future[Any]] = []
    with contextlib.suppress(Empty):
        taken.append(ended.get(timeout=timeout))
        while True:
            taken.append(ended.get_nowait())
    return taken


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_runner(executor: str, workers: int, address: str = "local") -> Runner:
    """ "inline", "local" or "ray"; 0 workers means one per processor, of a cluster all of them."""
    count = workers or processors()
    if executor == "inline":
        return InlineRunner()
    if executor == "local":
        return LocalRunner(count)
    if executor == "ray":
        from infra.ray_runner import RayRunner

        return RayRunner(count if address == "local" else workers, address)
    raise SluiceError(f"unknown executor {executor!r}", "use inline, local or ray")
