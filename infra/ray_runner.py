"""The runner's Ray executor: actors that stay for the whole run. And where Ray starts and stops."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from infra.errors import SluiceError
from infra.runner import (
    DEADLINE,
    DIED,
    RETRIES,
    WINDOW,
    Item,
    Queue,
    Result,
    limit_threads,
    overdue,
    processors,
)

START = 300.0  # seconds Ray may take to start workers
STARTS = 3  # tries for a local Ray: it gives itself 30 s, not enough on a busy machine
SPARE = 2  # Ray's processor slots beyond the workers': for training while the workers idle


class RayRunner:
    """One Ray actor per worker, kept for the whole run so that imports and models stay loaded.

    `address` is "local" for a Ray of our own on this machine, or a cluster's address.
    """

    def __init__(self, workers: int, address: str = "local") -> None:
        self.workers = workers
        self.address = address
        self._actors: list[Any] = []
        self._share = 0.0  # of a GPU that each actor holds

    def _start(self, gpu: bool) -> None:
        """See that there are actors, with their share of all GPUs if they are to use them.

        Ray hides GPUs from who asked for none. Actors that hold some go home when the next work
        needs none: training wants them whole.
        """
        import ray

        start_ray(self.workers, self.address)
        gpus = float(ray.cluster_resources().get("GPU", 0)) if gpu else 0.0
        share = shared_gpu(gpus, self.workers)
        if self._actors and share != self._share:
            self._stop()
        self._share = share
        if not self._actors:
            self._actors = self._spawn(self.workers)

    def _spawn(self, count: int) -> list[Any]:
        """Actors that have answered: an item's time must not count that of their start."""
        import ray
        from ray.exceptions import GetTimeoutError

        remote: Any = ray.remote(_Worker)
        options = remote.options(num_cpus=1, num_gpus=self._share)
        actors = [options.remote(self._own_processors()) for _ in range(count)]
        try:
            ray.get([actor.greet.remote() for actor in actors], timeout=START)
        except GetTimeoutError as error:
            raise SluiceError(
                f"{count} workers did not start on Ray at {self.address!r} within {START:g} s",
                f"lower run.workers, or see that Ray has {self.workers} processors to spare",
            ) from error
        return actors

    def _own_processors(self) -> int:
        """Of each worker: the actor asks Ray for one, and its threads take what nobody else has."""
        import ray

        local = self.address == "local"
        there = processors() if local else int(ray.cluster_resources().get("CPU", 0))
        return max(there // self.workers, 1)

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retries: int = RETRIES,
        deadline: float = DEADLINE,
        gpu: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        self._start(gpu)
        queue = Queue(len(items), retries)
        running: dict[Any, tuple[int, int, float]] = {}  # in the order they were sent
        try:
            yield from self._results(function, items, queue, running, deadline)
        finally:
            if running:  # an item failed: what ran beside it must not write behind our back
                self._stop()

    def _results(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        queue: Queue,
        running: dict[Any, tuple[int, int, float]],
        deadline: float,
    ) -> Iterator[tuple[int, Result]]:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        shared = ray.put(function)
        load = [0] * self.workers
        while queue or running:
            while (index := queue.take(len(running), WINDOW * self.workers)) is not None:
                worker = load.index(min(load))
                load[worker] += 1
                reference = self._actors[worker].run.remote(shared, items[index])
                running[reference] = (index, worker, time.monotonic())
            broken: dict[int, str] = {}
            for reference in self._finished(running):
                index, worker, _ = running[reference]
                try:
                    result: Any = ray.get(reference)
                except RayTaskError as error:
                    raise error.cause or error from None
                except (RayActorError, OutOfMemoryError):
                    broken[worker] = DIED
                    continue
                del running[reference]
                load[worker] -= 1
                yield index, result
            for _, worker, start in running.values():
                if time.monotonic() - start > WINDOW * deadline:
                    broken[worker] = overdue(deadline)
            for worker, why in broken.items():
                self._replace(worker)
                load[worker] = 0
                mine = [reference for reference, entry in running.items() if entry[1] == worker]
                culprit, *behind = [running.pop(reference)[0] for reference in mine]
                # An actor works in the order it was sent things: the first one did it.
                queue.blame([culprit], why)
                queue.put_back([culprit, *behind])

    def _finished(self, running: Iterable[Any]) -> list[Any]:
        """What has ended, in the order it was sent, after waiting up to a second."""
        import ray

        references = list(running)
        ray.wait(references, timeout=1.0)
        done, _ = ray.wait(references, num_returns=len(references), timeout=0)
        ended = set(done)
        return [reference for reference in references if reference in ended]

    def _replace(self, worker: int) -> None:
        import ray

        ray.kill(self._actors[worker])
        (self._actors[worker],) = self._spawn(1)

    def _stop(self) -> None:
        """Kill all workers; the next map starts others."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def __enter__(self) -> "RayRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._actors = []
        stop_ray(self.address)


def shared_gpu(gpus: float, workers: int) -> float:
    """The share of a GPU for each worker: at most one; of several workers all fit on one.

    8 GPUs, 64 workers -> 1/8; 2 GPUs, 3 workers -> 1/2, since a share lies on one GPU.
    """
    if gpus < 1:
        return 0.0
    return 1 / -(-workers // int(gpus))


class _Worker:
    """The body of an actor."""

    def __init__(self, own: int) -> None:
        limit_threads(own)

    def greet(self) -> None:
        """Answer, to show that this actor is up."""

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
        {
            "num_cpus": max(processors, 1) + SPARE,
            "include_dashboard": False,
            "object_store_memory": 2**28,
        }
        if address == "local"
        else {}
    )
    for attempt in range(1, 1 + STARTS):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
            return
        except Exception as error:  # Ray has no type of its own for this
            ray.shutdown()
            if attempt == STARTS or address != "local":
                raise SluiceError(
                    f"Ray did not start at {address!r}: {error}",
                    "check run.address and the cluster's token, or use run.executor=local, which "
                    "needs no Ray",
                ) from error


def stop_ray(address: str) -> None:
    if "ray" in sys.modules and address == "local":
        sys.modules["ray"].shutdown()
