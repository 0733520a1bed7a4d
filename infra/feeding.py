"""Where the time of a shard goes that a network (or another scorer) works on: it works, or waits
for what it is fed.

Work says which is which by `fed`, `produced`, `waiting` and `working`; a stage reads it of each
shard.
Kept for the process: a worker does one shard at a time. What a GPU is given counts until its
results are back in memory, so that no halt is added.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

Item = TypeVar("Item")
Span = Callable[[], contextlib.AbstractContextManager[None]]


class Fed(NamedTuple):
    """Of the time of a shard: the share that a network waited, that a GPU worked (0 without one);
    the most bytes that this process held of the GPU.
    """

    waiting: float = 0.0
    gpu_use: float = 0.0
    gpu_memory: int = 0


class _Spent:
    def __init__(self) -> None:
        self.waited = self.worked = 0.0


_spent = _Spent()


@contextlib.contextmanager
def waiting() -> Generator[None]:
    """While this is open, the network has nothing to do."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _spent.waited += time.perf_counter() - start


@contextlib.contextmanager
def working() -> Generator[None]:
    """While this is open, the network works."""
    start = time.perf_counter()
    try:
        yield
    finally:
        _spent.worked += time.perf_counter() - start


def fed(items: Iterable[Item]) -> Iterator[Item]:
    """The items, which a network takes: it waits for each, and works until it asks for the next."""
    return _turns(items, waiting, working)


def produced(items: Iterable[Item]) -> Iterator[Item]:
    """The items, which a network makes: it works on each, and waits until the next is asked for."""
    return _turns(items, working, waiting)


def _turns(items: Iterable[Item], until: Span, after: Span) -> Iterator[Item]:
    """The items; what counts until each is there, and after that until the next is asked for."""
    source = iter(items)
    while True:
        with until():
            item = next(source, _END)
        if item is _END:
            return
        with after():
            yield item


_END: Any = object()


def forget() -> None:
    """From now on `told` counts anew."""
    _spent.waited = _spent.worked = 0.0
    cuda = _cuda()
    if cuda is not None:
        cuda.reset_peak_memory_stats()


def told(seconds: float, gpu: bool) -> Fed:
    """Where `seconds`, the time since `forget`, went.

    gpu: the work uses one where there is one; a worker may hold it for other work done before.
    """
    cuda = _cuda() if gpu else None
    memory = cuda.max_memory_allocated() if cuda is not None else 0
    waited, worked = (min(each / seconds, 1.0) if seconds > 0 else 0.0
                      for each in (_spent.waited, _spent.worked))  # fmt: skip
    return Fed(waited, worked if memory else 0.0, memory)


def _cuda() -> Any:
    """PyTorch's, where this process uses a GPU; it is not loaded for that."""
    torch: Any = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None
