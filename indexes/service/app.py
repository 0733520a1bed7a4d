"""The FastAPI application of a service."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response

from indexes.service import clip_retrieval, routes
from indexes.service.errors import handle_errors, refusal
from indexes.service.middleware import Guard, Limits, Observed
from indexes.service.service import Service

STATIC = Path(__file__).parent / "static"
PAGE = STATIC / "index.html"


def create_app(service: Service) -> FastAPI:
    """The application; it follows newer versions while it runs."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        following = None
        if service.settings.follow:
            following = asyncio.create_task(service.registry.follow())
        yield
        if following is not None:
            following.cancel()
        service.workers.close()

    app = FastAPI(
        title="Sluice indexes",
        description="Search, look at and cut the dataset versions that are served.",
        docs_url=None,  # its page would fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    handle_errors(app)
    routes.add_search(app.router)
    for router in (routes.watch, routes.api, clip_retrieval.routes):
        app.include_router(router)
    app.add_api_route("/", page, include_in_schema=False)
    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_middleware(app, service)
    return app


async def page() -> Response:
    """The explorer."""
    if not PAGE.is_file():
        return refusal(404, "the explorer's page is not installed", "ask /api/indexes")
    return FileResponse(PAGE, headers={"Cache-Control": "no-cache"})


def _add_middleware(app: FastAPI, service: Service) -> None:
    """The last one added is passed through first."""
    settings, metrics = service.settings, service.metrics
    app.add_middleware(Limits, settings=settings, metrics=metrics)
    app.add_middleware(Guard, settings=settings)
    if settings.allow_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allow_origin),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        )
    app.add_middleware(Observed, metrics=metrics)
