"""A stage whose work takes a little while, and a script that runs it: something to kill.

python -m tests.infra.counting STORE WORKERS
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.artifacts import Artifact, Part, Spec
from infra.errors import SluiceError
from infra.filesystem import join, write_bytes
from infra.progress import SilentDisplay
from infra.runner import make_runner
from infra.stage import Draft, Item, run_stage

SHARDS = 8
ITEMS = [Item(f"{shard:05d}", shard) for shard in range(SHARDS)]


@dataclass(frozen=True)
class Count:
    """Writes one file of each draft asked for; `log` tells which items were worked on."""

    url: str
    pause: float = 0.0
    log: str | None = None
    refuse: int | None = None
    forget: str | None = None

    def __call__(self, value: int, todo: list[str]) -> Mapping[str, Part]:
        if value == self.refuse:
            raise SluiceError(f"shard {value:05d} is missing", "put it back")
        if self.log:
            with Path(self.log).open("a") as log:
                log.write(f"{value} {' '.join(todo)}\n")
        parts = {}
        for name in todo:
            time.sleep(self.pause)
            data = f"{name} of {value}\n".encode() * 1000
            file = write_bytes(join(self.url, name), f"parts/{value:05d}.txt", data)
            kept = value % 3
            parts[name] = Part(
                f"{value:05d}", (file,), 3, kept, {"blank": 3 - kept}, {"square": value * value}
            )
        return {name: part for name, part in parts.items() if name != self.forget}


def drafts(url: str) -> dict[str, Draft]:
    return {
        name: Draft(join(url, name), Spec("scores", "counting", {"name": name}))
        for name in ("one", "two")
    }


def total(parts: Mapping[str, Sequence[Part]]) -> Mapping[str, Mapping[str, int]]:
    return {
        name: {"squares": sum(part.extra["square"] for part in left)}
        for name, left in parts.items()
    }


def run(url: str, workers: int, work: Count | None = None) -> dict[str, Artifact]:
    kind = "local" if workers else "inline"
    with make_runner(kind, workers) as runner:
        return run_stage(
            "counting", drafts(url), ITEMS, work or Count(url), runner, SilentDisplay(), total
        )


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), Count(sys.argv[1], pause=0.05))
