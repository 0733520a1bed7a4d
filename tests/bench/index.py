"""Building an index and asking it, against autofaiss in an environment of its own, in one run.

Vectors lie in uneven clusters, as on the web, and a tenth are near-copies of others: a flat cloud
would flatter nobody. Both read the same float16 files, have the same memory to spend, two threads,
and answer the same new queries of the same law; recall is against brute force.
Run: python tests/bench/index.py --peer PATH/bin/python --sizes 200000 1000000
With --kinds every kind named is built and asked over the same vectors instead, without the peer.
Run: python tests/bench/index.py --kinds flat ivf_flat ivf_sq8 ivf_pq ivf_rabitq hnsw
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from record import keep

DIMENSION, SHARD, QUERIES, K, TURNS = 512, 10_000, 1000, 10, 3
SPREAD, COPIES = 0.8, 0.1  # noise of a cluster, relative to its centre; share of near-copies
THREADS = "2"
METER = """
import json, os, resource, sys, time
import numpy as np
def meter(start):
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in each)
    return {"cpu_seconds": round(cpu, 1), "seconds": round(time.perf_counter() - start, 1)}
def asked(search, queries, truth, turns, k):
    rates, waits = [], []
    for turn in range(turns):
        start = time.perf_counter()
        found = search(queries)
        rates.append(len(queries) / (time.perf_counter() - start))
    for query in queries:
        start = time.perf_counter()
        search(query[None])
        waits.append(1000 * (time.perf_counter() - start))
    recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), truth.tolist())])
    p50, p99 = np.percentile(waits, [50, 99])
    rate = round(float(np.median(rates)), 1)
    return {"queries_a_second": rate, "recall@10": round(float(recall), 4),
            "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}
"""
PEER = (
    METER
    + """
import faiss
from autofaiss import build_index
vectors, out, memory, threads, turns, k = sys.argv[1:]
faiss.omp_set_num_threads(int(threads))
start = time.perf_counter()
index, about = build_index(
    embeddings=vectors, index_path=out + "/knn.index", index_infos_path=out + "/infos.json",
    max_index_memory_usage=memory, current_memory_available="16G", metric_type="ip",
    nb_cores=int(threads), verbose=40,
)
built = meter(start)
queries, truth = np.load(out + "/queries.npy"), np.load(out + "/truth.npy")
figures = asked(lambda rows: index.search(rows, int(k))[1], queries, truth, int(turns), int(k))
key = json.load(open(out + "/infos.json")).get("index_key")
print(json.dumps({"kind": key, **built, **figures}))
"""
)

OURS = (
    METER
    + """
import indexes
from infra.dataset import shard_and_row
store, memory, threads, turns, k, shard, kind = sys.argv[1:]
if __name__ == "__main__":
    start = time.perf_counter()
    idx = indexes.build(
        store + "/bench", kind=kind, memory=memory, workers=int(threads), publish_below_target=True
    )
    built = meter(start)
    queries, truth = np.load(store + "/queries.npy"), np.load(store + "/truth.npy")
    def search(rows):
        found = idx.nearest(rows, int(k))[1]
        return (found >> 20) * int(shard) + (found & (1 << 20) - 1)
    figures = asked(search, queries, truth, int(turns), int(k))
    facts = {name: idx.figures[name] for name in ("kind", "lists", "probes", "factor", "why")}
    facts["bytes_a_vector"] = idx.figures["bytes_per_vector"]
    facts["recall@10 measured"] = idx.figures["recall@10"]
    print(json.dumps({**facts, **built, **figures}))
"""
)


class Vectors:
    """Unit vectors of one law, drawn shard by shard."""

    def __init__(self, count: int) -> None:
        self._rng = np.random.default_rng(7)
        clusters = max(16, count // 200)
        self._centres = unit(self._rng.standard_normal((clusters, DIMENSION), np.float32))
        weight = self._rng.pareto(1.5, clusters) + 0.2
        self._weight = weight / weight.sum()

    def draw(self, count: int) -> np.ndarray:
        """float32 [count, DIMENSION]: a centre and noise."""
        chosen = self._rng.choice(len(self._centres), count, p=self._weight)
        noise = self._rng.standard_normal((count, DIMENSION), np.float32) / np.sqrt(DIMENSION)
        spread = SPREAD * self._rng.uniform(0.7, 1.3, (count, 1))
        return unit(self._centres[chosen] + (spread * noise).astype(np.float32))

    def shard(self, count: int) -> np.ndarray:
        """As `draw`, the last tenth near-copies (cosine 0.98 to 0.999) of others in the shard."""
        rows = self.draw(count)
        copies = int(count * COPIES)
        of = rows[self._rng.integers(0, count - copies, copies)]
        noise = self._rng.standard_normal(of.shape, np.float32)
        noise = unit(noise - (noise * of).sum(1, keepdims=True) * of)
        cosine = self._rng.uniform(0.98, 0.999, (copies, 1)).astype(np.float32)
        rows[count - copies :] = unit(cosine * of + np.sqrt(1 - cosine**2) * noise)
        return rows


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def make(store: Path, count: int) -> str:
    """Write and commit a version of so many rows with a vector each, and new queries; its URL."""
    from infra import artifacts
    from infra.artifacts import Part, Spec
    from infra.dataset import ROWS, part_name, publish, write_table

    law = Vectors(count)
    spec = Spec("dataset", "bench", {"rows": count})
    url = str(store / "bench" / spec.digest)
    scores = Spec("scores", "bench", {"rows": count}, (spec.digest,))
    folder = f"{url}/scores/clip-{scores.digest}"
    Path(folder, "image").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for shard, start in enumerate(range(0, count, SHARD)):
        rows, name = min(SHARD, count - start), part_name(shard)
        np.save(Path(folder, "image", f"{name}.npy"), law.shard(rows).astype(np.float16))
        facts = {
            "uid": pa.array([rng.bytes(16).hex() for _ in range(rows)]),
            "status": pa.array(["ok"] * rows),
            "shard": pa.array(np.full(rows, shard, np.int32)),
            "row": pa.array(np.arange(rows, dtype=np.int32)),
            "caption": pa.array(
                [f"picture {start + row} of a made collection" for row in range(rows)]
            ),
            "width": pa.array(rng.integers(64, 1024, rows, np.int32)),
        }
        none = pa.nulls(rows)
        columns = [facts.get(column, none).cast(ROWS.field(column).type) for column in ROWS.names]
        table = pa.table(columns, schema=ROWS)
        file = write_table(url, f"rows/{name}.parquet", table, ("status",))
        artifacts.record_part(url, Part(name, (file,), rows, rows), 0, 0)
        scored = pa.table({"similarity": pa.array(rng.random(rows, np.float32))})
        file = write_table(folder, f"columns/{name}.parquet", scored, ())
        artifacts.record_part(folder, Part(name, (file,), rows, rows), 0, 0)
    artifacts.commit(folder, scores)
    publish(str(store), "bench", artifacts.commit(url, spec))
    np.save(store / "queries.npy", law.draw(QUERIES))
    return url


def truth(url: str, store: Path) -> None:
    """Write the places of the true neighbours of the queries, by brute force: int64 [n, K]."""
    queries = np.load(store / "queries.npy")
    best = np.full((len(queries), K), -np.inf, np.float32)
    place = np.full((len(queries), K), -1, np.int64)
    start = 0
    for path in sorted(Path(url).glob("scores/*/image/*.npy")):
        rows = np.load(path).astype(np.float32)
        values = np.concatenate([best, queries @ rows.T], axis=1)
        places = np.concatenate(
            [place, np.broadcast_to(start + np.arange(len(rows)), (len(queries), len(rows)))],
            axis=1,
        )
        order = np.argpartition(-values, K, axis=1)[:, :K]
        best = np.take_along_axis(values, order, 1)
        place = np.take_along_axis(places, order, 1)
        start += len(rows)
    np.save(store / "truth.npy", place)


def anonymous(process: int) -> int:
    """Bytes of a process and its children that no file stands behind."""
    total, family = 0, [psutil.Process(process)]
    with contextlib.suppress(psutil.Error):
        family += family[0].children(recursive=True)
    for each in family:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    total += int(line.split()[1]) * 1024
    return total


def run(python: str, script: Path, *arguments: str) -> dict[str, Any]:
    """What a script prints in its last line, and the most memory it and its children took."""
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"OMP_NUM_THREADS": THREADS, "PYTHONPATH": root}
    process = subprocess.Popen(
        [python, str(script), *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )
    most = 0
    while process.poll() is None:
        most = max(most, anonymous(process.pid))
        time.sleep(0.05)
    assert process.stdout
    said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{script.name} ended with {process.returncode}")
    return {**json.loads(said.strip().splitlines()[-1]), "peak_megabytes": round(most / 1e6)}


@contextlib.contextmanager
def prepared(count: int, folder: Path) -> Generator[tuple[str, Path]]:
    """The URL of a version of so many rows, and its store, for the time of the block."""
    store = folder / str(count)
    store.mkdir()
    url = make(store, count)
    truth(url, store)
    yield url, store
    shutil.rmtree(store)


def ours(store: Path, memory: str, kind: str) -> dict[str, Any]:
    """The figures of an index of a kind over the version in a store."""
    script = store / "ours.py"
    script.write_text(OURS)
    arguments = str(store), memory, THREADS, str(TURNS), str(K), str(SHARD), kind
    found = run(sys.executable, script, *arguments)
    print(json.dumps(found), file=sys.stderr, flush=True)
    return found


def compare(count: int, memory: str, peer: str | None, folder: Path) -> dict[str, Any]:
    """Both builds over one set of vectors."""
    with prepared(count, folder) as (url, store):
        figures: dict[str, Any] = {"memory": memory, "ours": ours(store, memory, "auto")}
        if peer is not None:
            theirs = store / "peer.py"
            theirs.write_text(PEER)
            vectors = str(next(Path(url).glob("scores/*/image")))
            common = THREADS, str(TURNS), str(K)
            figures["autofaiss"] = run(peer, theirs, vectors, str(store), memory, *common)
            figures["ratio"] = {
                name: round(figures["ours"][name] / figures["autofaiss"][name], 3)
                for name in ("cpu_seconds", "queries_a_second")
            }
    return figures


def every_kind(count: int, memory: str, folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """An index of each of `kinds` over one set of vectors."""
    with prepared(count, folder) as (_, store):
        return {"memory": memory, "kinds": {kind: ours(store, memory, kind) for kind in kinds}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[200_000])
    parser.add_argument("--memory", default="2G", help="what an opened index may take")
    parser.add_argument("--peer", help="a Python that has autofaiss 2.18")
    parser.add_argument("--kinds", nargs="*", default=[], help="these alone, each of ours")
    parser.add_argument("--folder", help="where the vectors are written")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for count in options.sizes:
            if options.kinds:
                found = every_kind(count, options.memory, Path(name), options.kinds)
            else:
                found = compare(count, options.memory, options.peer, Path(name))
            figures[str(count)] = found
    what = f"{DIMENSION} dimensions, {THREADS} threads, {QUERIES} queries"
    result = "index_kinds" if options.kinds else "index"
    keep(result, {"what": what, **figures}, "faiss-gpu", "numpy")


if __name__ == "__main__":
    main()
