"""Threads that work ahead of the one that uses what they make."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    threads: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    count: int,
) -> Generator[Result, None, None]:
    """function(item) of each item, in order; up to `count` are begun before they are asked for.

    What it raises is raised in its place. Items are taken in the caller's thread.
    """
    begun: deque[Future[Result]] = deque()
    try:
        for item in items:
            begun.append(threads.submit(function, item))
            if len(begun) > count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        for future in begun:
            future.cancel()
