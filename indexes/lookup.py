"""An opened index, and how it is asked: candidates, then the stored vectors themselves.

Every similarity that leaves here is the inner product of a query and a stored vector. An index
only says which vectors are worth comparing, and few are compared all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes import exact
from indexes.embeddings import Embedding
from indexes.files import AGAIN
from indexes.gpu import MOST, Resident, flat_index, resident
from indexes.kinds import candidates
from indexes.quantizer import shortened
from infra.errors import SluiceError

COMPARED = 20_000  # rows that are compared all, however many there are
COMPARED_SHARE = 0.02  # of all rows: fewer are compared all, and no list is looked into
RANGE_COMPARED = 1_000_000  # rows that a range search compares all
LEAST = 10  # results that candidates are looked for, for fewer are no faster found
QUERIES = 256  # asked at a time: their candidates are held
SPARE = 32  # more candidates than results, of a GPU that rounds queries to float16

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lookup:
    """index: of faiss, shared by all threads; None where all vectors are compared.

    ids: by position, ascending. figures: what was measured of it, and the effort it takes.
    removed: those of ids that are never found, ascending. device: "cpu", or "cuda", where all
    vectors are held by the GPU and compared there.
    """

    index: Any
    ids: Ids
    embedding: Embedding
    figures: Mapping[str, Any]
    removed: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    device: str = "cpu"

    @property
    def size(self) -> int:
        """Vectors in the index, removed ones included."""
        return len(self.ids)

    @property
    def count(self) -> int:
        """Vectors that can be found."""
        return len(self.ids) - len(self.removed)

    def without(self, removed: Ids) -> "Lookup":
        """As this one, and without these ids, as far as it has them."""
        places = np.searchsorted(self.ids, removed)  # which reads few of many mapped ids
        held = places < len(self.ids)
        held[held] = self.ids[places[held]] == removed[held]
        return replace(self, removed=removed[held])

    @cached_property
    def _live(self) -> Ids:
        """The ids that can be found: those of the index where none was removed."""
        return self.ids[~np.isin(self.ids, self.removed)] if len(self.removed) else self.ids

    @cached_property
    def _live_members(self) -> npt.NDArray[np.uint8] | None:
        return self._members(self._live) if len(self.removed) else None

    @cached_property
    def _resident(self) -> Resident:
        return resident(flat_index(self.embedding.dimension), self.embedding, self._live)

    def load(self) -> None:
        """Send the vectors to the device that is to hold them, if any; else at the first search."""
        if self.device == "cuda":
            _ = self._resident

    def on_gpu(self, k: int, ids: Ids | None, everywhere: bool) -> bool:
        """Whether such a search is the GPU's: one among all rows, for not too many of them."""
        return self.device == "cuda" and ids is None and not everywhere and k + SPARE <= MOST

    def nearest(
        self, vectors: Vectors, k: int, ids: Ids | None, everywhere: bool = False
    ) -> list[tuple[Vectors, Ids]]:
        """For each of vectors [n, dimension] similarities and ids, best first, ties by id.

        ids: look at these alone; they ascend. everywhere: into every list.
        """
        count = min(k, self.count if ids is None else len(ids))
        if not count:
            return [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(vectors)
        found: list[tuple[Vectors, Ids]] = []
        for start in range(0, len(vectors), QUERIES):
            block = np.ascontiguousarray(vectors[start : start + QUERIES], np.float32)
            if self.on_gpu(count, ids, everywhere):
                near = self._resident.candidates(block, min(count + SPARE, self.count))
                similarity = exact.similarities(self.embedding, block, near)
                found += zip(*exact.top(similarity, near, count), strict=True)
            elif self.compares(ids, everywhere):
                among = self._live if ids is None else ids
                found += zip(*exact.nearest(self.embedding, block, among, count), strict=True)
            else:
                found += self._searched(block, count, ids, everywhere)
        return found

    def _searched(
        self, vectors: Vectors, k: int, ids: Ids | None, everywhere: bool
    ) -> list[tuple[Vectors, Ids]]:
        members = self._live_members if ids is None else self._members(ids)
        among = self.count if ids is None else len(ids)
        wanted = min(max(k, LEAST) * int(self.figures["factor"]), among)
        effort = self.effort(wanted, among, everywhere)
        similarity, found = self.scored(vectors, wanted, effort, members)
        results: list[tuple[Vectors, Ids]] = []
        for query, values, rows in zip(vectors, *exact.top(similarity, found, k), strict=True):
            if rows[-1] < 0:  # the lists looked into held fewer: all are compared
                among_ids = self._live if ids is None else ids
                ((values, rows),) = zip(
                    *exact.nearest(self.embedding, query[None], among_ids, k), strict=True
                )
            results.append((values, rows))
        return results

    def scored(
        self, vectors: Vectors, count: int, effort: int, members: Any = None
    ) -> tuple[Vectors, Ids]:
        """Candidates in the index's order: exact similarities and ids [n, count], -1 for none."""
        dimension = int(self.figures["indexed_dimensions"])
        asked = np.ascontiguousarray(shortened(vectors, dimension), np.float32)
        positions = candidates(self.index, asked, count, effort, members)
        if positions.max() >= self.size:
            raise SluiceError(f"the index of {self.embedding.name} is damaged", AGAIN)
        ids = np.where(positions < 0, -1, self.ids[positions])
        return exact.similarities(self.embedding, vectors, ids), ids

    def _members(self, ids: Ids) -> npt.NDArray[np.uint8]:
        """A bit for each position, set for these ids."""
        chosen = np.zeros(self.size, bool)
        chosen[np.searchsorted(self.ids, ids)] = True
        return np.packbits(chosen, bitorder="little")

    def compares(self, ids: Ids | None, everywhere: bool = False) -> bool:
        """Whether every row in question is compared: the answer is exact then."""
        count = self.count if ids is None else len(ids)
        if self.index is None or (everywhere and count <= RANGE_COMPARED):
            return True
        return ids is not None and count <= max(COMPARED, COMPARED_SHARE * self.size)

    def effort(self, wanted: int, among: int, everywhere: bool) -> int:
        """Lists to look into, or vectors that a graph search keeps in view.

        More where a condition leaves rows out, and as many as hold what is wanted.
        """
        lists, chosen = int(self.figures["lists"]), int(self.figures["probes"])
        most = lists or self.size
        if everywhere:
            return most
        needed = max(chosen * self.size / among, 2 * wanted * (lists or among) / among)
        return min(most, math.ceil(needed))

    def how(self, ids: Ids | None, everywhere: bool = False, k: int = LEAST) -> str:
        """How such a search goes about it, for people."""
        among = f"{self.count} rows" if ids is None else f"{len(ids)} rows that meet the condition"
        kind = self.figures["kind"]
        if self.on_gpu(k, ids, everywhere):
            wanted = min(k + SPARE, self.count)
            return f"every vector compared on the GPU, and the best {wanted} again; {among}"
        if self.compares(ids, everywhere):
            return f"{kind}, every vector compared, {among}; exact"
        count = self.count if ids is None else len(ids)
        wanted = min(max(k, LEAST) * int(self.figures["factor"]), count)
        effort, lists = self.effort(wanted, count, everywhere), int(self.figures["lists"])
        looked = f"{effort} of {lists} lists looked into" if lists else f"{effort} kept in view"
        measured = self.figures["recall@10"].items()
        recall = ", ".join(f"{name} {value:.3f}" for name, value in measured) or "not measured"
        return (
            f"{kind}, {looked}, {wanted} candidates compared, {among}; "
            f"approximate, recall@10 {recall}"
        )
