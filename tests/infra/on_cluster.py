"""A stage on a Ray cluster, to be run as a process of its own: it needs the cluster's token.

python -m tests.infra.on_cluster STORE ADDRESS ITEMS SECONDS     prints the digest of its bytes
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray

from infra.artifacts import Part, Spec
from infra.errors import SluiceError
from infra.filesystem import join, write_bytes
from infra.progress import SilentDisplay
from infra.runner import make_runner
from infra.stage import Draft, Item, run_stage


@dataclass(frozen=True)
class Logged:
    """Writes a small file, and notes on which node it did so; slowly until a file `go` is there."""

    url: str
    seconds: float

    def __call__(self, value: int, todo: list[str]) -> Mapping[str, Part]:
        if not Path(self.url, "go").exists():
            time.sleep(self.seconds)
        file = write_bytes(self.url, f"parts/{value:05d}.txt", f"{value}\n".encode() * 100)
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else "here"
        with Path(self.url, "nodes.log").open("a") as log:
            log.write(f"{value} {node}\n")
        return {"": Part(f"{value:05d}", (file,), 1, 1)}


def run(store: str, executor: str, address: str, items: int, seconds: float) -> str:
    draft = Draft(join(store, "made"), Spec("scores", "logged", {"items": items}))
    entries = [Item(f"{value:05d}", value) for value in range(items)]
    work = Logged(draft.url, seconds)
    with make_runner(executor, 0, address) as runner:
        made = run_stage("logged", {"": draft}, entries, work, runner, SilentDisplay())
    return made[""].content


if __name__ == "__main__":
    try:
        print(run(sys.argv[1], "ray", sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    except SluiceError as error:
        raise SystemExit(f"error: {error}") from None
