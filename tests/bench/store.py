"""What looking after a store costs: `diff` of two versions, and looking through a large store.

`diff` runs in a child process, whose largest resident memory is told beside that of a diff of two
small versions: what the libraries take is in both. Of every ten rows one is in another state, one
is new. The large store has a version of so many shards, whose files are never looked at, and as
many small versions as nightly runs of three years leave.
Run: python tests/bench/store.py --rows 2000000 4000000
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

SHARD, SHARDS, NIGHTS = 100_000, 100_000, 1000


def make(store: Path, number: int, count: int) -> str:
    """A version of so many rows, without images; its name."""
    from infra import artifacts
    from infra.artifacts import Part, Spec
    from infra.dataset import REPEATING, ROWS, part_name, write_table
    from tests.bench.dedup_memory import hexes

    spec = Spec("dataset", "bench", {"rows": count, "number": number})
    url = str(store / "pool" / spec.digest)
    for shard, start in enumerate(range(0, count, SHARD)):
        rows = min(SHARD, count - start)
        words = np.random.default_rng([7, shard]).integers(0, 2**64, (rows, 2), np.uint64)
        words[::10, 0] ^= np.uint64(number)  # new ones
        blank = np.arange(rows) % 10 == 1 + number
        known = {
            "uid": hexes(words.byteswap()),
            "status": pa.array(np.where(blank, "dropped", "ok").tolist()),
            "reason": pa.array([("blank" if each else None) for each in blank.tolist()]),
            "width": pa.array(words[:, 0] % np.uint64(1000), pa.int32()),
            "url": pa.array([f"https://h{row % 500}.example.org/{row}" for row in range(rows)]),
        }
        columns = [known.get(each.name, pa.nulls(rows, each.type)) for each in ROWS]
        name, gone = part_name(shard), int(blank.sum())
        table = pa.table(columns, schema=ROWS)
        file = write_table(url, f"rows/{name}.parquet", table, REPEATING)
        part = Part(name, (file,), rows, rows - gone, {"blank": gone})
        artifacts.record_part(url, part, 0.0, 0.0)
    return f"pool@{artifacts.commit(url, spec).digest}"


def compare(store: str, names: list[str]) -> None:
    """One diff, told as JSON."""
    from flows.store.diff import diff
    from infra.progress import SilentDisplay

    start = time.monotonic()
    found = diff(store, names[0], names[1], SilentDisplay())
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    moved = sum(each.count for each in found.movements.moved)
    print(json.dumps({"seconds": round(seconds, 1), "megabytes": round(peak), "moved": moved}))


def measured(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        names = [make(Path(folder), number, count) for number in (0, 1)]
        command = [sys.executable, __file__, "--compare", folder, *names]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(told)


def large() -> dict[str, float]:
    """Seconds that `survey` and a plan of gc take."""
    from infra import artifacts
    from infra.artifacts import MANIFEST, Part, Spec
    from infra.catalogue.gc import Retention, plan_gc
    from infra.catalogue.survey import survey
    from infra.filesystem import FilePart
    from infra.manifest import Parts, write_manifest

    with tempfile.TemporaryDirectory() as folder:
        spec = Spec("dataset", "bench", {"large": True})
        files = [(FilePart(f"rows/{shard:05d}.parquet", 1, f"{shard:064x}"),
                  FilePart(f"shards/{shard:05d}.tar", 1, f"{shard:064x}"))
                 for shard in range(SHARDS)]  # fmt: skip
        parts = Parts.of(Part(f"{shard:05d}", each, 1, 1) for shard, each in enumerate(files))
        manifest = write_manifest(artifacts._head(spec, parts, {}), parts)
        url = Path(folder) / "pool" / spec.digest
        for kind in ("rows", "shards"):
            (url / kind).mkdir(parents=True)
            for shard in range(SHARDS):
                (url / kind / f"{shard:05d}").touch()
        (url / MANIFEST).write_bytes(manifest)
        for night in range(NIGHTS):
            made = Spec("dataset", "bench", {"night": night}, (spec.digest,))
            artifacts.record_part(f"{folder}/curated/{made.digest}", Part("0", ()), 0.0, 0.0)
            artifacts.commit(f"{folder}/curated/{made.digest}", made)
        start = time.monotonic()
        catalogue = survey(folder)
        looked = time.monotonic()
        plan = plan_gc(catalogue, Retention(older_than=0))
        assert len(plan.removals) == NIGHTS + 1
        return {
            "shards": SHARDS, "versions": NIGHTS + 1,
            "survey_seconds": round(looked - start, 2),
            "plan_seconds": round(time.monotonic() - looked, 2),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=[2_000_000, 4_000_000])
    parser.add_argument("--compare", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.compare:
        compare(chosen.compare[0], chosen.compare[1:])
        return
    from tests.bench.record import keep

    rows = [SHARD // 10, *chosen.rows]
    figures = {"diff": {str(count): measured(count) for count in rows}, "large_store": large()}
    keep("store", figures, "numpy", "pyarrow")


if __name__ == "__main__":
    main()
