"""Merge the codes of all shards into one index on disk, in shard order, with flat memory.

Lists are written one after the other, a block of them at a time: what every shard has of the
block is gathered, sorted by list, and written. So the file is written once, from front to back,
into any store, and is the same however the shards were encoded.
"""

import bisect
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from indexes.arrays import header, map_array, write_array
from indexes.codes import code_type
from indexes.embeddings import Embedding
from indexes.files import AGAIN, IDS, INDEX, LISTS, SIZES, array_of, write_index
from indexes.kinds import ID, KINDS, inverted_file, turned
from indexes.quantizer import QUANTIZER, Trained, shortened
from infra.artifacts import Artifact, Part
from infra.dataset import index_id
from infra.digests import generator
from infra.errors import SluiceError
from infra.filesystem import FilePart, is_local, join, read_bytes, resolve, write_whole
from infra.threads import ahead

BLOCK_BYTES = 64 * 2**20  # of lists gathered at a time
CHECKED = 256  # rows that are encoded again
DIFFERENT = 0.75  # share of a code's bytes: more differ only in the code of another vector
HNSW_BLOCK = 2**14  # vectors added at a time

Ids = npt.NDArray[np.int64]
Gathered = tuple[int, int, Ids, Ids, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Codes:
    """The parts of a codes artifact in shard order; `base` is the position where each starts."""

    artifact: Artifact

    @cached_property
    def parts(self) -> list[Part]:
        return list(self.artifact.parts)

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts]

    @property
    def counts(self) -> list[int]:
        return [part.kept for part in self.parts]

    @property
    def bases(self) -> list[int]:
        return [0, *np.cumsum(self.counts)[:-1].tolist()]

    @cached_property
    def count(self) -> int:
        return sum(self.counts)

    def array(self, kind: str, name: str) -> npt.NDArray[Any]:
        url = self.artifact.path(kind, f"{name}.npy")
        try:
            return map_array(url)
        except (FileNotFoundError, ValueError) as error:
            raise SluiceError(
                f"{url} is missing or damaged: {error}",
                "remove the folder of these codes and run the same command again",
            ) from error

    def ids(self, name: str) -> Ids:
        return index_id(int(name), 0) + self.array("rows", name).astype(np.int64)


def write_ids(codes: Codes, url: str) -> FilePart:
    """The id of each position, ascending."""
    with write_whole(url, IDS) as file:
        file.write(header(np.dtype("<i8"), (codes.count,)))
        for name in codes.names:
            file.write(codes.ids(name).astype("<i8").tobytes())
    return file.part(IDS)


def write_lists(codes: Codes, trained: Trained, url: str) -> list[FilePart]:
    """The inverted lists of all shards, and how long each is."""
    inner = inverted_file(trained.index)
    entry = inner.code_size + ID
    sizes = np.zeros(inner.nlist, np.int64)
    for name in codes.names:
        sizes += np.bincount(codes.array("codes", name)["list"], minlength=inner.nlist)

    def gathered(block: tuple[int, int]) -> Gathered:
        return (*block, *_gathered(codes, *block, inner.code_size))

    with write_whole(url, LISTS) as file, ThreadPoolExecutor(1) as threads:
        # The next block is gathered while this one is hashed and written.
        for found in ahead(threads, gathered, _blocks(sizes * entry), 1):
            first, last, numbers, positions, coded = found
            bounds = np.searchsorted(numbers, np.arange(first, last + 1)).tolist()
            for start, stop in pairwise(bounds):
                file.write(coded[start:stop].tobytes())
                file.write(positions[start:stop].tobytes())
    return [file.part(LISTS), write_array(url, SIZES, sizes)]


def _blocks(sizes: Ids) -> Iterator[tuple[int, int]]:
    """Lists first ... last - 1 of at most BLOCK_BYTES together, or one list that is larger."""
    first, held = 0, 0
    for number, size in enumerate(sizes.tolist()):
        if held and held + size > BLOCK_BYTES:
            yield first, number
            first, held = number, 0
        held += size
    yield first, len(sizes)


