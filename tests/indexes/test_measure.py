"""How far an index must look: what is tried, and what is not."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from indexes.lookup import Lookup
from indexes.measure import MOST_IN_VIEW, Queries, measure

SIZE, TRUE = 1_000_000, 100


@dataclasses.dataclass(frozen=True)
class Asked(Lookup):
    """Finds the first of a query's true neighbours, the more of them the greater the effort.

    A query's vector holds the effort [1] that it takes to find all; each call is noted.
    """

    calls: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    @property
    def size(self) -> int:
        return SIZE

    def scored(self, vectors: Any, count: int, effort: int, members: Any = None) -> tuple[Any, Any]:
        self.calls.append((count, effort))
        found = np.broadcast_to(np.arange(count), (len(vectors), count))
        share = effort / vectors[:, :1]
        similarity = np.where(found < TRUE * share, 1 - found / SIZE, -1)
        return similarity.astype(np.float32), found


def asked(kind: str, lists: int, lossy: bool) -> Asked:
    figures = {"kind": kind, "lists": lists, "lossy": lossy}
    figures |= {"dimension": 512, "indexed_dimensions": 512}
    return Asked(object(), np.empty(0, np.int64), None, figures)  # type: ignore[arg-type]


def queries(*efforts: float) -> dict[str, Queries]:
    """Queries that take such an effort for all they should find, those of a half in turn."""
    vectors = np.tile(np.array(efforts, np.float32), 8)[:, None]
    true = (1 - np.arange(TRUE) / SIZE).astype(np.float32)[None].repeat(len(vectors), 0)
    return {"image": Queries(vectors, np.full(len(vectors), -1), true)}


def test_a_graph_keeps_no_more_in_view_than_comparing_all_would_cost() -> None:
    lookup = asked("hnsw", 0, False)
    found = measure(lookup, queries(SIZE), 0.99)
    assert found["probes"] == max(effort for _, effort in lookup.calls) == MOST_IN_VIEW
    assert found["recall@10"]["image"] < 0.99
    assert len(lookup.calls) < 25


def test_of_lists_all_are_tried() -> None:
    lookup = asked("ivf_flat", 40_000, False)
    assert measure(lookup, queries(10 * SIZE), 0.99)["probes"] == 40_000


@pytest.mark.parametrize("lossy", [False, True])
def test_more_candidates_are_compared_only_where_codes_are_lossy(lossy: bool) -> None:
    lookup = asked("ivf_sq8" if lossy else "ivf_flat", 4_000, lossy)
    found = measure(lookup, queries(100, 300), 0.99)  # the second half is harder
    assert found["probes"] >= 20  # which is twice what the first half takes
    assert (found["factor"] > 1) == lossy


def test_a_graph_is_asked_once_for_all_that_lies_in_one_view() -> None:
    wide, narrow = asked("hnsw", 0, False), asked("hnsw", 0, False)
    assert measure(wide, queries(4_000), 0.99)["recall@100"]["image"] < 1
    assert wide.calls[-1][0] == 100
    measure(narrow, queries(100), 0.99)
    assert [count for count, _ in narrow.calls[-2:]] == [100, 10]
