"""The runner's Ray executor: actors that stay for the whole run. And where Ray starts and stops."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from infra.errors import SluiceError
from infra.ray_pool import SPARE, Actor, Pool
from infra.runner import (
    DEADLINE,
    DIED,
    RETRIES,
    WINDOW,
    Item,
    Queue,
    Result,
    overdue,
)

STARTS = 3  # tries for a local Ray: it gives itself 30 s, not enough on a busy machine
NODE_LOST = "its node was lost"
NODE_RETRIES = 10  # machines may be taken away; but it may be an item that fills their memory

Running = dict[
    Any, tuple[int, Actor, float]
]  # index, actor, when sent; in the order they were sent


class RayRunner:
    """One Ray actor per worker, kept for the whole run so that imports and models stay loaded.

    `address` is "local" for a Ray of our own on this machine, or a cluster's address. 0 workers
    are one for each processor of the cluster, at any time: those of a node that is lost go on
    elsewhere, a node that joins is used. Of a fixed number those that find no room wait for it,
    and the work goes on without them.
    """

    def __init__(self, workers: int, address: str = "local") -> None:
        self._asked = workers
        self.address = address
        self._pool = Pool(workers, local=address == "local")

    @property
    def workers(self) -> int:
        if self._asked:
            return self._asked
        start_ray(0, self.address)
        return self._pool.wanted()

    def rest(self) -> None:
        """Leave what the workers hold to others: a training is next, and wants it whole."""
        if self.address != "local" or self._pool.share:
            self._pool.stop()

    def map(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        retries: int = RETRIES,
        deadline: float = DEADLINE,
        gpu: bool = False,
    ) -> Iterator[tuple[int, Result]]:
        start_ray(self._asked, self.address)
        self._pool.prepare(gpu)
        queue = Queue(len(items), retries)
        running: Running = {}
        try:
            yield from self._results(function, items, queue, running, deadline)
        finally:
            if running:  # an item failed: what ran beside it must not write behind our back
                self._pool.stop()

    def _results(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        queue: Queue,
        running: Running,
        deadline: float,
    ) -> Iterator[tuple[int, Result]]:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

        shared = ray.put(function)
        while queue or running:
            self._pool.tend(idle=not running)
            self._send(shared, items, queue, running)
            broken: dict[Actor, str] = {}
            for reference in self._finished(running):
                index, actor, _ = running[reference]
                try:
                    result: Any = ray.get(reference)
                except RayTaskError as error:
                    raise error.cause or error from None
                except (RayActorError, OutOfMemoryError):
                    broken[actor] = DIED
                    continue
                del running[reference]
                actor.load -= 1
                yield index, result
            for _, actor, start in running.values():
                if time.monotonic() - start > WINDOW * deadline:
                    broken[actor] = overdue(deadline)
            for actor, why in broken.items():
                self._give_up(actor, why, queue, running)

    def _send(self, shared: Any, items: Sequence[Any], queue: Queue, running: Running) -> None:
        """Give work to the actors that are up, the idlest first."""
        up = self._pool.up
        while True:
            # An item in advance spares an actor a pause; but none that another could begin now.
            depth = WINDOW if len(queue) > len(self._pool) else 1
            if (index := queue.take(len(running), depth * len(up))) is None:
                return
            actor = min(up, key=_load)
            actor.load += 1
            running[actor.handle.run.remote(shared, items[index])] = index, actor, time.monotonic()

    def _finished(self, running: Iterable[Any]) -> list[Any]:
        """What has ended, in the order it was sent, after waiting up to a second."""
        import ray

        references = list(running)
        if not references:
            return []
        ray.wait(references, timeout=1.0)
        done, _ = ray.wait(references, num_returns=len(references), timeout=0)
        ended = set(done)
        return [reference for reference in references if reference in ended]

    def _give_up(self, actor: Actor, why: str, queue: Queue, running: Running) -> None:
        """Another actor does what this one had to do; the first thing it had is to blame for it.

        An actor works in the order it was sent things. But of a node that was lost nothing is to
        blame, unless that happens again and again.
        """
        if why == DIED and self._pool.node_lost(actor):
            why = NODE_LOST
        self._pool.drop(actor)
        mine = [reference for reference, entry in running.items() if entry[1] is actor]
        culprit, *behind = [running.pop(reference)[0] for reference in mine]
        queue.blame([culprit], why, NODE_RETRIES if why == NODE_LOST else None)
        queue.put_back([culprit, *behind])

    def __enter__(self) -> "RayRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.forget()
        stop_ray(self.address)


def _load(actor: Actor) -> int:
    return actor.load


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