def _gathered(
    codes: Codes, first: int, last: int, size: int
) -> tuple[Ids, Ids, npt.NDArray[np.uint8]]:
    """Numbers of lists, positions and codes of the entries in these lists, by list and position."""
    numbers, positions = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    coded = [np.empty((0, size), np.uint8)]
    for name, base in zip(codes.names, codes.bases, strict=True):
        entries = codes.array("codes", name)
        if entries.dtype != code_type(size):
            raise SluiceError(f"{codes.artifact.path('codes', name)}.npy holds other codes", AGAIN)
        low, high = (bisect.bisect_left(entries["list"], number) for number in (first, last))
        own = entries[low:high]
        numbers.append(own["list"].astype(np.int64))
        positions.append(own["place"].astype(np.int64) + base)
        coded.append(own["code"])
    every = np.concatenate(numbers)
    order = np.argsort(every, kind="stable")
    return every[order], np.concatenate(positions)[order], np.concatenate(coded)[order]


def write_header(quantizer: Artifact, url: str) -> FilePart:
    """The trained, empty index: the same file as the quantizer's."""
    with write_whole(url, INDEX) as file:
        file.write(read_bytes(quantizer.path(QUANTIZER)))
    return file.part(INDEX)


def write_graph(codes: Codes, trained: Trained, embedding: Embedding, url: str) -> FilePart:
    """An HNSW graph over all vectors, added in shard order on one thread."""
    figures = trained.figures
    dimension = int(figures["indexed_dimensions"])
    new = KINDS[figures["kind"]].new
    assert new is not None  # of kinds that compare all nothing is merged
    index = new(None, dimension, 0, 0)
    with threadpool_limits(1):
        index.train(np.zeros((1, dimension), np.float32))
        for name in codes.names:
            rows = codes.array("rows", name)
            vectors = embedding.shard(int(name))
            for start in range(0, len(rows), HNSW_BLOCK):
                block = shortened(vectors[rows[start : start + HNSW_BLOCK]], dimension)
                index.add(np.ascontiguousarray(block, np.float32))
    return write_index(index, url, INDEX)


def check_lists(codes: Codes, trained: Trained, embedding: Embedding, url: str) -> None:
    """Every position is in one list, and a sample of codes is what its vectors encode to.

    Raises SluiceError where that does not hold: nothing is committed then.
    """
    sizes = array_of(join(url, SIZES), np.int64)
    inner = inverted_file(trained.index)
    chosen = generator("indexes.merge", "check").choice(
        codes.count, min(CHECKED, codes.count), replace=False
    )
    chosen.sort()
    seen = np.zeros(codes.count, np.uint8)
    lists = np.zeros(len(chosen), np.int64)
    coded = np.zeros((len(chosen), inner.code_size), np.uint8)
    for number, (code, positions) in enumerate(_lists(url, sizes, inner.code_size)):
        if len(positions) and (positions.min() < 0 or positions.max() >= codes.count):
            raise _inconsistent(url, f"list {number} names positions that there are not")
        seen[positions] += 1
        places = np.searchsorted(positions, chosen)
        places[places == len(positions)] = 0
        mine = positions[places] == chosen if len(positions) else np.zeros(len(chosen), bool)
        lists[mine], coded[mine] = number, code[places[mine]]
    if int(sizes.sum()) != codes.count or (seen != 1).any():
        raise _inconsistent(url, f"{int((seen != 1).sum())} vectors are not in exactly one list")
    ids = array_of(join(url, IDS), np.int64)
    wide = shortened(embedding.take(ids[chosen]), inner.d).astype(np.float32)
    again = trained.codes(turned(trained.index, wide), lists)
    if ((again != coded).mean(axis=1) > DIFFERENT).any():
        raise _inconsistent(url, "codes are not those of their vectors")


def _lists(url: str, sizes: Ids, code_size: int) -> Iterator[tuple[npt.NDArray[np.uint8], Ids]]:
    """Codes and positions of each list of a written file."""
    place = join(url, LISTS)
    if is_local(place):
        data = np.memmap(resolve(place)[1], np.uint8, "r") if sizes.any() else np.empty(0, np.uint8)
    else:
        data = np.frombuffer(read_bytes(place), np.uint8)
    start = 0
    for size in sizes.tolist():
        middle, stop = start + size * code_size, start + size * (code_size + ID)
        code = data[start:middle].reshape(size, code_size)
        yield code, np.frombuffer(data[middle:stop].tobytes(), np.int64)
        start = stop


def _inconsistent(url: str, what: str) -> SluiceError:
    return SluiceError(
        f"the new index at {url} is not consistent: {what}",
        "remove its folder and that of its codes, and run the same command again",
    )


def dropped_of(parts: Sequence[Part]) -> tuple[int, dict[str, int]]:
    """Rows seen and rows left out by reason, of all parts."""
    dropped: dict[str, int] = {}
    for part in parts:
        for reason, count in part.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return sum(part.rows for part in parts), dropped
