"""The rows of a version that are compared, and what of them is: hashes as words, vectors.

A row is known by its place among those that are in; its id is made only where a pair is stored.
So in memory are a byte for each row of the version, and the words of one rung at a time.
"""

# pyarrow.compute makes its functions when it is imported; pyright cannot see them.
# pyright: reportAttributeAccessIssue=false

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from curation.columns import overlapped, read_columns, read_vectors
from curation.rules_settings import HASH_BITS
from infra.dataset import ROW_BITS, Dataset
from infra.filesystem import TEMPORARY, is_local, resolve

HASH_SCORER = "hash"
STEP = 1 << 14  # rows moved at once

Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Images:
    """The rows of a version that are in, in the order of shards and rows."""

    dataset: Dataset
    present: Bools  # of every row of the version

    @staticmethod
    def every(dataset: Dataset) -> "Images":
        rows = sum(part.rows for part in dataset.artifact.parts)
        return Images(dataset, np.ones(rows, bool))

    def __len__(self) -> int:
        return int(np.count_nonzero(self.present))

    def without(self, places: Ids) -> "Images":
        """All but those at `places` among them."""
        kept = np.ones(len(self), bool)
        kept[places] = False
        return self.only(kept)

    def only(self, chosen: Bools) -> "Images":
        """Those of them that are chosen: bool [len(self)]."""
        present = self.present.copy()
        present[present] = chosen
        return Images(self.dataset, present)

    def by_shard(self) -> Iterator[tuple[int, Ids, slice]]:
        """Each shard, its rows that are in, and their places among all that are."""
        start = place = 0
        for part in sorted(self.dataset.artifact.parts, key=lambda part: int(part.name)):
            rows = np.flatnonzero(self.present[start : start + part.rows])
            yield int(part.name), rows, slice(place, place + len(rows))
            start, place = start + part.rows, place + len(rows)

    def ids(self) -> Ids:
        """Their index ids, ascending: int64 [len(self)]."""
        ids = np.empty(len(self), np.int64)
        for shard, rows, places in self.by_shard():
            ids[places] = rows | shard << ROW_BITS
        return ids

    def positions(self, ids: Ids) -> Ids:
        """Where the rows of these ids stand among all rows of the version."""
        parts = sorted(self.dataset.artifact.parts, key=lambda part: int(part.name))
        shards = np.array([int(part.name) for part in parts])
        starts = np.cumsum([0, *(part.rows for part in parts)])
        return starts[np.searchsorted(shards, ids >> ROW_BITS)] + (ids & (1 << ROW_BITS) - 1)

    def words(self, read: Callable[[int, Ids], Words]) -> Words:
        """What `read` gives for a shard and rows of it, for all: uint64 [len(self), 2]."""
        words = np.empty((len(self), 2), np.uint64)

        def fill(part: tuple[int, Ids, slice]) -> None:
            shard, rows, places = part
            words[places] = read(shard, rows)

        for _ in overlapped(self.dataset.url, fill, self.by_shard(), self.dataset.shard_rows):
            pass
        return words

    def vectors(self, folder: str, vector: str, scratch: str) -> Vectors:
        """Their vectors, float16 [len(self), dim], mapped: a copy of the shards' files.

        scratch: URL of the artifact that is being made; beside a local one lies the copy.
        """
        staged, dimension = scratch_file(scratch), 1
        for shard, rows, _ in self.by_shard():
            vectors = read_vectors(self.dataset.url, folder, vector, shard)
            dimension = vectors.shape[1]
            staged.write(np.ascontiguousarray(vectors[rows], np.float16).data)
        return mapped(staged, np.float16, dimension)

    def vector_words(self, folder: str, vector: str, scratch: str) -> Words:
        """What their vectors are known by: uint64 [len(self), 2], mapped."""
        staged = scratch_file(scratch)
        for shard, rows, _ in self.by_shard():
            vectors = read_vectors(self.dataset.url, folder, vector, shard)
            staged.write(vector_words(vectors[rows]).data)
        return mapped(staged, np.uint64, 2)


