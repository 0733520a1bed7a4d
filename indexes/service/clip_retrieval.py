"""clip-retrieval's HTTP contract, as its ClipClient and front end use it (version 2.45).

Bodies come without a content type. Aesthetic scores, safety and violence models belong to that
project's own service: what a client says of them is read and has no effect, as there where they
are not installed.
"""

from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response

from indexes.hits import Hits
from indexes.service import models
from indexes.service.columns import plain_rows
from indexes.service.errors import Json, RefusalError
from indexes.service.live import Live
from indexes.service.routes import Serving
from indexes.service.service import Service
from infra.errors import SluiceError

ALIKE = 0.94  # cosine from which `deduplicate` takes two for one

routes = APIRouter(default_response_class=Json)


class Knn(BaseModel):
    """What /knn-service reads of a request."""

    indice_name: str | None = None
    text: models.Words | None = Field(None, max_length=20_000)
    image: str | None = None
    image_url: models.Words | None = Field(None, max_length=8192)
    embedding_input: list[float] | None = Field(None, max_length=65_536)
    modality: str = "image"
    num_images: int = Field(100, ge=1)
    num_result_ids: int | None = Field(None, ge=1)
    deduplicate: bool = False
    use_mclip: bool = False


class Ids(BaseModel):
    """What /metadata reads of a request."""

    ids: list[int] = Field(max_length=models.UIDS)
    indice_name: str | None = None


async def body_of(request: Request) -> Any:
    """The JSON of a body, whatever its content type says."""
    try:
        return orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise SluiceError("the body is not JSON", "send a JSON object") from error


Body = Annotated[Any, Depends(body_of)]


@routes.post("/knn-service")
async def knn(body: Body, service: Serving) -> Response:
    """The nearest rows: id, similarity, and of the first `num_images` every column."""
    asked = _read(Knn, body)
    live = _live(service, asked.indice_name)
    _check(live, asked)
    wanted = max(asked.num_images, asked.num_result_ids or 0)
    question = models.Search(
        text=asked.text,
        image=asked.image,
        image_url=asked.image_url,
        vector=asked.embedding_input,
        k=wanted,
        dedup=ALIKE if asked.deduplicate else None,
    )

    def told(hits: Hits) -> list[dict[str, Any]]:
        rows = plain_rows(hits.table.drop_columns(["rank"]))
        short = [{name: row[name] for name in ("id", "similarity")} for row in rows]
        return rows[: asked.num_images] + short[asked.num_images :]

    return Json(await service.asking.find(live, question, told))


@routes.post("/metadata")
async def metadata(body: Body, service: Serving) -> Response:
    """Every column of rows by id."""
    asked = _read(Ids, body)
    live = _live(service, asked.indice_name)
    ids = np.array(asked.ids, np.int64)
    rows = await service.workers.run(service.workers.general, live.columns.rows, ids)
    return Json([{"id": row["id"], "metadata": row} for row in rows])


@routes.get("/indices-list")
@routes.post("/indices-list", include_in_schema=False)
async def indices(service: Serving) -> Response:
    """The names of the served indexes."""
    return Json([live.follows or live.name for live in service.registry.every])


def _read(model: type[Any], body: Any) -> Any:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise RefusalError(
            422, f"{place}: {first['msg']}", "see clip-retrieval's client"
        ) from error


def _live(service: Service, name: str | None) -> Live:
    """The index of that name; the first one where none is named."""
    return service.registry.get(name) if name else service.registry.every[0]


def _check(live: Live, asked: Knn) -> None:
    """Refuse what would else be answered with something other than was asked for."""
    if asked.use_mclip:
        raise SluiceError(
            "there is no multilingual model beside the index's own", "use_mclip=False"
        )
    searched = str(live.index.figures["embedding"]).rpartition("/")[2]
    if asked.modality != searched and {asked.modality, searched} <= {"image", "text"}:
        raise SluiceError(
            f"{live.name} holds {searched} vectors, not {asked.modality} vectors",
            f"ask for modality {searched}",
        )
