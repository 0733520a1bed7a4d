"""The threads that requests are worked on in, by kind, so that no kind holds up another."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from indexes.conditions import patience

Answer = TypeVar("Answer")


class Workers:
    """search: faiss, which brings threads of its own. model: one at a time. save: one at a time.
    general: conditions, histograms, pictures. fetch: what waits for the web. open: newer versions.
    """

    def __init__(self, deadline: float) -> None:
        """deadline: seconds after which a condition is given up, as its request is."""
        self.search = ThreadPoolExecutor(1, "sluice-search")
        self.general = ThreadPoolExecutor(4, "sluice-general", patience.set, (deadline,))
        self.fetch = ThreadPoolExecutor(4, "sluice-fetch")
        self.model = ThreadPoolExecutor(1, "sluice-model")
        self.save = ThreadPoolExecutor(1, "sluice-save")
        self.open = ThreadPoolExecutor(1, "sluice-open")

    async def run(
        self, threads: ThreadPoolExecutor, work: Callable[..., Answer], *values: Any, **named: Any
    ) -> Answer:
        """Do work in a thread; it is not begun any more once nobody waits for it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, partial(work, *values, **named))

    def close(self) -> None:
        """What is queued is dropped."""
        every = (self.search, self.general, self.fetch, self.model, self.save, self.open)
        for threads in every:
            threads.shutdown(wait=False, cancel_futures=True)