def scratch_file(url: str) -> Any:
    """A nameless file, of which nothing is left; beside a local artifact, where there is room."""
    if not is_local(url):
        return tempfile.TemporaryFile(prefix="sluice-")
    folder = Path(resolve(url)[1]) / TEMPORARY
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


def mapped(file: Any, kind: type[np.generic], width: int) -> Any:
    """The rows in a file: [n, width] of that type."""
    size = file.tell()
    file.flush()
    if not size:
        return np.empty((0, width), kind)
    return np.asarray(np.memmap(file, kind, "r")).reshape(-1, width)


def vector_words(vectors: Vectors) -> Words:
    """The first 128 bits of the SHA-256 of each vector: [n, dim] -> [n, 2]."""
    rows = np.ascontiguousarray(vectors)
    hashed = b"".join([hashlib.sha256(row).digest()[:16] for row in rows])
    return np.frombuffer(hashed, np.uint64).reshape(-1, 2)


def stored(rows: npt.NDArray[Any], scratch: str) -> npt.NDArray[Any]:
    """The same rows, mapped."""
    staged = scratch_file(scratch)
    staged.write(np.ascontiguousarray(rows).data)
    width = rows.shape[1] if rows.ndim > 1 else 1
    return mapped(staged, rows.dtype.type, width).reshape(rows.shape)


def reordered(rows: Any, chosen: Bools, scratch: str) -> Any:
    """Those that are chosen, then the others, in a file of their own: [n, width], mapped."""
    staged = scratch_file(scratch)
    for wanted in (True, False):
        for start in range(0, len(rows), STEP):
            place = slice(start, start + STEP)
            staged.write(np.ascontiguousarray(rows[place][chosen[place] == wanted]).data)
    return mapped(staged, rows.dtype.type, rows.shape[1])


def byte_words(images: Images) -> Words:
    """The first 128 bits of the SHA-256 of each image's bytes; zero where a row has no image."""

    def read(shard: int, rows: Ids) -> Words:
        table = images.dataset.rows(shard, ["status", "sha256"])
        usable = pc.and_(pc.equal(table["status"], "ok"), table["sha256"].is_valid())
        return hex_words(pc.if_else(usable, table["sha256"], None).take(rows).to_pylist())

    return images.words(read)


def pixel_words(images: Images, folders: Mapping[str, str]) -> Words:
    """The first 128 bits of the SHA-256 of each image's pixels; zero where there is none."""
    name = f"{HASH_SCORER}.pixel_sha256"

    def read(shard: int, rows: Ids) -> Words:
        table = read_columns(images.dataset.url, folders, shard, [name])
        return hex_words(table[name].take(rows).to_pylist())

    return images.words(read)


def perceptual_words(images: Images, folders: Mapping[str, str]) -> Words:
    """pHash and dHash of each image; zero where there is none."""
    names = [f"{HASH_SCORER}.{name}" for name in ("phash", "dhash")]

    def read(shard: int, rows: Ids) -> Words:
        table = read_columns(images.dataset.url, folders, shard, names)
        return hash_words(*(table[name] for name in names))[rows]

    return images.words(read)


def hash_words(phash: pa.ChunkedArray, dhash: pa.ChunkedArray) -> Words:
    """Perceptual hashes, uint64 [n, 2]; zero where there is none."""
    columns = [column.cast(pa.uint64()).fill_null(0).to_numpy() for column in (phash, dhash)]
    return np.stack(columns, axis=1)


def hex_words(digests: Sequence[str | None]) -> Words:
    """The first 128 bits of SHA-256 digests, uint64 [n, 2]; zero where there is none."""
    data = bytes.fromhex("".join([digest or "0" * HASH_BITS for digest in digests]))
    return np.frombuffer(data, np.uint64).reshape(-1, 4)[:, :2]
