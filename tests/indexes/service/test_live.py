"""Newer versions take the place of older ones; limits of a service; faults of ours."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import indexes
from indexes.service.settings import ServiceSettings
from infra.errors import SluiceError
from tests.indexes.service.conftest import publish_version

SEARCH = "/api/indexes/curated/search"
Opened = Callable[..., Any]


def renewed(service: Any) -> None:
    for followed in service.registry._followed:
        asyncio.run(service.registry.renew(followed))


def test_an_old_index_goes_with_its_last_request(own: str, opened: Opened) -> None:
    service = opened(own)
    held = service.registry.get("curated")
    gone = weakref.ref(held.index)
    newer = publish_version(own, 1, "second")
    renewed(service)
    assert service.registry.get("curated").name == f"curated@{newer.digest}"
    gc.collect()
    assert gone() is held.index  # a request that began with it goes on with it
    assert len(held.index.search([1.0] * 16, k=3)) == 3
    del held
    gc.collect()
    assert gone() is None


def test_what_is_removed_is_served_no_more(own: str, opened: Opened, asked: Any) -> None:
    service = opened(own)
    client, question = asked(service), {"vector": [1.0] * 16, "k": 3}
    best = client.post(SEARCH, json=question).json()["hits"][0]["uid"]
    indexes.open(f"{own}/curated").remove([best])
    renewed(service)
    assert best not in {hit["uid"] for hit in client.post(SEARCH, json=question).json()["hits"]}
    assert client.get(f"/api/indexes/curated/rows/{best}").status_code == 404
    assert client.get(f"/api/indexes/curated/thumbnails/{best}").status_code == 404


def test_a_version_that_is_named_stays(own: str, opened: Opened) -> None:
    first = opened(own).registry.every[0].name
    service = opened(own, first, "curated")
    assert [live.follows for live in service.registry.every] == [None, "curated"]
    newer = publish_version(own, 1, "second")
    renewed(service)
    names = [live.name for live in service.registry.every]
    assert names == [first, f"curated@{newer.digest}"]
    renewed(service)
    assert [live.name for live in service.registry.every] == names


def test_a_loaded_model_is_ready_before_a_newer_version_is_served(
    own: str, opened: Opened, asked: Any
) -> None:
    service = opened(own)
    client = asked(service)
    assert client.post(SEARCH, json={"text": "a two"}).status_code == 200
    publish_version(own, 1, "second")
    renewed(service)
    assert "encoder" in vars(service.registry.get("curated").index)


def test_a_condition_without_end_is_given_up(judged: str, opened: Opened, asked: Any) -> None:
    """Its thread is free again: as many as there are threads do not stop the service."""
    client = asked(opened(judged, deadline=1.5))
    endless = "(SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b) > 0"
    for _ in range(6):
        answer = client.get("/api/indexes/curated/sample", params={"where": endless})
        assert answer.status_code in (400, 503)
    deadline = time.monotonic() + 30
    while client.get("/api/indexes/curated/sample?where=width=48").status_code != 200:
        assert time.monotonic() < deadline


def test_two_indexes_at_once(judged: str, opened: Opened, asked: Any) -> None:
    name = opened(judged).registry.every[0].name
    client = asked(opened(judged, "curated", name))
    assert client.get("/healthz").json()["indexes"] == [name, name]
    with pytest.raises(SluiceError, match="no dataset 'nothing'"):
        opened(judged, "nothing")


def test_a_fault_of_ours_is_told_without_a_trace(
    judged: str, opened: Opened, asked: Any, monkeypatch: Any, caplog: Any
) -> None:
    service = opened(judged)

    async def broken(*_: Any) -> bytes:
        raise RuntimeError("a secret caption")

    monkeypatch.setattr(service.asking, "search", broken)
    response = asked(service).post(SEARCH, json={"text": "a"})
    assert response.status_code == 500 and set(response.json()) == {"error", "way_out"}
    assert "secret" not in response.text and "secret" not in caplog.text
    assert "RuntimeError at broken" in caplog.text
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_origins_that_are_allowed(judged: str, opened: Opened, asked: Any) -> None:
    client = asked(opened(judged, allow_origin=("https://tools.example",)))
    for origin, allowed in (("https://tools.example", True), ("https://evil.example", False)):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = client.options(SEARCH, headers=headers)
        assert ("Access-Control-Allow-Origin" in answer.headers) == allowed


@pytest.mark.parametrize(
    ("host", "key", "ok"),
    [
        ("127.0.0.1", None, True),
        ("localhost", None, True),
        ("::1", None, True),
        ("0.0.0.0", None, False),
        ("::", None, False),
        ("box.example", None, False),
        ("0.0.0.0", "k" * 16, True),
        ("127.0.0.1", "", False),
    ],
)
def test_who_may_ask_without_a_key(host: str, key: str | None, ok: bool) -> None:
    settings = ServiceSettings.model_validate({"indexes": ("a",), "host": host, "api_key": key})
    if ok:
        settings.check()
        assert "kkkk" not in repr(settings)
    else:
        with pytest.raises(SluiceError, match="API key"):
            settings.check()
