"""What an index knows of its rows: opened, taken, asked by condition and by uid; memory mapped.

Shards of 10,000 rows with captions, addresses and a dozen scores, in a folder of its own.
Run: python tests/bench/metadata.py
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from record import keep

from indexes.metadata import Metadata, write_metadata
from infra.dataset import index_id

SHARD, SCORES = 10_000, 12
SIZES = (1_000_000, 10_000_000)
HITS, TIMES = 1000, 9


def table(shard: int) -> pa.Table:
    """The rows of a shard; words and numbers as those of the web are in length and spread."""
    rng = np.random.default_rng(shard)
    words = rng.integers(0, 5000, (SHARD, 12)).astype(str).tolist()
    columns: dict[str, Any] = {
        "id": index_id(shard, 0) + np.arange(SHARD),
        "uid": [value.hex() for value in np.frombuffer(rng.bytes(16 * SHARD), "V16").tolist()],
        "caption": [" word".join(row) for row in words],
        "url": [f"https://example.org/{shard}/{row}/picture.jpg" for row in range(SHARD)],
        "width": rng.integers(64, 2048, SHARD, dtype=np.int32),
        "height": rng.integers(64, 2048, SHARD, dtype=np.int32),
        "format": ["jpg"] * SHARD,
        "bytes": rng.integers(4000, 400_000, SHARD),
        "sha256": [value.hex() for value in np.frombuffer(rng.bytes(32 * SHARD), "V32").tolist()],
    }
    columns |= {
        f"clip_score{number}": rng.random(SHARD, dtype=np.float32) for number in range(SCORES)
    }
    return pa.table(columns)


def milliseconds(work: Callable[[], object]) -> float:
    """The best of several calls, after a first one."""
    work()
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return round(1000 * min(taken), 2)


def held() -> float:
    """MB of this process's own memory, without mapped files."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in status if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1000


def measured(folder: str, rows: int) -> dict[str, float]:
    """The figures of one size; the files of a smaller one are used again."""
    shards = range(rows // SHARD)
    for shard in shards:
        if not Path(folder, "metadata", f"{shard:05d}.arrow").exists():
            write_metadata(folder, shard, table(shard))
    before, start = held(), time.perf_counter()
    facts = Metadata.open(folder, shards)
    assert (len(facts), len(facts.columns)) == (rows, 9 + SCORES)
    opened = time.perf_counter() - start
    rng = np.random.default_rng(0)
    hits = facts.at(rng.integers(0, rows, HITS))
    near = hits if rows == SIZES[0] else facts.at(rng.integers(0, SIZES[0], HITS))
    uids = facts.take(hits)["uid"].to_pylist()
    start = time.perf_counter()
    facts.find(uids[0])
    first = time.perf_counter() - start
    assert facts.find_all(uids).tolist() == hits.tolist()
    return {
        "rows": rows,
        "seconds_to_open": round(opened, 3),
        "ms_take_1000_hits_in_100_shards": milliseconds(lambda: facts.take(near)),
        "ms_take_1000_hits_anywhere": milliseconds(lambda: facts.take(hits)),
        "ms_first_uid": round(1000 * first, 2),
        "ms_a_uid": milliseconds(lambda: facts.find(uids[1])),
        "ms_1000_uids": milliseconds(lambda: facts.find_all(uids)),
        "ms_condition_on_numbers": milliseconds(
            lambda: facts.matching("width > 1024 and clip.score3 > 0.9")
        ),
        "ms_condition_on_text": milliseconds(lambda: facts.matching("caption like '%word37 %'")),
        "ms_histogram": milliseconds(lambda: facts.histogram("clip_score3", "width > 1024")),
        "mb_held": round(held() - before, 1),
    }


def main() -> None:
    with TemporaryDirectory(prefix="sluice-metadata-") as folder:
        figures = [measured(folder, rows) for rows in SIZES]
        bytes_a_row = sum(file.stat().st_size for file in Path(folder, "metadata").iterdir())
    result = {
        "what": "best of several calls; memory of the process without mapped files",
        "sizes": {"rows_a_shard": SHARD, "scores": SCORES, "hits": HITS},
        "bytes_a_row": round(bytes_a_row / SIZES[-1], 1),
        "figures": figures,
    }
    keep("metadata", result, "pyarrow", "duckdb", "numpy")


if __name__ == "__main__":
    main()
