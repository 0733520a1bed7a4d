"""What the scheduler costs: milliseconds per shard on 1, 2 and 4 nodes, memory over 100,000 shards.

The work of a shard is next to nothing: a file of a few bytes and its record. Nodes are processes of
this host, one worker each, so that they share its cores; memory is the driver's resident set, over
the shards done, and while the manifest is made. Promised: at most 20 ms, and flat memory.
Run: python tests/bench/scheduler.py [SHARDS]
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from infra import artifacts  # noqa: E402
from infra.artifacts import Part, Spec  # noqa: E402
from infra.filesystem import join, write_bytes  # noqa: E402
from infra.progress import SilentDisplay  # noqa: E402
from infra.runner import make_runner  # noqa: E402
from infra.stage import Draft, Item, run_stage  # noqa: E402

SHARDS = 100_000
NODES = (1, 2, 4)
FEW = 5_000  # shards of the runs on nodes
POINTS = 10  # at which memory is told
MB = 2**20


@dataclass(frozen=True)
class Small:
    """Next to nothing: a file of a few bytes."""

    url: str

    def __call__(self, value: int, todo: list[str]) -> Mapping[str, Part]:
        file = write_bytes(self.url, f"parts/{value:06d}.txt", b"nothing")
        return {"": Part(f"{value:06d}", (file,), 1, 1)}


class Memory(SilentDisplay):
    """The driver's memory, by the number of shards done; the most it had, before and after."""

    def __init__(self, shards: int) -> None:
        super().__init__()
        self.shards, self.done, self.told = shards, 0, []
        self.peak, self.ended = 0.0, threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.start = self.first = self.last = time.perf_counter()
        self._thread.start()

    def now(self) -> float:
        return self._process.memory_info().rss / MB

    def _sample(self) -> None:
        while not self.ended.wait(0.05):
            self.peak = max(self.peak, self.now())

    def stage(self, name: str, total: int, unit: str = "shards") -> Any:
        return self

    def advance(self, steps: int = 1, note: str = "", *_: object, **__: object) -> None:
        self.last = time.perf_counter()
        if not self.done:
            self.first = self.last
        self.done += steps
        if self.done % max(self.shards // POINTS, 1) == 0:
            self.told.append(round(self.now(), 1))

    def finish(self, note: str = "") -> None:
        return None


def run(store: str, executor: str, address: str, workers: int, shards: int) -> dict[str, Any]:
    """A stage of so many shards, in this process."""
    draft = Draft(join(store, "made"), Spec("scores", "small", {"shards": shards}))
    items = [Item(f"{value:06d}", value) for value in range(shards)]
    display = Memory(shards)
    with make_runner(executor, workers, address) as runner:
        made = run_stage("small", {"": draft}, items, Small(draft.url), runner, display)[""]
        end = time.perf_counter()
    display.ended.set()
    start = time.perf_counter()
    read = artifacts.load(draft.url)
    assert read is not None and len(read.parts) == shards == made.totals["parts"]
    return {
        "shards": shards,
        "ms_per_shard": round((display.last - display.first) / (shards - 1) * 1000, 3),
        "seconds_to_commit": round(end - display.last, 2),
        "mb_over_the_shards": display.told,
        "mb_at_most": round(display.peak, 1),
        "manifest_mb": round(Path(draft.url, "manifest.json").stat().st_size / MB, 1),
        "seconds_to_read_it": round(time.perf_counter() - start, 2),
    }


def apart(environment: Mapping[str, str] | None, *arguments: object) -> dict[str, Any]:
    """`run` in a process of its own, whose memory is that of nothing else."""
    with tempfile.TemporaryDirectory() as store:
        done = subprocess.run(
            [sys.executable, __file__, "run", store, *map(str, arguments)],
            env=environment and dict(environment), stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from record import keep

    from tests.cluster import cluster

    shards = int(sys.argv[1]) if len(sys.argv) > 1 else SHARDS
    figures: dict[str, Any] = {"load_before": [round(value, 1) for value in psutil.getloadavg()]}
    with cluster() as ray:
        for count in NODES:
            while len(ray.nodes) - 1 < count:
                ray.join(1)
            time.sleep(20)
            few = min(FEW, shards)
            figures[f"ray, {count} nodes"] = apart(ray.environment, "ray", ray.address, count, few)
            keep("scheduler", figures, "ray")  # at once: 100,000 shards take long
    for executor in ("ray", "local"):
        figures[f"{executor}, 2 workers"] = apart(None, executor, "local", 2, shards)
        keep("scheduler", figures, "ray")


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        store, executor, address, workers, shards = sys.argv[2:]
        print(json.dumps(run(store, executor, address, int(workers), int(shards))))
    else:
        main()
