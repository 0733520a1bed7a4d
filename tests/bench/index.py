"""The index and the pair search against a plain faiss full scan, in one run on one core.

Vectors are clustered, with a near-copy of every second one: a flat cloud would flatter nobody.
Run: python tests/bench/index.py
"""

import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import faiss
import numpy as np
from record import keep

from indexes.building import measure
from indexes.kinds import KINDS, search
from indexes.neighbours import pair_recall, range_pairs
from indexes.settings import IndexSettings

ROWS, DIMENSION, LATENT, QUERIES = 100_000, 256, 24, 1000
THRESHOLD = 0.9


def vectors(count: int) -> np.ndarray:
    """Unit float16 [count, DIMENSION] on a curved surface of LATENT dimensions."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count // 2, LATENT))
    first = np.tanh(points @ rng.normal(size=(LATENT, DIMENSION)))
    first += 0.1 * rng.normal(size=first.shape)
    both = np.concatenate([first, first + 0.2 * rng.normal(size=first.shape)])
    return (both / np.linalg.norm(both, axis=1, keepdims=True)).astype(np.float16)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return round(time.process_time() - start, 3)


def bench_index(base: np.ndarray) -> dict[str, object]:
    wide = base.astype(np.float32)
    ids = np.arange(len(base), dtype=np.int64)
    made: dict[str, object] = {}

    def build() -> None:
        made["index"] = KINDS["ivf_flat"].new(wide, 0, 0)
        made["index"].add_with_ids(wide, ids)  # type: ignore[attr-defined]

    seconds = cpu_seconds(build)
    figures: dict[str, object] = {}
    measuring = cpu_seconds(
        lambda: figures.update(measure(made["index"], ids, wide, None, IndexSettings()))
    )
    queries = wide[np.random.default_rng(1).permutation(len(wide))[:QUERIES]]
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(wide)
    ours = cpu_seconds(
        lambda: [search(made["index"], row[None], 10, figures["probes"]) for row in queries]  # type: ignore[arg-type]
    )
    scan = cpu_seconds(lambda: [flat.search(row[None], 10) for row in queries[:100]]) * 10
    return {
        "build_seconds": seconds,
        "measure_recall_seconds": measuring,
        **figures,
        "milliseconds_a_query": round(1000 * ours / QUERIES, 3),
        "milliseconds_a_query_faiss_flat": round(1000 * scan / QUERIES, 3),
    }


def bench_pairs(base: np.ndarray) -> dict[str, object]:
    found: dict[str, tuple[np.ndarray, ...]] = {}
    inverted = cpu_seconds(lambda: found.update(pairs=range_pairs(base, THRESHOLD)))
    wide = base.astype(np.float32)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(wide)
    few = wide[: len(wide) // 20]
    scan = cpu_seconds(lambda: flat.range_search(few, THRESHOLD)) * 20
    a, b, _ = found["pairs"]
    return {
        "pairs": len(a),
        "recall_on_512_rows": pair_recall(base, a, b, THRESHOLD),
        "seconds": inverted,
        "seconds_faiss_flat_extrapolated": round(scan, 1),
    }


def main() -> None:
    base = vectors(ROWS)
    result = {
        "what": "CPU seconds on one core",
        "sizes": {"rows": ROWS, "dimension": DIMENSION, "queries": QUERIES},
        "ivf_flat": bench_index(base),
        f"pairs_over_{THRESHOLD}": bench_pairs(base),
    }
    keep("index", result, "faiss-gpu", "numpy")


if __name__ == "__main__":
    main()
