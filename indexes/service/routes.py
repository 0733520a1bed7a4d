"""The routes under /api, and those that watch a service."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from indexes.service import models, subsets
from indexes.service.direct import direct_route
from indexes.service.errors import Json, RefusalError
from indexes.service.live import Live
from indexes.service.metrics import CONTENT_TYPE
from indexes.service.service import Service

SMALLEST, LARGEST = 32, 1024  # pixels a side of a thumbnail
CACHED = "private, max-age=3600"  # a uid's picture does not change

FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": models.Failure} for status in (400, 401, 403, 404, 413, 422, 503)
}
api = APIRouter(prefix="/api", default_response_class=Json, responses=FAILURES)
watch = APIRouter(default_response_class=Json)


async def service_of(request: Request) -> Service:
    """The service that an app belongs to."""
    return request.app.state.service


async def live_of(name: str, request: Request) -> Live:
    """The index that a path names."""
    service: Service = request.app.state.service
    return service.registry.get(name)


Serving = Annotated[Service, Depends(service_of)]
Named = Annotated[Live, Depends(live_of)]
Where = Annotated[models.Words | None, Query(description="SQL condition over the columns")]


async def search(live: Named, body: models.Search, service: Serving) -> Response:
    """The rows most similar to a text, a picture, both, a row, or a vector."""
    return Json(await service.asking.search(live, body))


async def _search(request: Request, body: models.Search) -> Response:
    live = await live_of(request.path_params["name"], request)
    return await search(live, body, await service_of(request))


def add_search(router: APIRouter) -> None:
    """The route that is asked most, at the top of a router."""
    router.add_api_route(
        "/api/indexes/{name}/search",
        search,
        methods=["POST"],
        response_model=models.Hits,
        response_class=Json,
        responses=FAILURES,
        route_class_override=direct_route(models.Search, _search),
    )


@watch.get("/healthz", response_model=models.Health)
async def health(service: Serving) -> Response:
    """What is served, and what newer versions are not, and why."""
    registry = service.registry
    names = [live.name for live in registry.every]
    told = {"status": "ok", "indexes": names}
    return Json({**told, "waiting": registry.waiting, "failed": registry.failed})


@watch.get("/metrics")
async def metrics(service: Serving) -> Response:
    """Figures for Prometheus."""
    vectors = {live.name: len(live.index) for live in service.registry.every}
    return Response(service.metrics.text(vectors), headers={"Content-Type": CONTENT_TYPE})


@api.get("/indexes", response_model=list[models.IndexInfo])
async def indexes(service: Serving) -> Response:
    """The served indexes."""
    return Json([_info(live) for live in service.registry.every])


def _info(live: Live) -> dict[str, Any]:
    figures = live.index.figures
    columns = [{"name": name, "type": kind} for name, kind in live.columns.types.items()]
    return {
        "name": live.name,
        "follows": live.follows,
        "vectors": len(live.index),
        "dimension": live.index.dimension,
        "kind": figures["kind"],
        "recall": {name: value for name, value in figures.items() if name.startswith("recall")},
        "columns": columns,
        "text": live.text,
    }


@api.get("/indexes/{name}/sample", response_model=models.Hits)
async def sample(
    live: Named,
    service: Serving,
    n: Annotated[int, Query(ge=1)] = 50,
    seed: int = 0,
    where: Where = None,
) -> Response:
    """Rows at random; the same ones for the same seed."""
    service.asking.check(n, where)
    return Json(await service.asking.sample(live, n, seed, where))


@api.get("/indexes/{name}/rows/{uid}", response_model=models.Row)
async def row(live: Named, uid: str, service: Serving) -> Response:
    """All columns of a row, its verdict, its duplicates."""
    workers = service.workers
    return Json(await workers.run(workers.general, live.rows.row, uid))


@api.get(
    "/indexes/{name}/thumbnails/{uid}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
async def thumbnail(
    live: Named,
    uid: str,
    service: Serving,
    size: Annotated[int, Query(ge=SMALLEST, le=LARGEST)] = 256,
) -> Response:
    """A picture, made small and encoded anew."""
    workers = service.workers
    data = await workers.run(workers.general, live.rows.thumbnail, uid, size)
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": CACHED})


@api.get("/indexes/{name}/histogram", response_model=models.Histogram)
async def histogram(
    live: Named,
    service: Serving,
    column: models.Words,
    where: Where = None,
    bins: Annotated[int, Query(ge=1, le=1000)] = 40,
) -> Response:
    """How a column's values lie: in bins of numbers, else the most frequent."""
    service.asking.check(1, where)
    workers = service.workers
    return Json(await workers.run(workers.general, live.columns.histogram, column, where, bins))


@api.post("/indexes/{name}/contains", response_model=models.Contained)
async def contains(live: Named, body: models.Uids, service: Serving) -> Response:
    """Which rows an index holds."""
    workers = service.workers
    found = await workers.run(workers.general, live.columns.find, body.uids)
    return Json({"contained": (found >= 0).tolist()})


@api.post("/indexes/{name}/subsets", response_model=models.Saved)
async def save(live: Named, body: models.Subset, service: Serving) -> Response:
    """Make a dataset version of rows."""
    if not service.settings.allow_save:
        raise RefusalError(
            403, "this service saves nothing", "start it with --allow-save to save subsets"
        )
    service.asking.check(1, body.where)
    vector = await service.asking.vector(live, body) if body.asks else None
    workers, store = service.workers, service.settings.store
    return Json(await workers.run(workers.save, subsets.save, live, store, body, vector))
