"""A route that is asked hundreds of times a second, without FastAPI's general way to a function."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

JSON = "application/json"

Answer = Callable[[Request, Any], Awaitable[Response]]


def direct_route(model: type[BaseModel], answer: Answer) -> type[APIRoute]:
    """Routes that answer a JSON body of `model` by `answer`, which takes the request and it.

    FastAPI describes such a route, by the function it has there, and chooses it; but it would solve
    the function's parameters anew for each request, which takes longer than a search. What is no
    JSON by its content type goes FastAPI's way, to be refused there.
    """

    class Direct(APIRoute):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            if scope["method"] != "POST" or request.headers.get("content-type") != JSON:
                await super().handle(scope, receive, send)
                return
            try:
                body = model.model_validate_json(await request.body())
            except ValidationError as error:
                places = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
                raise RequestValidationError(places) from error
            response = await answer(request, body)
            await response(scope, receive, send)

    return Direct
