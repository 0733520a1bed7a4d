"""The actors of the Ray runner: as many as are wanted and find room, on the nodes there are."""

import socket
import time
from dataclasses import dataclass
from typing import Any

from infra.errors import SluiceError
from infra.runner import limit_threads, processors

START = 300.0  # seconds without any worker after which there will be none here
ROOM = 1800.0  # and on a cluster, which may have to start a machine first, or to end other work
LOOK = 2.0  # seconds between two looks at the cluster
GONE = 30.0  # seconds without the cluster's head; Ray ends this process after 60
FAILURES = 10  # actors one after the other that did not come up, after which none will
SPARE = 2  # a local Ray's processor slots beyond the workers': for training while they idle


@dataclass(eq=False)
class Actor:
    """An actor: `greeting` is awaited until it is up; `load` counts what it has been sent."""

    handle: Any
    greeting: Any
    node: str = ""
    load: int = 0


class Pool:
    """Actors, which come and go with the nodes of a cluster.

    asked: how many, or 0 for one per processor of the cluster.
    """

    def __init__(self, asked: int, local: bool) -> None:
        self._asked, self._local = asked, local
        self.up: list[Actor] = []
        self.share = 0.0  # of a GPU that each actor holds
        self._starting: list[Actor] = []
        self._gpu = False
        self._failures = 0
        self._looked = 0.0
        self._seen = time.monotonic()  # when the cluster's head last answered
        self._lacked = time.monotonic()  # since when there has been no actor

    def __len__(self) -> int:
        return len(self.up) + len(self._starting)

    def wanted(self, gpu: bool = False) -> int:
        """How many actors there are to be, as the cluster is now."""
        return self._asked or max(int(sum(node.get("CPU", 0) for node in _nodes(gpu))), 1)

    def prepare(self, gpu: bool) -> None:
        """See that the actors hold their share of all GPUs if they are to use them, or none.

        Ray hides GPUs from who asked for none. Actors that hold some go home when the next work
        needs none: training wants them whole.
        """
        gpus = sum(node.get("GPU", 0) for node in _nodes(gpu)) if gpu else 0.0
        share = shared_gpu(gpus, self.wanted(gpu))
        if share != self.share:
            self.stop()
        self.share, self._gpu = share, gpu and gpus > 0
        self._looked, self._seen = 0.0, time.monotonic()
        self._lacked = self._seen
        for actor in self.up:
            actor.load = 0

    def tend(self, idle: bool) -> None:
        """Take in actors that have come up, replace those that were lost, use nodes that joined.

        idle: there is nothing else to wait for. SluiceError where no actor comes up, or the
        cluster's head has gone.
        """
        now = time.monotonic()
        if now - self._looked > LOOK:
            self._looked = now
            if self._head_answers(now):
                self._fit(self.wanted(self._gpu))
        elif self._asked:
            self._fit(self._asked)
        self._greet(timeout=1.0 if idle and not self.up else 0.0)
        if self.up:
            self._lacked = time.monotonic()
        elif time.monotonic() - self._lacked > (longest := patience(self._local)):
            raise SluiceError(
                f"none of {len(self)} workers started on Ray within {longest:g} s",
                "see that Ray has processors to spare, or lower run.workers",
            )

    def _fit(self, count: int) -> None:
        """Ask for the actors that lack, and for fewer of those that find no room."""
        import ray

        while len(self) > count and self._starting:
            ray.kill(self._starting.pop().handle)
        if len(self) >= count:
            return
        remote: Any = ray.remote(Worker)
        options = remote.options(num_cpus=1, num_gpus=self.share, scheduling_strategy="SPREAD")
        own = max((processors() if self._local else self._processors()) // count, 1)
        while len(self) < count:
            handle = options.remote(own)
            self._starting.append(Actor(handle, handle.greet.remote()))

    def _processors(self) -> int:
        return int(sum(node.get("CPU", 0) for node in _nodes()))

    def _greet(self, timeout: float) -> None:
        """Move the actors that have answered to those that are up: starting is no item's time."""
        import ray
        from ray.exceptions import RayError

        if not self._starting:
            return
        waiting = {actor.greeting: actor for actor in self._starting}
        ray.wait(list(waiting), timeout=timeout)
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        for greeting in done:
            actor = waiting[greeting]
            self._starting.remove(actor)
            try:
                actor.node = ray.get(greeting)
            except RayError as error:
                self._failures += 1
                if self._failures == FAILURES:
                    raise SluiceError(
                        f"{FAILURES} workers one after the other did not start on Ray: {error}",
                        "see that its nodes have the same Sluice as this machine",
                    ) from error
                continue
            self._failures = 0
            self.up.append(actor)

    def _head_answers(self, now: float) -> bool:
        """SluiceError once it has not for a while: Ray would end this process without a word."""
        import ray

        if self._local:
            return True
        address = ray.get_runtime_context().gcs_address
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK).close()
        except OSError as error:
            if now - self._seen > GONE:
                self.forget()
                raise SluiceError(
                    f"the head of the Ray cluster, {address}, has not answered for {GONE:g} s: "
                    f"{error.strerror or error}",
                    "start the cluster again, or use run.executor=local, and run the same command "
                    "again: finished shards are kept",
                ) from error
            return False
        self._seen = now
        return True

    def node_lost(self, actor: Actor) -> bool:
        """Whether an actor that was lost went with its node."""
        import ray

        return actor.node not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def drop(self, actor: Actor) -> None:
        """Do without an actor: it is dead, or hangs."""
        import ray

        ray.kill(actor.handle)
        self.up.remove(actor)

    def stop(self) -> None:
        """Kill all actors; the next `tend` asks for others."""
        import ray

        for actor in self.up + self._starting:
            ray.kill(actor.handle)
        self.forget()

    def forget(self) -> None:
        """Know of no actor: they end with the Ray they are of, or with this process."""
        self.up, self._starting = [], []
        self._looked, self._lacked = 0.0, time.monotonic()


def _nodes(gpu: bool = False) -> list[dict[str, float]]:
    """What the nodes have; gpu: those with a GPU, if any has one."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [node for node in nodes if gpu and node.get("GPU", 0) >= 1] or nodes


def patience(local: bool) -> float:
    """Seconds without any worker after which there will be none. local: on a Ray of our own."""
    return START if local else ROOM


def shared_gpu(gpus: float, workers: int) -> float:
    """The share of a GPU for each worker: at most one; of several workers all fit on one.

    8 GPUs, 64 workers -> 1/8; 2 GPUs, 3 workers -> 1/2, since a share lies on one GPU.
    """
    if gpus < 1:
        return 0.0
    return 1 / -(-workers // int(gpus))


class Worker:
    """The body of an actor."""

    def __init__(self, own: int) -> None:
        limit_threads(own)

    def greet(self) -> str:
        """Answer, to show that this actor is up: with the id of its node."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def run(self, function: Any, item: Any) -> Any:
        return function(item)
