"""What a plan holds for each row: peak memory with 1 and with 2 million rows, per selector.

Each plan runs in a process of its own over the same files. The difference of the two peaks (of
resident memory, what is read and mapped included) is what each row more costs; the sample that
centroids are found on, entries, and a shard at a time are in both. Vectors have 16 dimensions, 32
bytes: where these were held, they would show. Run: python tests/bench/selection_memory.py
"""

import io
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from record import keep

from curation.selection.select import SelectionWork, selection_draft
from curation.selection.settings import SelectionSettings
from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import part_name, write_table
from infra.filesystem import write_bytes

MILLIONS = (1, 2)
SHARD = 50_000
DIMENSIONS, WORDS, DOMAINS = 16, 2000, 5000
SAMPLE = {"sample": 20_000, "iterations": 5}
PLANS = {
    "top, at random": {"kind": "top", "fraction": 0.5},
    "top, by score": {"kind": "top", "score": "clip.similarity", "fraction": 0.5},
    "quotas": {"kind": "quotas", "by": "domain", "most": 100},
    "concepts, by t": {"kind": "concepts", "entries": "entries.txt", "t": 5000},
    "concepts, for a target": {"kind": "concepts", "entries": "entries.txt", "fraction": 0.5},
    "clusters": {"kind": "clusters", "levels": [200, 20], "fraction": 0.5, **SAMPLE},
    "clusters, closest": {
        "kind": "clusters", "levels": [200], "fraction": 0.5, "leaves": "closest", **SAMPLE,
    },
    "density": {"kind": "density", "clusters": 200, "fraction": 0.5, **SAMPLE},
    "retrieval, neighbours": {"kind": "retrieval", "reference": "r.npy", "neighbours": 100},
    "retrieval, cells": {"kind": "retrieval", "reference": "r.npy", "cells": 200, **SAMPLE},
    "quantization": {"kind": "quantization", "fraction": 0.5, "bins": 5, **SAMPLE},
}  # fmt: skip


def pairs(rng: np.random.Generator, shard: int) -> pa.Table:
    """A shard's uids, captions and URLs."""
    words = np.array([f"word{number}" for number in range(WORDS)])
    common = np.minimum(rng.zipf(1.3, (SHARD, 8)) - 1, WORDS - 1)
    hosts = np.minimum(rng.zipf(1.3, SHARD) - 1, DOMAINS - 1)
    columns = {
        "uid": [rng.bytes(16).hex() for _ in range(SHARD)],
        "shard": np.full(SHARD, shard, np.int32),
        "row": np.arange(SHARD, dtype=np.int32),
        "caption": [" ".join(row) for row in words[common]],
        "url": [f"https://host{host}.org/{row}" for row, host in enumerate(hosts)],
    }
    return pa.table(columns)


def make_pool(folder: Path, rows: int) -> None:
    """Captions, URLs, a score, vectors and verdicts that keep all but one row in ten."""
    rng = np.random.default_rng(0)
    pool, scored, decided = (str(folder / name) for name in ("pool", "pool/scores/clip-0", "v"))
    for shard in range(rows // SHARD):
        name, kept = part_name(shard), rng.random(SHARD) < 0.9
        table, score = pairs(rng, shard), pa.table({"similarity": rng.random(SHARD)})
        verdicts = table.select(["uid", "shard", "row"]).append_column("kept", pa.array(kept))
        vectors = rng.normal(size=(SHARD, DIMENSIONS))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        buffer = io.BytesIO()
        np.save(buffer, vectors.astype(np.float16))
        files = {
            pool: [write_table(pool, f"rows/{name}.parquet", table)],
            scored: [
                write_table(scored, f"columns/{name}.parquet", score),
                write_bytes(scored, f"image/{name}.npy", buffer.getvalue()),
            ],
            decided: [write_table(decided, f"{name}.parquet", verdicts)],
        }
        for url, made in files.items():
            count = int(kept.sum()) if url == decided else SHARD
            dropped = {"rule": SHARD - count} if count < SHARD else {}
            artifacts.record_part(url, Part(name, tuple(made), SHARD, count, dropped), 0.0, 0.0)
    for url in (pool, scored, decided):
        artifacts.commit(url, Spec("bench", "bench", {"rows": rows}))
    (folder / "entries.txt").write_text("\n".join(f"word{n}" for n in range(WORDS // 2)))
    np.save(folder / "r.npy", rng.normal(size=(100, DIMENSIONS)).astype(np.float32))


def run_plan(folder: Path, plan: str) -> None:
    """Runs a plan and prints the rows it saw and the largest memory this process had, in bytes."""
    settings = SelectionSettings.model_validate({"plan": [json.loads(plan)]})
    pool, folders = str(folder / "pool"), {"clip": "clip-0"}
    draft = selection_draft(pool, "0" * 16, folders, "0" * 16, settings)
    part = SelectionWork(draft.url, pool, folders, str(folder / "v"), settings)(None, [""])[""]
    print(part.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in PLANS}
    for millions in MILLIONS:
        with tempfile.TemporaryDirectory() as folder:
            make_pool(Path(folder), millions * 1_000_000)
            for name, plan in PLANS.items():
                command = [sys.executable, __file__, folder, json.dumps(plan)]
                told = subprocess.run(
                    command, cwd=folder, check=True, capture_output=True, text=True
                ).stdout.split()
                found[name].append((int(told[0]), int(told[1])))
                print(name, *found[name][-1], flush=True)
    each = {
        name: round((most[1] - least[1]) / (most[0] - least[0]), 1)
        for name, (least, most) in found.items()
    }
    peaks = {name: [round(peak / 1e6) for _, peak in peaks] for name, peaks in found.items()}
    figures = {
        "what": "bytes of memory for each row more",
        "sizes": {"millions": MILLIONS, "shard": SHARD, "dimensions": DIMENSIONS},
        "bytes_per_row": each,
        "peak_megabytes": peaks,
    }
    keep("selection_memory", figures, "numpy", "pyarrow", "duckdb")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_plan(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
