"""How faiss is asked."""

from collections.abc import Generator
from typing import Any

import faiss
import numpy as np
import pytest

from indexes.kinds import candidates


class Graph:
    """Notes how many threads faiss may take while it is asked."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def search(self, queries: Any, k: int, params: Any) -> tuple[Any, Any]:
        self.threads.append(faiss.omp_get_max_threads())
        if k > 10:
            raise RuntimeError("damaged")
        return queries[:, :k], np.zeros((len(queries), k), np.int64)


@pytest.fixture
def two_threads() -> Generator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_a_query_alone_waits_for_no_other_thread() -> None:
    graph, queries = Graph(), np.zeros((3, 16), np.float32)
    candidates(graph, queries, 10, 8)
    candidates(graph, queries[:1], 10, 8)
    with pytest.raises(RuntimeError, match="damaged"):
        candidates(graph, queries[:1], 11, 8)
    assert graph.threads == [2, 1, 1]
    assert faiss.omp_get_max_threads() == 2
