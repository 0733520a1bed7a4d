"""Selection: captions matched against 100,000 entries, k-means, bins, a whole plan's draws.

The references: the paper's plain search of every entry in every caption; FAISS for k-means, with as
many iterations from points at random. CPU seconds, best of TURNS, in turns in one process. Run:
python tests/bench/selection.py
"""

import time
from collections.abc import Callable

import faiss
import numpy as np
from record import keep

from curation import kmeans
from curation.draws import draws
from curation.selection import hierarchy, quantization
from curation.selection.choice import lowest
from curation.selection.concepts import Matcher, pad

ENTRIES, CAPTIONS, PLAIN = 100_000, 20_000, 20
POINTS, DIMENSIONS, CLUSTERS, ITERATIONS = 50_000, 128, 500, 10
LEAVES, ROWS = 100_000, 4_000_000
TURNS = 3


def best(*works: Callable[[], object]) -> list[float]:
    """The least CPU seconds of each, in turns."""
    found = [float("inf")] * len(works)
    for _ in range(TURNS):
        for place, work in enumerate(works):
            start = time.process_time()
            work()
            found[place] = min(found[place], time.process_time() - start)
    return found


def matching(rng: np.random.Generator) -> dict[str, float]:
    words = np.array([f"w{number:x}" for number in range(200_000)])
    common = np.minimum(rng.zipf(1.2, (CAPTIONS, 10)) - 1, len(words) - 1)
    captions = [" ".join(row) for row in words[common]]
    pairs = {f"{words[a]} {words[b]}" for a, b in rng.integers(0, 1000, (ENTRIES, 2))}
    entries = [*words[: ENTRIES // 2], *sorted(pairs)][:ENTRIES]
    matcher = Matcher(entries)
    found = matcher.match(captions)

    padded = [f" {entry} " for entry in entries]

    def plain() -> list[list[int]]:
        texts = [pad(caption) for caption in captions[:PLAIN]]
        return [[e for e, entry in enumerate(padded) if entry in text] for text in texts]

    expected = [(row, e) for row, named in enumerate(plain()) for e in named]
    ours = zip(found.texts.tolist(), found.entries.tolist(), strict=True)
    assert expected == [pair for pair in ours if pair[0] < PLAIN]
    seconds = best(lambda: matcher.match(captions), plain)
    (built,) = best(lambda: Matcher(entries))
    ours, reference = CAPTIONS / seconds[0], PLAIN / seconds[1]
    return {
        "captions_per_second": round(ours),
        "captions_per_second_plain": round(reference, 1),
        "ratio": round(ours / reference),
        "seconds_to_build": round(built, 2),
        "matches_per_caption": round(len(found.entries) / CAPTIONS, 2),
    }


def clustering(rng: np.random.Generator) -> dict[str, float]:
    centres = rng.normal(size=(CLUSTERS, DIMENSIONS))
    points = centres[rng.integers(0, CLUSTERS, POINTS)] + rng.normal(size=(POINTS, DIMENSIONS))
    points = points.astype(np.float32)
    left: dict[str, np.ndarray] = {}

    def ours() -> None:
        left["ours"] = kmeans.fit(points, CLUSTERS, (0, "bench"), ITERATIONS)

    def reference() -> None:
        trained = faiss.Kmeans(
            DIMENSIONS, CLUSTERS, niter=ITERATIONS, seed=0, max_points_per_centroid=POINTS
        )
        trained.train(points)
        left["faiss"] = trained.centroids

    seconds = best(ours, reference)
    distances = {name: kmeans.assign(points, found)[1].mean() for name, found in left.items()}
    return {
        "seconds": round(seconds[0], 2),
        "seconds_faiss": round(seconds[1], 2),
        "ratio": round(seconds[0] / seconds[1], 2),
        "mean_distance": round(distances["ours"], 3),
        "mean_distance_faiss": round(distances["faiss"], 3),
    }


def sampling(rng: np.random.Generator) -> dict[str, float]:
    sizes = np.minimum(rng.zipf(1.5, LEAVES), 10_000)
    parents = [rng.integers(0, 1000, LEAVES), rng.integers(0, 100, 1000)]
    taken = [np.zeros(count, np.int64) for count in (LEAVES, 1000, 100)]
    target = int(sizes.sum() // 4)
    uids = rng.integers(0, 2**64, (ROWS, 2), np.uint64)
    cells = rng.integers(0, LEAVES, ROWS)
    quotas = np.full(LEAVES, 20)
    vectors = rng.normal(size=(1000, 512))
    seconds = best(
        lambda: hierarchy.spread(sizes, parents, target, (0,), taken),
        lambda: lowest(cells, quotas, draws(uids, 0)),
        lambda: quantization.bins(vectors, 10, 1.0),
    )
    return {
        "balanced_target_over_100k_leaves": round(seconds[0], 3),
        "quotas_over_4m_rows": round(seconds[1], 2),
        "bins_of_1000_rows_of_512": round(seconds[2], 3),
    }


def main() -> None:
    rng = np.random.default_rng(0)
    sizes = {
        "entries": ENTRIES, "captions": CAPTIONS, "points": POINTS, "dimensions": DIMENSIONS,
        "clusters": CLUSTERS, "iterations": ITERATIONS, "leaves": LEAVES, "rows": ROWS,
    }  # fmt: skip
    figures = {
        "what": f"CPU seconds, best of {TURNS}",
        "sizes": sizes,
        "concepts": matching(rng),
        "k_means": clustering(rng),
        "sampling": sampling(rng),
    }
    keep("selection", figures, "numpy", "pyahocorasick", "faiss-gpu")


if __name__ == "__main__":
    main()
