"""What an index costs as it grows, and what a second worker is worth.

Cost and memory: one kind over sizes that grow a hundredfold, vectors of one law, generated in
shards. Then a process of its own opens each index and answers a first query. Two workers against
one: the same build by one worker on one processor and by two on two, in turn.
Run: python tests/bench/index_scale.py --folder SPACE [--sizes 100000 1000000 10000000] [--turns 3]
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from index import DIMENSION, METER, make, run
from record import keep

BUILD = (
    METER
    + """
from indexes.building import figures_of, pinned, stages
from indexes.opening import open_named
from indexes.settings import IndexSettings
from infra.progress import SilentDisplay
from infra.runner import make_runner
from infra.stage import run_stage
store, kind, memory, workers = sys.argv[1:]
if __name__ == "__main__":
    start, took = time.perf_counter(), {}
    dataset = open_named(store + "/bench")
    chosen = {"kind": kind, "memory": memory, "publish_below_target": True}
    settings = pinned(dataset, IndexSettings.model_validate(chosen))
    with make_runner("local", int(workers)) as runner:
        for stage in stages(dataset.url, dataset.artifact.digest, settings):
            drafts, items = {"": stage.draft}, stage.items()
            made = run_stage(stage.name, drafts, items, stage.work, runner, SilentDisplay())
            took[stage.name] = round(made[""].timing()["cpu_seconds"], 1)
    figures = {**meter(start), "cpu_seconds_by_stage": took}
    found = figures_of(made[""])
    names = ("kind", "lists", "probes", "factor", "recall@10", "bytes_per_vector", "milliseconds")
    print(json.dumps({**figures, **{n: found[n] for n in names}, "digest": made[""].digest,
                      "content": made[""].content}))
"""
)
OPEN = """
import json, sys, time
start = time.perf_counter()
import numpy as np
import indexes
imported = time.perf_counter()
idx = indexes.open(sys.argv[1] + "/bench", sys.argv[2])
opened = time.perf_counter()
query = np.load(sys.argv[1] + "/queries.npy")[:1]
hits = idx.search(query[0], 10)
first = time.perf_counter()
idx.search(query[0], 10)
print(json.dumps({"import": round(imported - start, 2), "open": round(opened - imported, 2),
                  "first_hits": round(first - opened, 2),
                  "next_hits": round(time.perf_counter() - first, 4), "vectors": len(idx)}))
"""


def store_of(folder: Path, count: int) -> Path:
    """A store of so many vectors, made unless it is there."""
    store = folder / str(count)
    if not (store / "queries.npy").exists():
        shutil.rmtree(store, ignore_errors=True)
        store.mkdir(parents=True)
        make(store, count)
    return store


def forget(store: Path) -> None:
    """Remove what was built of a store."""
    for name in ("quantizer", "codes", "index"):
        for path in store.glob(f"bench/*/{name}"):
            shutil.rmtree(path)


def built(folder: Path, store: Path, kind: str, memory: str, workers: int) -> dict[str, Any]:
    """The figures of one build from nothing."""
    forget(store)
    script = folder / "build.py"
    script.write_text(BUILD)
    return run(sys.executable, script, str(store), kind, memory, str(workers))


def grown(folder: Path, sizes: list[int], kind: str, memory: str) -> dict[str, Any]:
    """One kind at all sizes; cost for each vector relative to that of the smallest."""
    figures: dict[str, Any] = {"kind": kind, "memory": memory}
    opening = folder / "open.py"
    opening.write_text(OPEN)
    for count in sizes:
        store = store_of(folder, count)
        found = built(folder, store, kind, memory, 2)
        found["microseconds_a_vector"] = round(1e6 * found["cpu_seconds"] / count, 1)
        found["seconds_to_open"] = run(sys.executable, opening, str(store), found["digest"])
        figures[str(count)] = found
        print(json.dumps({count: found}), file=sys.stderr, flush=True)
    first = figures[str(sizes[0])]["microseconds_a_vector"]
    figures["growth"] = {
        str(count): round(figures[str(count)]["microseconds_a_vector"] / first, 2)
        for count in sizes
    }
    return figures


def both(folder: Path, count: int, turns: int) -> dict[str, Any]:
    """One worker on one processor and two on two, in turn: seconds, and how much sooner."""
    store, taken = store_of(folder, count), {1: [], 2: []}
    mine, contents = os.sched_getaffinity(0), set()
    for _ in range(turns):
        for workers in (1, 2):
            os.sched_setaffinity(0, sorted(mine)[:workers])
            found = built(folder, store, "auto", "4G", workers)
            taken[workers].append(found["seconds"])
            contents.add(found["content"])
            print(workers, found["seconds"], file=sys.stderr, flush=True)
    os.sched_setaffinity(0, mine)
    assert len(contents) == 1, "other bytes with another number of workers"
    seconds = {str(workers): statistics.median(each) for workers, each in taken.items()}
    return {"vectors": count, "turns": turns, "seconds": seconds,
            "times": round(seconds["1"] / seconds["2"], 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--kind", default="ivf_rabitq")
    parser.add_argument("--memory", default="4G", help="what an opened index may take")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, required=True, help="15 GB for 10,000,000 vectors")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    figures = {
        "what": f"{DIMENSION} dimensions, real workers, from nothing",
        "growth": grown(options.folder, options.sizes, options.kind, options.memory),
        "workers": both(options.folder, 1_000_000, options.turns),
    }
    keep("index_scale", figures, "faiss-gpu", "numpy")


if __name__ == "__main__":
    main()
