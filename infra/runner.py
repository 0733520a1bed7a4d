"""The runner: a function over many items, on this process, on processes, or on Ray.

`Runner.map` keeps a bounded window of work in flight, retries what a lost worker was doing,
gives up on an item after its deadline, and yields (index, result) as items finish. A
`SluiceError` from the function is final; a lost process or a time-out is tried again.
"""

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol, TypeVar

from infra.errors import SluiceError

Item = TypeVar("Item")
Result = TypeVar("Result")

RETRIES = 2
DEADLINE = 3600.0  # seconds one item may take
WINDOW = 2  # items in flight for each worker


class Runner(Protocol):
    """Where work runs. Use as a context manager: leaving it stops the workers."""

    workers: int

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retries: int = RETRIES,
        deadline: float = DEADLINE,
    ) -> Iterator[tuple[int, Result]]: ...
    def __enter__(self) -> "Runner": ...
    def __exit__(self, *_: object) -> None: ...


def lost(index: int, tries: int, why: str) -> SluiceError:
    return SluiceError(
        f"item {index} was lost {tries} times: {why}",
        "look for memory shortage or a crash in the worker's log above, lower run.workers, "
        "and run the same command again: finished shards are kept",
    )


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
    ) -> Iterator[tuple[int, Result]]:
        for index, item in enumerate(items):
            yield index, function(item)

    def __enter__(self) -> "InlineRunner":
        return self

    def __exit__(self, *_: object) -> None:
        return None


def limit_threads() -> None:
    """One thread per worker: workers are the parallelism, and sums keep their order."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if "torch" in __import__("sys").modules:
        import torch

        torch.set_num_threads(1)


class LocalRunner:
    """Processes on this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def _executor(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), initializer=limit_threads
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
    ) -> Iterator[tuple[int, Result]]:
        waiting = deque(range(len(items)))
        tries = dict.fromkeys(waiting, 0)
        running: dict[Future[Any], tuple[int, float]] = {}
        while waiting or running:
            while waiting and len(running) < WINDOW * self.workers:
                index = waiting.popleft()
                tries[index] += 1
                future = self._executor().submit(function, items[index])
                running[future] = (index, time.monotonic())
            done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            failure = None
            for future in done:
                index, _ = running.pop(future)
                try:
                    yield index, future.result()
                except BrokenProcessPool:
                    failure = "its process died"
                    waiting.appendleft(index)
            # A queued item also ages; twice the deadline covers its wait behind another.
            if any(time.monotonic() - start > WINDOW * deadline for _, start in running.values()):
                failure = f"it took longer than {deadline:.0f} s"
            if failure:
                self._discard()
                waiting.extendleft(index for index, _ in running.values())
                running.clear()
                for index in waiting:
                    if tries[index] > retries:
                        raise lost(index, tries[index], failure)

    def __enter__(self) -> "LocalRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()


class RayRunner:
    """One Ray actor per worker, kept for the whole run so that imports and models stay loaded.

    `address` is "local" for a Ray of our own on this machine, or a cluster's address.
    """

    def __init__(self, workers: int, address: str = "local") -> None:
        self.workers = workers
        self.address = address
        self._actors: list[Any] = []

    def _start(self) -> None:
        start_ray(self.workers, self.address)
        while len(self._actors) < self.workers:
            self._actors.append(self._spawn())

    def _spawn(self) -> Any:
        import ray

        return ray.remote(_Worker).options(num_cpus=1).remote()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retries: int = RETRIES,
        deadline: float = DEADLINE,
    ) -> Iterator[tuple[int, Result]]:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        self._start()
        shared = ray.put(function)
        waiting = deque(range(len(items)))
        tries = dict.fromkeys(waiting, 0)
        load = [0] * self.workers
        running: dict[Any, tuple[int, int, float]] = {}
        while waiting or running:
            while waiting and min(load) < WINDOW:
                worker = load.index(min(load))
                index = waiting.popleft()
                tries[index] += 1
                load[worker] += 1
                reference = self._actors[worker].run.remote(shared, items[index])
                running[reference] = (index, worker, time.monotonic())
            done, _ = ray.wait(list(running), timeout=1.0)
            broken: dict[int, str] = {}
            for reference in done:
                index, worker, _ = running.pop(reference)
                load[worker] -= 1
                try:
                    yield index, ray.get(reference)
                except RayTaskError as error:
                    raise error.cause or error from None
                except RayActorError:
                    broken[worker] = "its actor died"
                    waiting.appendleft(index)
            for _, worker, start in running.values():
                if time.monotonic() - start > WINDOW * deadline:
                    broken[worker] = f"it took longer than {deadline:.0f} s"
            for worker, why in broken.items():
                ray.kill(self._actors[worker])
                self._actors[worker] = self._spawn()
                load[worker] = 0
                stranded = [ref for ref, entry in running.items() if entry[1] == worker]
                waiting.extendleft(running.pop(reference)[0] for reference in stranded)
                for index in waiting:
                    if tries[index] > retries:
                        raise lost(index, tries[index], why)

    def release(self) -> None:
        """Give the actors' processors back, so that another Ray user can have them."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def __enter__(self) -> "RayRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._actors = []
        stop_ray(self.address)


class _Worker:
    """The body of an actor."""

    def __init__(self) -> None:
        limit_threads()

    def run(self, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)


def start_ray(processors: int, address: str = "local") -> None:
    """Connect to Ray once per process; "local" starts one that ends with this process."""
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS", "0")
    local: dict[str, Any] = (
        {"num_cpus": max(processors, 1), "include_dashboard": False, "object_store_memory": 2**28}
        if address == "local"
        else {}
    )
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)


def stop_ray(address: str) -> None:
    import sys

    if "ray" in sys.modules and address == "local":
        sys.modules["ray"].shutdown()


def make_runner(executor: str, workers: int, address: str = "local") -> Runner:
    """ "inline", "local" or "ray"; 0 workers means one per processor."""
    count = workers or os.cpu_count() or 1
    if executor == "inline":
        return InlineRunner()
    if executor == "local":
        return LocalRunner(count)
    if executor == "ray":
        return RayRunner(count, address)
    raise SluiceError(f"unknown executor {executor!r}", "use inline, local or ray")


def results_in_order(results: Iterable[tuple[int, Result]], count: int) -> list[Result]:
    """The results of `map`, in the order of its items."""
    slots: list[Any] = [None] * count
    for index, result in results:
        slots[index] = result
    return slots
