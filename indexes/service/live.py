"""Which indexes are served, and how newer ones take their place while requests go on.

A request holds the index it began with; one that was replaced goes when its last request ends.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.embeddings import store_of, vectors_of
from indexes.files import LATEST as LATEST_INDEX
from indexes.models import model_of
from indexes.opening import open_index
from indexes.removed import removals
from indexes.search import Index
from indexes.service.batching import Batcher
from indexes.service.columns import Columns
from indexes.service.errors import RefusalError
from indexes.service.metrics import Metrics
from indexes.service.rows import Rows
from indexes.service.settings import ServiceSettings
from indexes.service.workers import Workers
from infra import filesystem
from infra.dataset import LATEST
from infra.errors import SluiceError
from infra.filesystem import join

Mark = tuple[str, bytes, tuple[str, ...]]  # version, its published index, its removals

LONGEST_PAUSE = 600.0  # seconds before a version that does not open is tried again

log = logging.getLogger("sluice.service")


@dataclass(frozen=True, eq=False)
class Live:
    """An open index and what answers from it."""

    index: Index
    follows: str | None
    text: bool  # whether a text or a picture can be asked
    columns: Columns
    rows: Rows
    plain: Batcher
    conditioned: Batcher  # a slow condition holds up no search without one

    @property
    def name(self) -> str:
        return self.index.name


@dataclass
class _Followed:
    """A name that is served, the state of the store it was opened at, and what went wrong since."""

    asked: str
    live: Live
    mark: Mark
    waiting: str = ""
    failed: str = ""
    failures: int = 0
    retry_at: float = 0.0


class Registry:
    """The served indexes by name; `follow` looks for newer ones until it is cancelled."""

    def __init__(self, settings: ServiceSettings, workers: Workers, metrics: Metrics) -> None:
        self._settings, self._workers, self._metrics = settings, workers, metrics
        self._followed = [self._first(asked) for asked in settings.indexes]

    @property
    def every(self) -> list[Live]:
        return [followed.live for followed in self._followed]

    @property
    def waiting(self) -> dict[str, str]:
        return {each.asked: each.waiting for each in self._followed if each.waiting}

    @property
    def failed(self) -> dict[str, str]:
        return {each.asked: each.failed for each in self._followed if each.failed}

    def get(self, name: str) -> Live:
        """The index called `name`; refused with 404 where none is."""
        for live in self.every:
            if name in (live.name, live.follows):
                return live
        dataset = name.partition("@")[0]
        now = next((live.name for live in self.every if live.follows == dataset), None)
        raise RefusalError(
            404,
            f"{name!r} is not served" + (f" any more: {dataset} now is {now}" if now else ""),
            f"there is {', '.join(live.name for live in self.every)}",
        )

    def _first(self, asked: str) -> _Followed:
        mark = self._mark(asked)
        return _Followed(asked, self._open(asked, None), mark)

    def _mark(self, asked: str) -> Mark:
        """What changes in the store when there is something newer to serve."""
        dataset, _, version = asked.partition("@")
        version = version or _read(join(self._settings.store, dataset, LATEST)).decode().strip()
        url = join(self._settings.store, dataset, version)
        return version, _read(join(url, "index", LATEST_INDEX)), tuple(removals(url))

    def _open(self, asked: str, old: Live | None) -> Live:
        """Open an index and let it answer once; its model is made ready if the old one's was."""
        settings = self._settings
        index = open_index(
            join(settings.store, asked),
            model=settings.model,
            pretrained=settings.pretrained,
            device=settings.device,
        )
        columns = Columns(index)
        index.search(index.stored(columns.first_id())[0], k=1)
        if old is not None and "encoder" in vars(old.index):
            _ = index.encoder
        plain, conditioned = (
            Batcher(_searcher(index), threads)
            for threads in (self._workers.search, self._workers.general)
        )
        plain.sizes = self._metrics.batch.observe
        follows = None if "@" in asked else asked
        rows = Rows(index, columns, settings.deadline)
        return Live(index, follows, _has_model(index), columns, rows, plain, conditioned)

    async def follow(self) -> None:
        """Look for newer versions and indexes; whatever goes wrong, what is served stays."""
        while True:
            await asyncio.sleep(self._settings.follow)
            for followed in self._followed:
                await self.renew(followed)

    async def renew(self, followed: _Followed) -> None:
        """Look once, and swap in what is newer and opens."""
        try:
            newer = await self._workers.run(self._workers.open, self._newer, followed)
        except Exception as error:
            self._failed(followed, error)
            return
        if newer is not None:
            followed.live, followed.failed, followed.failures = newer, "", 0
            self._metrics.reloads.labels(followed.asked, "done").inc()
            log.info("%s is served now", newer.name)

    def _newer(self, followed: _Followed) -> Live | None:
        mark = self._mark(followed.asked)
        followed.waiting = ""
        if mark == followed.mark:
            followed.failed = ""  # what failed has been taken back
            return None
        if not mark[1]:
            name = f"{followed.asked.partition('@')[0]}@{mark[0]}"
            followed.waiting = f"no index of {name} is published yet"
            return None
        if time.monotonic() < followed.retry_at:
            return None
        live = self._open(followed.asked, followed.live)
        removed = mark[2] != followed.mark[2]
        followed.mark, followed.retry_at = mark, 0.0
        same = not removed and live.index.artifact.digest == followed.live.index.artifact.digest
        return None if same and live.name == followed.live.name else live

    def _failed(self, followed: _Followed, error: Exception) -> None:
        told = str(error) if isinstance(error, SluiceError) else type(error).__name__
        pause = min(self._settings.follow * 2**followed.failures, LONGEST_PAUSE)
        followed.failed, followed.failures = told, followed.failures + 1
        followed.retry_at = time.monotonic() + pause
        self._metrics.reloads.labels(followed.asked, "failed").inc()
        log.error("%s stays at %s: %s", followed.asked, followed.live.name, told)


def _read(url: str) -> bytes:
    try:
        return filesystem.read_bytes(url)
    except FileNotFoundError:
        return b""


def _searcher(index: Index) -> Callable[[Any, npt.NDArray[np.float32]], Sequence[Any]]:
    """A search of many vectors for one pair of k and condition."""

    def search(key: tuple[int, str | None], vectors: npt.NDArray[np.float32]) -> Sequence[Any]:
        k, where = key
        return index.search(list(vectors), k, where=where)

    return search


def _has_model(index: Index) -> bool:
    """Whether the model of an index's vectors is named, without loading it."""
    scores = vectors_of(index.dataset, index.figures["embedding"]).scores
    try:
        model_of(scores, store_of(index.dataset), index.model, index.pretrained, "serve")
    except SluiceError:
        return False
    return True
