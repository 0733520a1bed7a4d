import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.threads import ahead


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("count", [0, 3, 100])
def test_order_is_kept_and_what_is_ahead_is_bounded(threads: int, count: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 50:
            taken += 1
            yield taken

    with ThreadPoolExecutor(threads) as pool:
        found: list[int] = []
        for result in ahead(pool, lambda item: item * item, items(), count):
            found.append(result)
            assert taken <= len(found) + count
    assert found == [item * item for item in range(1, 51)]


def test_an_error_comes_in_its_place_and_the_rest_is_not_begun() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 2:
            raise ValueError("two")
        return item

    with ThreadPoolExecutor(1) as pool:
        results = ahead(pool, work, iter(range(10)), 3)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)
    assert max(begun) <= 5


def test_what_is_not_asked_for_is_cancelled() -> None:
    gate, begun = threading.Event(), list[int]()

    def work(item: int) -> int:
        begun.append(item)
        assert item == 0 or gate.wait(30)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = ahead(pool, work, range(10), 5)
        assert next(results) == 0
        results.close()
        gate.set()
    assert begun in ([0], [0, 1])
