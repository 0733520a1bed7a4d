"""The near-duplicate descriptor on the demo's corpus: planted pairs against all other pairs.

Exact comparison of every pair, for three seeds. Run: python tests/bench/near_duplicates.py
"""

import io
import time
from typing import Any

import numpy as np
from PIL import Image
from record import keep

from curation.scores import pixels
from flows.demo.corpus import Row, image_bytes, make_plan
from flows.demo.settings import CorpusSettings

SEEDS = (0, 1, 2)
THRESHOLDS = (0.88, 0.89, 0.90, 0.91, 0.92, 0.93)
HIDDEN = ("corrupt", "blank", "too_small", "extreme_aspect")  # rules drop these before


def decoded(row: Row, seed: int) -> np.ndarray:
    with Image.open(io.BytesIO(image_bytes(row, seed))) as image:
        return np.asarray(image.convert("RGB"))


def measure(seed: int) -> dict[str, Any]:
    files = make_plan(CorpusSettings(seed=seed)).files
    rows = [
        (name.startswith("evaluation"), row)
        for name, file in files.items()
        for row in file
        if not name.startswith("trusted") and row.defect not in HIDDEN
    ]
    images = [decoded(row, seed) for _, row in rows]
    start = time.process_time()
    vectors = np.stack([pixels.descriptor(image) for image in images])
    seconds = time.process_time() - start
    held_out = np.array([evaluation for evaluation, _ in rows])
    source = np.array([row.source.number for _, row in rows])
    near = vectors @ vectors.T
    place = {row.number: index for index, (_, row) in enumerate(rows)}

    def twins(defect: str) -> np.ndarray:
        pairs = [
            (place[row.number], place[row.twin.number])
            for _, row in rows
            if row.defect == defect and row.twin
        ]
        first, second = np.array(pairs).T
        return near[first, second]

    planted, leaked = twins("near_duplicate"), twins("evaluation_leak")
    near[source[:, None] == source[None]] = -1  # a pair of one source, planted or the same row
    pool = near[~held_out][:, ~held_out]
    pool = pool[np.triu_indices(len(pool), 1)]
    across = near[held_out][:, ~held_out].max(axis=0)
    return {
        "seed": seed,
        "images": len(images),
        "cpu_microseconds_per_image": round(seconds / len(images) * 1e6, 1),
        "dimension": pixels.dimension(),
        "planted_pairs": len(planted),
        "planted_quantiles_0_1_5_50": np.quantile(planted, [0, 0.01, 0.05, 0.5]).round(4).tolist(),
        "highest_other_pairs": [round(float(value), 4) for value in -np.sort(-pool)[:5]],
        "lowest_leak": round(float(leaked.min()), 4),
        "highest_other_to_evaluation": round(float(across.max()), 4),
        "thresholds": {
            str(threshold): {
                "recall": round(float((planted >= threshold).mean()), 4),
                "other_pairs": int((pool >= threshold).sum()),
            }
            for threshold in THRESHOLDS
        },
    }


def main() -> None:
    result = {
        "seeds": [measure(seed) for seed in SEEDS],
    }
    keep("near_duplicates", result, "numpy", "pillow")


if __name__ == "__main__":
    main()
