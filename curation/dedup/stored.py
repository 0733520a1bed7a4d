"""The pairs of a search as they are stored: one sorted Parquet file."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from infra import filesystem
from infra.filesystem import FilePart, join, write_whole

EDGES_FILE = "edges.parquet"
EDGES = pa.schema(
    [
        ("a", pa.int64()),  # index ids, shard << 20 | row; a < b
        ("b", pa.int64()),
        ("kind", pa.string()),  # exact, pixels, perceptual, or the vectors compared: SCORER/VECTOR
        ("similarity", pa.float32()),  # 1; 1 - bits / 64 of the hashes; cosine
    ]
)
GROUP = 1 << 20  # pairs written at once, a row group of the file

Ids = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Edges:
    """Pairs of one kind: arrays [m]."""

    kind: str
    a: Ids
    b: Ids
    similarity: Similarities


def read_edges(url: str) -> pa.Table:
    """The pairs of a search; `kind` is a dictionary, as there are few kinds and many pairs."""
    with filesystem.open_read(join(url, EDGES_FILE)) as file:
        return pq.ParquetFile(file, read_dictionary=["kind"]).read(use_threads=False)


def write_edges(url: str, found: list[Edges]) -> FilePart:
    """Write all pairs, sorted; `found` is emptied, so that memory holds them once."""
    with (
        write_whole(url, EDGES_FILE) as file,
        pq.ParquetWriter(file, EDGES, compression="zstd") as writer,
    ):
        for group in sorted_edges(found):
            writer.write_table(group, GROUP)
    return file.part(EDGES_FILE)


def sorted_edges(found: list[Edges]) -> Iterator[pa.Table]:
    """All pairs by a, b and kind, in tables of GROUP; `found` is emptied."""
    kinds = sorted({edges.kind for edges in found})
    count = sum(len(edges.a) for edges in found)
    a, b = np.empty((2, count), np.int64)
    kind, similarity = np.empty(count, np.int8), np.empty(count, np.float32)
    stop = count
    while found:
        edges = found.pop()
        place = slice(stop - len(edges.a), stop)
        a[place], b[place], similarity[place] = edges.a, edges.b, edges.similarity
        kind[place] = kinds.index(edges.kind)
        stop = place.start
        del edges
    order = np.lexsort((kind, b, a))
    names = pa.array(kinds, pa.string())
    for start in range(0, max(count, 1), GROUP):
        rows = order[start : start + GROUP]
        columns = [a[rows], b[rows], names.take(pa.array(kind[rows])), similarity[rows]]
        yield pa.table(columns, schema=EDGES)
