"""The search for pairs of embeddings against SemDeDup as published, each in a child process.

Data: clusters of uneven size (Pareto), items around them at cosines of 0.5 to 0.8; a tenth of the
items are near-copies of an earlier one (cosine 0.98 to 0.999), another tenth hard negatives (0.90
to 0.97). The reference is written from the paper (Abbas et al. 2023, arXiv:2303.09540): k-means
with sqrt(n) cells, 20 rounds, 256 points a centroid, then all pairs inside a cell. Seconds are
those of the processor, of the whole child: imports, reading, compiled code from numba's cache.
Run: python tests/bench/embedding_pairs.py --sizes 100000 200000 1000000
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION, THRESHOLD = 512, 0.97
TURNS = 3
REFERENCE_UP_TO = 200_000  # at a million its cells alone take an hour of multiplications


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make(count: int, path: Path) -> None:
    """Write unit float16 [count, DIMENSION]."""
    rng = np.random.default_rng(7)
    centres = unit(rng.standard_normal((max(16, count // 200), DIMENSION), np.float32))
    weights = rng.pareto(1.5, len(centres)) + 0.2
    weights /= weights.sum()
    vectors = np.lib.format.open_memmap(path, "w+", np.float16, (count, DIMENSION))
    copies = rng.random(count) < 0.2
    copies[:1000] = False
    for start in range(0, count, 50_000):
        rows = np.arange(start, min(start + 50_000, count))
        noise = rng.standard_normal((len(rows), DIMENSION), np.float32) / DIMENSION**0.5
        noise *= rng.uniform(0.56, 1.04, (len(rows), 1))
        vectors[rows] = unit(centres[rng.choice(len(centres), len(rows), p=weights)] + noise)
    free = np.flatnonzero(~copies)
    rows = np.flatnonzero(copies)
    origin = free[(rng.random(len(rows)) * np.searchsorted(free, rows)).astype(np.int64)]
    hard = rng.random(len(rows)) < 0.5
    low, high = np.where(hard, 0.90, 0.98), np.where(hard, 0.97, 0.999)
    cosine = rng.uniform(low, high)[:, None]
    for start in range(0, len(rows), 50_000):
        part = slice(start, start + 50_000)
        base = vectors[origin[part]].astype(np.float32)
        other = rng.standard_normal(base.shape, np.float32)
        other = unit(other - (other * base).sum(1, keepdims=True) * base)
        vectors[rows[part]] = cosine[part] * base + np.sqrt(1 - cosine[part] ** 2) * other


def semdedup(vectors: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs inside the cells of a flat k-means: a < b."""
    import faiss

    count = len(vectors)
    wide = np.asarray(vectors, np.float32)
    means = faiss.Kmeans(
        DIMENSION, round(count**0.5), niter=20, spherical=True, seed=0, max_points_per_centroid=256
    )
    means.train(wide)
    cell = means.index.search(wide, 1)[1][:, 0]
    order = np.argsort(cell, kind="stable")
    found = [np.empty((2, 0), np.int64)]
    for rows in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        for start in range(0, len(rows), 4096):
            i, j = np.nonzero(wide[rows[start : start + 4096]] @ wide[rows].T >= threshold)
            found.append(np.stack([rows[i + start], rows[j]])[:, i + start < j])
    a, b = np.concatenate(found, axis=1)
    return np.minimum(a, b), np.maximum(a, b)


def grown(vectors: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """A search of everything, and one that was told the pairs of all rows but the last eleventh.

    The second finds its known rows by their vectors, as the stage does. Returns its pairs.
    """
    from curation.dedup.images import vector_words
    from curation.dedup.older import matching
    from indexes.neighbours import range_pairs

    start, known = time.process_time(), len(vectors) * 10 // 11
    a, b, _ = range_pairs(vectors, threshold)
    whole, old = time.process_time() - start, b < known
    start = time.process_time()
    found = matching(vector_words(vectors), vector_words(vectors[:known]))
    assert (found[:known] == np.arange(known)).all()
    new_a, new_b, _ = range_pairs(vectors, threshold, known=known)
    spent = time.process_time() - start
    seconds = {"everything": round(whole, 2), "grown": round(spent, 2)}
    figures = {"known": known, "seconds": seconds, "ratio": round(spent / whole, 3)}
    return np.concatenate([a[old], new_a]), np.concatenate([b[old], new_b]), figures


def child(method: str, path: Path, threshold: float) -> None:
    """Search, tell the seconds and the memory, and only then measure recall."""
    from indexes.neighbours import pair_recall, pair_similarity, range_pairs

    vectors = np.load(path, mmap_mode="r")
    figures: dict[str, Any] = {}
    if method == "ours":
        a, b, _ = range_pairs(vectors, threshold)
    elif method == "grown":
        a, b, figures = grown(vectors, threshold)
    else:
        a, b = semdedup(vectors, threshold)
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_gigabytes": round(used.ru_maxrss / 1e6, 2),
        "pairs": len(a),
        "recall": round(pair_recall(vectors, a, b, threshold), 5),
        "under_threshold": int((pair_similarity(vectors, a, b) < np.float32(threshold)).sum()),
        **figures,
    }
    print(json.dumps(figures))


def measure(method: str, path: Path, threshold: float) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    command = [sys.executable, __file__, "--child", method, str(path), str(threshold)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def least(turns: list[dict[str, Any]]) -> dict[str, Any]:
    return min(turns, key=lambda turn: turn["cpu_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 200_000])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        method, path, threshold = options.child
        child(method, Path(path), float(threshold))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in options.sizes:
            path = Path(folder, f"{count}.npy")
            make(count, path)
            methods = ["ours", "semdedup"] if count <= REFERENCE_UP_TO else ["ours"]
            turns: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
            for _ in range(options.turns):
                for method in methods:
                    turns[method].append(measure(method, path, THRESHOLD))
            row = {method: least(turns[method]) for method in methods}
            if "semdedup" in row:
                ratio = row["ours"]["cpu_seconds"] / row["semdedup"]["cpu_seconds"]
                row["ratio"] = round(ratio, 3)  # type: ignore[assignment]
                row["ours_at_0.90"] = measure("ours", path, 0.90)
                row["grown_at_0.90"] = measure("grown", path, 0.90)
            row["grown"] = measure("grown", path, THRESHOLD)
            figures[str(count)] = row
            print(json.dumps({count: row}), file=sys.stderr, flush=True)
            path.unlink()
    first, last = (str(size) for size in (min(options.sizes), max(options.sizes)))
    growth = figures[last]["ours"]["cpu_seconds"] / figures[first]["ours"]["cpu_seconds"]
    from record import keep

    keep(
        "embedding_pairs",
        {
            "what": f"pairs of cosine {THRESHOLD} or more; seconds are CPU seconds of a process",
            "sizes": figures,
            f"growth_{first}_to_{last}": round(growth, 2),
        },
        "numpy",
        "numba",
        "faiss-gpu",
    )


if __name__ == "__main__":
    main()
