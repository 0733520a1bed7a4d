"""What an index knows of its rows: opened, taken, asked by condition and by uid; memory mapped.

Shards of 10,000 rows with captions, addresses and a dozen scores, in a folder of its own; and many
shards of a few rows each, of which opening an index should not take notice.
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

from indexes.arrays import map_array, write_array
from indexes.files import IDS
from indexes.metadata import (
    Metadata,
    columns_digest,
    metadata_path,
    write_columns,
    write_metadata,
)
from infra.artifacts import Part
from infra.dataset import index_id, part_name
from infra.filesystem import join

SHARD, SCORES = 10_000, 12
SIZES = (1_000_000, 10_000_000)
SMALL_SHARDS, SMALL = 20_000, 10
HITS, TIMES = 1000, 9


def table(shard: int, rows: int) -> pa.Table:
    """The rows of a shard; words and numbers as those of the web are in length and spread."""
    rng = np.random.default_rng(shard)
    words = rng.integers(0, 5000, (rows, 12)).astype(str).tolist()
    columns: dict[str, Any] = {
        "id": index_id(shard, 0) + np.arange(rows),
        "uid": [value.hex() for value in np.frombuffer(rng.bytes(16 * rows), "V16").tolist()],
        "caption": [" word".join(row) for row in words],
        "url": [f"https://example.org/{shard}/{row}/picture.jpg" for row in range(rows)],
        "width": rng.integers(64, 2048, rows, dtype=np.int32),
        "height": rng.integers(64, 2048, rows, dtype=np.int32),
        "format": ["jpg"] * rows,
        "bytes": rng.integers(4000, 400_000, rows),
        "sha256": [value.hex() for value in np.frombuffer(rng.bytes(32 * rows), "V32").tolist()],
    }
    columns |= {
        f"clip_score{number}": rng.random(rows, dtype=np.float32) for number in range(SCORES)
    }
    return pa.table(columns)


def write(folder: str, shards: range, rows: int) -> None:
    """What an index of so many rows a shard knows of them; the files that are there stay."""
    for shard in shards:
        if not Path(folder, metadata_path(shard)).exists():
            write_metadata(folder, shard, table(shard, rows))
    columns = {"columns": columns_digest(table(0, 1))}
    parts = [Part(part_name(shard), (), rows, rows, {}, columns) for shard in shards]
    write_columns(folder, folder, parts)
    every = [index_id(shard, 0) + np.arange(rows) for shard in shards]
    write_array(folder, IDS, np.concatenate(every))


def opened(folder: str, rows: int) -> tuple[Metadata, float]:
    """The metadata, and how many seconds it took until they could be asked."""
    start = time.perf_counter()
    facts = Metadata.open(folder, folder, map_array(join(folder, IDS)))
    assert (len(facts), len(facts.columns)) == (rows, 9 + SCORES)
    return facts, time.perf_counter() - start


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
    write(folder, range(rows // SHARD), SHARD)
    before = held()
    facts, seconds = opened(folder, rows)
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
        "seconds_to_open": round(seconds, 5),
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


def of_many_shards(folder: str) -> dict[str, float]:
    """Opening shards of a few rows each, and the first hits: one in each of ten shards."""
    write(folder, range(SMALL_SHARDS), SMALL)
    facts, seconds = opened(folder, SMALL_SHARDS * SMALL)
    start = time.perf_counter()
    taken = facts.take(facts.at(np.linspace(0, len(facts) - 1, 10).astype(np.int64)))
    assert len(taken) == 10
    return {
        "shards": SMALL_SHARDS,
        "rows": len(facts),
        "seconds_to_open": round(seconds, 5),
        "ms_first_10_hits": round(1000 * (time.perf_counter() - start), 2),
    }


def main() -> None:
    with TemporaryDirectory(prefix="sluice-metadata-") as folder:
        figures = [measured(folder, rows) for rows in SIZES]
        size = sum(file.stat().st_size for file in Path(folder, "metadata").iterdir())
    with TemporaryDirectory(prefix="sluice-metadata-") as folder:
        many_shards = of_many_shards(folder)
    result = {
        "what": "best of several calls; memory of the process without mapped files",
        "sizes": {"rows_a_shard": SHARD, "scores": SCORES, "hits": HITS},
        "bytes_a_row": round(size / SIZES[-1], 1),
        "figures": figures,
        "many_shards": many_shards,
    }
    keep("metadata", result, "pyarrow", "duckdb", "numpy")


if __name__ == "__main__":
    main()
