"""Questions that arrive together are searched together, and each gets its own answer."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.service.batching import LARGEST, Batcher


class Searched:
    """Adds the key to the first number of each vector, and notes what came together."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, int]] = []

    def __call__(self, key: Any, vectors: np.ndarray) -> list[float]:
        self.batches.append((key, len(vectors)))
        if key == "broken":
            raise ValueError("broken")
        return [float(row[0]) + key for row in vectors]


def gathered(questions: list[tuple[Any, int]]) -> tuple[list[Any], Searched]:
    searched = Searched()

    async def main(threads: ThreadPoolExecutor) -> list[Any]:
        batcher = Batcher(searched, threads)
        asked = [
            batcher.ask(key, np.array([number], np.float32), lambda found: ("told", found))
            for key, number in questions
        ]
        return await asyncio.gather(*asked, return_exceptions=True)

    with ThreadPoolExecutor(1) as threads:
        return asyncio.run(main(threads)), searched


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=150))
def test_each_gets_its_own_answer(questions: list[tuple[int, int]]) -> None:
    answers, searched = gathered(questions)
    assert answers == [("told", float(key + number)) for key, number in questions]
    assert sum(count for _, count in searched.batches) == len(questions)
    counts = {key: sum(each == key for each, _ in questions) for key in range(3)}
    for key, count in counts.items():
        batches = [size for each, size in searched.batches if each == key]
        assert len(batches) == -(-count // LARGEST) and all(batches)


def test_a_failure_is_told_to_its_batch_alone() -> None:
    answers, _ = gathered([("broken", 1), (1, 1), ("broken", 2)])
    assert [type(answer) for answer in answers] == [ValueError, tuple, ValueError]


def test_what_nobody_waits_for_is_not_searched() -> None:
    searched = Searched()

    async def main(threads: ThreadPoolExecutor) -> None:
        batcher = Batcher(searched, threads)
        vector = np.zeros(1, np.float32)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await batcher.ask(1, vector, str)
        assert await batcher.ask(2, vector, str) == "2.0"

    with ThreadPoolExecutor(1) as threads:
        asyncio.run(main(threads))
    assert searched.batches == [(2, 1)]


def test_a_fault_in_telling_is_its_own() -> None:
    async def main(threads: ThreadPoolExecutor) -> list[Any]:
        batcher = Batcher(Searched(), threads)
        vector = np.zeros(1, np.float32)

        def wrong(found: Any) -> Any:
            raise RuntimeError("wrong")

        asked = [batcher.ask(1, vector, wrong), batcher.ask(1, vector, str)]
        return await asyncio.gather(*asked, return_exceptions=True)

    with ThreadPoolExecutor(1) as threads:
        first, second = asyncio.run(main(threads))
    assert isinstance(first, RuntimeError) and second == "1.0"
