"""Vector searches that arrive within a moment of each other, asked of faiss together.

A batch costs faiss much less than its queries one by one: every core has work, and a list that
several look into is read once. While a batch is under way the next one gathers.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

WINDOW = 0.001  # seconds the first of a batch waits for others
LARGEST = 64  # queries in a batch

Vectors = npt.NDArray[np.float32]
Search = Callable[[Any, Vectors], Sequence[Any]]


class _Asked(NamedTuple):
    key: Hashable
    vector: Vectors
    finish: Callable[[Any], Any]
    answer: "asyncio.Future[Any]"


class Batcher:
    """Gathers questions of equal `key` and searches once for each batch, in a thread.

    search: takes the key and vectors [n, dimension]; gives n results. What it raises, each
    question of the batch gets.
    """

    def __init__(self, search: Search, threads: Executor) -> None:
        self._search, self._threads = search, threads
        self._waiting: list[_Asked] = []
        self._worker: asyncio.Task[None] | None = None
        self.sizes: Callable[[int], None] = lambda _: None

    async def ask(self, key: Hashable, vector: Vectors, finish: Callable[[Any], Any]) -> Any:
        """What `finish` makes, in the thread, of the result of one question."""
        loop = asyncio.get_running_loop()
        asked = _Asked(key, vector, finish, loop.create_future())
        self._waiting.append(asked)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return await asked.answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(WINDOW)
        while batch := self._next():
            self.sizes(len(batch))
            answers = await loop.run_in_executor(self._threads, self._answers, batch)
            for asked, answer in zip(batch, answers, strict=True):
                _give(asked.answer, answer)
        self._worker = None

    def _next(self) -> list[_Asked]:
        """The longest waiting questions of one key; those nobody waits for are left out."""
        waiting = [asked for asked in self._waiting if not asked.answer.done()]
        batch = [asked for asked in waiting if asked.key == waiting[0].key][:LARGEST]
        chosen = {id(asked) for asked in batch}
        self._waiting = [asked for asked in waiting if id(asked) not in chosen]
        return batch

    def _answers(self, batch: Sequence[_Asked]) -> list[Any]:
        """For each question its answer, or the exception that stands for it."""
        try:
            found = self._search(batch[0].key, np.stack([asked.vector for asked in batch]))
        except Exception as error:
            return [error] * len(batch)
        return [_finished(asked, result) for asked, result in zip(batch, found, strict=True)]


def _finished(asked: _Asked, result: Any) -> Any:
    try:
        return asked.finish(result)
    except Exception as error:
        return error


def _give(future: "asyncio.Future[Any]", answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
