"""Questions of requests: made unit vectors, searched in batches, told as JSON."""
# pyarrow has no type stubs:
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

import base64
import binascii
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from indexes.hits import Hits
from indexes.pictures import decode
from indexes.questions import mixed, picture_vector, text_vector, user_vector
from indexes.service import models
from indexes.service.columns import plain_rows
from indexes.service.errors import RefusalError
from indexes.service.live import Live
from indexes.service.settings import ServiceSettings
from indexes.service.workers import Workers
from infra.errors import SluiceError

Vector = npt.NDArray[np.float32]
Fetch = Callable[[str], bytes]  # a URL to the bytes there; SluiceError where it may not or fails


class Asking:
    """Answers questions to live indexes. fetch: of image_url, which is else refused."""

    def __init__(
        self, settings: ServiceSettings, workers: Workers, fetch: Fetch | None = None
    ) -> None:
        self._settings, self._workers, self._fetch = settings, workers, fetch

    def check(self, k: int, where: str | None) -> None:
        """SluiceError for more than this service gives."""
        if k > self._settings.max_k:
            raise SluiceError(
                f"{k} rows are more than this service gives at once",
                f"ask for at most {self._settings.max_k}",
            )
        if where is not None and len(where) > self._settings.max_where:
            raise SluiceError(
                f"the condition has {len(where)} characters",
                f"use at most {self._settings.max_where}",
            )

    async def search(self, live: Live, search: models.Search) -> bytes:
        """The answer to a search, as JSON."""
        start = time.perf_counter()

        def told(hits: Hits) -> bytes:
            return told_hits(hits, start)

        return await self.find(live, search, told)

    async def sample(self, live: Live, n: int, seed: int, where: str | None) -> bytes:
        """Rows at random, as JSON."""
        start = time.perf_counter()

        def drawn() -> bytes:
            return told_hits(live.index.sample(n, where, seed), start)

        return await self._workers.run(self._workers.general, drawn)

    async def find(self, live: Live, search: models.Search, finish: Callable[[Hits], Any]) -> Any:
        """What `finish` makes of the hits of a search; it is called in a thread."""
        self.check(search.k, search.where)
        vector = await self.vector(live, search)
        own = search.uid

        def cut(hits: Hits) -> Any:
            table = hits.table
            if own is not None:
                table = table.filter(pc.field("uid") != own)
            if search.min_similarity is not None:
                least = pa.scalar(search.min_similarity, pa.float32())
                table = table.filter(pc.field("similarity") >= least)
            if table.num_rows != hits.table.num_rows or table.num_rows > search.k:
                hits = Hits(hits.index, hits.asked, _ranked(table.slice(0, search.k)))
            return finish(hits if search.dedup is None else hits.dedup(search.dedup))

        batcher = live.plain if search.where is None else live.conditioned
        return await batcher.ask((search.k + (own is not None), search.where), vector, cut)

    async def vector(self, live: Live, question: models.Question) -> Vector:
        """The vector of a question; a model is loaded for texts and pictures alone."""
        image = question.image is not None or question.image_url is not None
        kinds = (question.text is not None or image, question.uid, question.vector)
        if [bool(kinds[0]), kinds[1] is not None, kinds[2] is not None].count(True) != 1:
            raise SluiceError(
                "a search needs one of vector, uid, and text or image or both", "give exactly one"
            )
        if question.vector is not None:
            user_vector(question.vector, live.index.dimension, live.name)
            return np.asarray(question.vector, np.float32)  # which the index brings to length 1
        run, threads = self._workers.run, self._workers
        if question.uid is not None:
            return await run(threads.general, _row_vector, live, question.uid)
        if not live.text:
            raise SluiceError(
                f"the vectors of {live.name} are of no model that takes texts or pictures",
                "ask with a vector or a uid",
            )
        data = await self._picture(question) if image else None
        return await run(threads.model, _described, live, question.text, data, question.weight)

    async def _picture(self, question: models.Question) -> bytes:
        """The bytes of the picture that a question holds or names."""
        if question.image is not None and question.image_url is not None:
            raise SluiceError("there are two pictures, image and image_url", "give one")
        if question.image is not None:
            try:
                return base64.b64decode(question.image, validate=True)
            except (binascii.Error, ValueError) as error:
                raise SluiceError(
                    "the picture is not base64", "encode the bytes of a JPEG, PNG or WebP file"
                ) from error
        if self._fetch is None:
            raise RefusalError(
                403, "this service fetches no pictures from the web", "send the picture as image"
            )
        assert question.image_url is not None
        return await self._workers.run(self._workers.fetch, self._fetch, question.image_url)


def _row_vector(live: Live, uid: str) -> Vector:
    found = live.columns.find([uid])
    if found[0] < 0:
        raise RefusalError(404, f"there is no uid {uid!r} in {live.name}", "take one from a search")
    return live.index.stored(found)[0]


def _described(live: Live, text: str | None, data: bytes | None, weight: float) -> Vector:
    """The vector of a text, a picture's bytes, or both."""
    image = None if data is None else np.asarray(decode(data, "the picture"))
    encoder = live.index.encoder
    if image is None:
        assert text is not None
        return text_vector(encoder, text)
    seen = picture_vector(encoder, image)
    return seen if text is None else mixed(text_vector(encoder, text), seen, weight)


def _ranked(table: pa.Table) -> pa.Table:
    return table.set_column(0, "rank", pa.array(range(1, table.num_rows + 1), pa.int32()))


def told_hits(hits: Hits, start: float) -> bytes:
    """Hits as the JSON of `models.Hits`; start: of the request, by time.perf_counter."""
    took = round(1000 * (time.perf_counter() - start), 3)
    told = {"hits": plain_rows(hits.table), "how": hits.asked.how, "took_ms": took}
    return orjson.dumps(told, default=str)
