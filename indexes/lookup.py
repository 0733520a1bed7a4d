"""An index in memory, and how it is asked: how far to look, ties by id, and that in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes import kinds

SELECTIVE = 0.2  # below this share of rows, a condition makes the search look everywhere

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Lookup:
    """index: of faiss, shared by all threads. figures: what was measured of it."""

    index: Any
    figures: Mapping[str, Any]

    @property
    def size(self) -> int:
        return int(self.figures["vectors"])

    def nearest(
        self, vectors: Vectors, k: int, ids: Ids | None, everywhere: bool = False
    ) -> list[tuple[Vectors, Ids]]:
        """For each of vectors [n, dimension] similarities and ids, best first, ties by id.

        ids: look at these alone. everywhere: into every list.
        """
        count = min(k, self.size if ids is None else len(ids))
        if not count:
            return [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(vectors)
        probes = self.probes(ids, everywhere)
        similarity, found = kinds.search(self.index, vectors, count, probes, ids)
        results: list[tuple[Vectors, Ids]] = []
        for values, rows in zip(similarity, found, strict=True):
            order = np.lexsort((rows, -values))
            order = order[rows[order] >= 0]
            results.append((values[order], rows[order]))
        return results

    def probes(self, ids: Ids | None, everywhere: bool = False) -> int:
        """Lists to look into. A condition that few rows meet is worth looking everywhere."""
        lists, probes = int(self.figures["lists"]), int(self.figures["probes"])
        share = 1.0 if ids is None else len(ids) / max(self.size, 1)
        if everywhere or share < SELECTIVE:
            return lists
        return min(lists, math.ceil(probes / share))

    def how(self, ids: Ids | None, everywhere: bool = False) -> str:
        """How such a search goes about it, for people."""
        lists, probes = int(self.figures["lists"]), self.probes(ids, everywhere)
        looked = f"{probes} of {lists} lists" if lists else "every vector"
        among = f"{self.size} rows" if ids is None else f"{len(ids)} rows that meet the condition"
        measured = self.figures["recall@10"].items()
        recall = ", ".join(f"{name} {value:.3f}" for name, value in measured) or "not measured"
        sure = "exact" if not lists or probes == lists else f"recall@10 {recall}"
        return f"{self.figures['kind']}, {looked} looked into, {among}; {sure}"
