"""Memory of the duplicate stages for each row, from versions of growing size made on the spot.

Each stage runs in a child process whose anonymous memory is watched from outside; mapped vectors
are the page cache's and count for nothing. What libraries take, and what a shard of rows takes
while it is read, is gone from the slope between the smallest size and the largest. The table of
buckets of a band of hashes is not: 17 MB from about 3 million rows on, and no more at any size. Of
every 20 rows one is a copy of another's bytes, one of its pixels, one of its hashes and one nearly
its vector: a fifth of the rows, 0.3 pairs a row. Arrays from a megabyte on are given back when they
are freed, as those of a billion rows are anyway; what the C library would keep of smaller ones is
no part of a slope.
Run: python tests/bench/dedup_memory.py --sizes 2000000 4000000
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

SHARD, DIMENSION, FLOOR, RADIUS = 100_000, 64, 0.99, 6
STAGES = ("bytes and pixels", "hashes", "vectors", "all pairs", "after", "verdicts")


def hexes(words: np.ndarray) -> pa.Array:
    """uint64 [n, k] as n strings of 16 k hex digits."""
    width = words.shape[1] * 16
    text = np.frombuffer(np.ascontiguousarray(words).tobytes().hex().encode(), f"S{width}")
    return pa.array(text, pa.binary(width)).cast(pa.binary()).cast(pa.string())


def make(store: Path, count: int) -> str:
    """Write and commit a version of so many rows with its scores; returns its URL."""
    from infra import artifacts
    from infra.artifacts import Part, Spec
    from infra.dataset import ROWS, part_name, write_table
    from infra.filesystem import write_bytes

    rng = np.random.default_rng(7)
    spec = Spec("dataset", "bench", {"rows": count})
    url = str(store / "pool" / spec.digest)
    folders = {
        name: f"{url}/scores/{name}-{'0' * 15}{i}" for i, name in enumerate(("hash", "near"))
    }
    previous: list[np.ndarray] = []
    for shard, start in enumerate(range(0, count, SHARD)):
        rows = min(SHARD, count - start)
        sha, pixels = rng.integers(1, 2**64, (2, rows, 4), np.uint64)
        hashes = rng.integers(0, 2**64, (rows, 2), np.uint64)
        vectors = rng.standard_normal((rows, DIMENSION), np.float32)
        for kind, own in enumerate((sha, pixels, hashes, vectors)):
            # From anywhere before it in the shard, or from the shard before.
            to = np.flatnonzero(np.arange(rows) % 20 == kind + 1)
            of = (to * rng.random(len(to))).astype(np.int64) // 20 * 20
            source = previous[kind] if previous and shard % 2 else own
            noise = 0.01 * rng.standard_normal((len(to), DIMENSION)) if kind == 3 else 0
            own[to] = (source[of] + noise).astype(own.dtype) if kind == 3 else source[of]
        previous = [sha, pixels, hashes, vectors]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        names, none = {"sha256": hexes(sha), "status": pa.array(["ok"] * rows)}, pa.nulls(rows)
        names |= {
            "uid": hexes(rng.integers(0, 2**64, (rows, 2), np.uint64)),
            "shard": pa.array(np.full(rows, shard, np.int32)),
            "row": pa.array(np.arange(rows, dtype=np.int32)),
            "width": pa.array(rng.integers(20, 900, rows, np.int32)),
            "height": pa.array(rng.integers(20, 900, rows, np.int32)),
        }
        table = pa.table(
            [names.get(name, none).cast(ROWS.field(name).type) for name in ROWS.names], schema=ROWS
        )
        name = part_name(shard)
        file = write_table(url, f"rows/{name}.parquet", table, ("status",))
        artifacts.record_part(url, Part(name, (file,), rows, rows), 0, 0)
        columns = {"pixel_sha256": hexes(pixels), "phash": hashes[:, 0], "dhash": hashes[:, 1]}
        write_table(folders["hash"], f"columns/{name}.parquet", pa.table(columns), ())
        buffer = io.BytesIO()
        np.save(buffer, vectors.astype(np.float16))
        write_bytes(folders["near"], f"v/{name}.npy", buffer.getvalue())
    artifacts.commit(url, spec)
    return url


def work_of(stage: str, url: str, target: str) -> Any:
    """The work of a stage over the version at `url`, to be written to `target`."""
    from curation.dedup import EdgesWork
    from curation.rules_settings import DedupSettings, NearSettings, RuleSettings
    from curation.verdicts import VerdictsWork

    folders = {"hash": f"hash-{'0' * 16}", "near": f"near-{'0' * 15}1"}
    near = (NearSettings(vectors="near/v", threshold=FLOOR, floor=FLOOR),)
    dedup = DedupSettings(
        pixels=stage not in ("hashes", "vectors"),
        perceptual=stage not in ("bytes and pixels", "vectors"),
        near=() if stage in ("bytes and pixels", "hashes") else near,
        radius=RADIUS,
        radius_floor=RADIUS,
    )
    edges = f"{url}/edges/bench"
    if stage == "verdicts":
        rules = (RuleSettings(reason="small", score="rows.width", min=32, max=None, drop=None),)
        return VerdictsWork(target, url, {}, edges, rules, dedup)
    return EdgesWork(target, url, folders, dedup, edges if stage == "after" else None)


def child(stage: str, url: str, warm: str) -> None:
    """Run a stage once on a small version, tell, and run it on the large one."""
    work_of(stage, warm, f"{warm}/warm")(None, [""])
    print("ready", flush=True)
    sys.stdin.readline()
    target = f"{url}/edges/bench" if stage == "all pairs" else f"{url}/out"
    start = time.process_time()
    parts = work_of(stage, url, target)(None, [""])
    used = time.process_time() - start
    if stage == "all pairs":
        keep_edges(url, target, parts[""])
    print(json.dumps({"cpu_seconds": round(used, 1), "pairs": parts[""].rows}))


def keep_edges(url: str, target: str, part: Any) -> None:
    """Commit the pairs, for the stages that read them."""
    from curation.dedup import edges_draft
    from infra import artifacts

    work = work_of("all pairs", url, target)
    draft = edges_draft(url, "0", work.score_folders, work.settings)
    artifacts.record_part(target, part, 0, 0)
    artifacts.commit(target, draft.spec)


def anonymous(process: int) -> int:
    """Bytes of a process that no file stands behind."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def measure(stage: str, url: str, warm: str) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    command = [sys.executable, __file__, "--child", stage, url, warm]
    environment = os.environ | {"PYTHONPATH": str(root), "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert running.stdin and running.stdout
    assert running.stdout.readline() == "ready\n"
    base = peak = anonymous(running.pid)
    running.stdin.write("go\n")
    running.stdin.flush()
    while running.poll() is None:
        peak = max(peak, anonymous(running.pid))
        time.sleep(0.003)
    if running.returncode:
        raise SystemExit(f"{stage} failed")
    return {"megabytes": round((peak - base) / 1e6, 1), **json.loads(running.stdout.read())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000_000, 4_000_000])
    parser.add_argument("--stages", nargs="+", default=STAGES)
    parser.add_argument("--folder", default=None, help="where the versions are written")
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    figures: dict[str, dict[str, Any]] = {stage: {} for stage in options.stages}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        warm = make(Path(folder), 1000)
        subprocess.run(
            [sys.executable, __file__, "--child", "all pairs", warm, warm],
            input="go\n", text=True, check=True, stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        for count in options.sizes:
            url = make(Path(folder), count)
            for stage in options.stages:
                figures[stage][str(count)] = measure(stage, url, warm)
                print(json.dumps({stage: figures[stage][str(count)]}), file=sys.stderr, flush=True)
    low, high = min(options.sizes), max(options.sizes)
    for row in figures.values():
        grown = row[str(high)]["megabytes"] - row[str(low)]["megabytes"]
        row["bytes_a_row"] = round(grown * 1e6 / (high - low), 1)
    from record import keep

    keep(
        "dedup_memory",
        {"what": "anonymous memory beside the libraries'; 0.3 pairs a row", **figures},
        "numpy", "numba", "pyarrow",
    )  # fmt: skip


if __name__ == "__main__":
    main()
