"""The calls of the service, through FastAPI's test client."""

import base64
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import indexes
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.indexes.service.conftest import DROPPED, TWIN

SEARCH = "/api/indexes/curated/search"
JSON = {"content-type": "application/json"}
Opened = Callable[..., Any]


def png(size: tuple[int, int] = (40, 30)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def told(response: Any, status: int) -> dict[str, str]:
    """The error of a response, which has a status and no trace."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "way_out"} and "Traceback" not in body["error"]
    return body


def test_what_is_served(api: TestClient, judged: str) -> None:
    name = indexes.open(f"{judged}/curated").name
    assert api.get("/healthz").json() == {
        "status": "ok", "indexes": [name], "waiting": {}, "failed": {},
    }  # fmt: skip
    (info,) = api.get("/api/indexes").json()
    assert (info["name"], info["follows"], info["text"]) == (name, "curated", True)
    assert (info["vectors"], info["dimension"]) == (112, 16)
    assert {"name": "clip_similarity", "type": "float"} in info["columns"]
    assert info["recall"]


def test_search_by_vector_is_the_index_own(
    api: TestClient, judged: str, vector: list[float]
) -> None:
    index = indexes.open(f"{judged}/curated")
    for name in ("curated", index.name.replace("@", "%40")):
        found = api.post(f"/api/indexes/{name}/search", json={"vector": vector, "k": 7}).json()
        expected = index.search(np.array(vector, np.float32), k=7)
        assert [hit["uid"] for hit in found["hits"]] == [hit["uid"] for hit in expected]
        assert found["hits"] == json.loads(json.dumps(list(expected)))
        assert found["how"] == expected.asked.how and found["took_ms"] > 0


def test_search_in_every_way(api: TestClient, uids: list[str]) -> None:
    text = api.post(SEARCH, json={"text": "a handwritten two", "k": 3}).json()["hits"]
    image = api.post(SEARCH, json={"image": png(), "k": 3}).json()["hits"]
    both = {"text": "a handwritten two", "image": png(), "k": 3}
    mixed = [
        [hit["uid"] for hit in api.post(SEARCH, json={**both, "weight": weight}).json()["hits"]]
        for weight in (1, 0)
    ]
    assert mixed == [[hit["uid"] for hit in hits] for hits in (text, image)]
    alike = api.post(SEARCH, json={"uid": uids[TWIN], "k": 3}).json()["hits"]
    assert [hit["rank"] for hit in alike] == [1, 2, 3]
    assert uids[TWIN] not in [hit["uid"] for hit in alike]


def test_conditions_thresholds_and_duplicates(
    api: TestClient, judged: str, vector: list[float]
) -> None:
    def ask(**more: Any) -> list[dict[str, Any]]:
        return api.post(SEARCH, json={"vector": vector, "k": 30, **more}).json()["hits"]

    assert {hit["width"] for hit in ask(where="width = 48")} == {48}
    every = ask()
    bound = every[9]["similarity"]
    assert len(ask(min_similarity=bound)) == sum(hit["similarity"] >= bound for hit in every)
    expected = indexes.open(f"{judged}/curated").search(np.array(vector), k=30).dedup(0.9)
    assert [hit["uid"] for hit in ask(dedup=0.9)] == [hit["uid"] for hit in expected]
    assert ask(where="width = 1") == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"text": "  "}, "empty text"),
        ({"text": "word " * 40}, "longer than the 16 tokens"),
        ({"vector": [0.5]}, "16 dimensions"),
        ({"vector": [0.0] * 16}, "not numbers"),
        ({"image": "&&&"}, "not base64"),
        ({"image": base64.b64encode(b"GIF89a").decode()}, "no picture"),
        ({"image": png((9000, 9000))}, "pixels"),
        ({}, "needs one of"),
        ({"text": "a", "uid": "b"}, "needs one of"),
        ({"text": "a", "k": 1001}, "at most 1000|at once"),
        ({"text": "a", "where": "nope = 1"}, "nope"),
        ({"text": "a", "where": "width > 1 " + " " * 5000}, "characters"),
        ({"text": "a", "where": "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0"}, "where"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_question_is_told(api: TestClient, body: dict[str, Any], words: str) -> None:
    error = told(api.post(SEARCH, json=body), 400)
    assert re.search(words, error["error"]), error


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_a_vector_of_no_numbers_is_told(api: TestClient, value: str) -> None:
    body = f'{{"vector": [{", ".join([value] * 16)}]}}'
    response = api.post(SEARCH, content=body, headers=JSON)
    assert "not numbers" in told(response, 400)["error"]


@pytest.mark.parametrize(
    "body", [{"k": 0, "text": "a"}, {"text": 5}, {"colour": "red"}, {"text": "a", "weight": 2}, []]
)
def test_fields_are_checked(api: TestClient, body: Any) -> None:
    assert "body" in told(api.post(SEARCH, json=body), 422)["error"]


@pytest.mark.parametrize("sign", ["\ud800", "\0"], ids=["surrogate", "NUL"])
def test_text_that_is_none_is_told(api: TestClient, sign: str) -> None:
    asked = [{"text": sign}, {"uid": sign}, {"vector": [1.0] * 16, "where": f"caption = '{sign}'"}]
    for body in asked:
        told(api.post(SEARCH, content=json.dumps(body), headers=JSON), 422)
    uids = json.dumps({"uids": ["", sign]})
    told(api.post("/api/indexes/curated/contains", content=uids, headers=JSON), 422)
    told(api.get("/api/indexes/curated/sample?where=caption='%00'"), 422)
    told(api.get("/api/indexes/curated/rows/%00%ff"), 404)


@pytest.mark.parametrize("body", ["{", "\x00", "[" * 100_000])
def test_what_is_no_json_is_told(api: TestClient, body: str) -> None:
    response = api.post(SEARCH, content=body, headers=JSON)
    assert response.status_code in (400, 422) and "error" in response.json()


def test_json_is_taken_by_its_content_type(api: TestClient) -> None:
    body = json.dumps({"vector": [1.0] * 16, "k": 2})
    for kind in ("application/json", "application/json; charset=utf-8", "application/x+json"):
        assert len(api.post(SEARCH, content=body, headers={"content-type": kind}).json()["hits"])
    told(api.post(SEARCH, content=body, headers={"content-type": "text/plain"}), 422)
    told(api.put(SEARCH, content=body, headers=JSON), 405)


def test_what_is_not_there_is_told(api: TestClient) -> None:
    assert (
        "'other'" in told(api.post("/api/indexes/other/search", json={"text": "a"}), 404)["error"]
    )
    assert "'zz'" in told(api.post(SEARCH, json={"uid": "zz"}), 404)["error"]
    told(api.get("/api/indexes/curated/rows/zz"), 404)
    told(api.get("/nothing/here"), 404)
    told(api.get(SEARCH), 405)


def test_a_sample_is_repeated_by_its_seed(api: TestClient) -> None:
    def ask(**params: Any) -> list[str]:
        found = api.get("/api/indexes/curated/sample", params=params).json()["hits"]
        assert all(hit["similarity"] is None for hit in found)
        return [hit["uid"] for hit in found]

    assert ask(n=5, seed=1) == ask(n=5, seed=1) != ask(n=5, seed=2)
    assert len(ask(n=500)) == 112
    assert len(ask(n=500, where="width = 48")) == 56


def test_a_row_with_its_verdict_and_duplicates(api: TestClient, uids: list[str]) -> None:
    row = api.get(f"/api/indexes/curated/rows/{uids[TWIN]}").json()
    assert row["columns"]["uid"] == uids[TWIN] and row["verdict"]["kept"]
    assert row["duplicates"] == [
        {"uid": uids[2], "similarity": 1.0, "kind": "exact"},
        {"uid": uids[1], "similarity": pytest.approx(0.97), "kind": "clip/image"},
    ]
    for dropped, reason in DROPPED.items():
        row = api.get(f"/api/indexes/curated/rows/{uids[dropped]}").json()
        assert row["columns"]["uid"] == uids[dropped]
        assert not row["verdict"]["kept"] and row["verdict"]["reason"] == reason
    assert row["verdict"]["twin_uid"] == uids[TWIN]
    assert [each["uid"] for each in row["duplicates"]] == [uids[TWIN], uids[1]]


@pytest.mark.parametrize("row", [TWIN, 1])
def test_a_thumbnail_is_made_anew(api: TestClient, uids: list[str], row: int) -> None:
    url = f"/api/indexes/curated/thumbnails/{uids[row]}"
    response = api.get(url, params={"size": 32})
    assert response.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, max(image.size)) == ("JPEG", 32)
    told(api.get(url, params={"size": 4096}), 422)
    told(api.get("/api/indexes/curated/thumbnails/zz"), 404)


def test_histograms(api: TestClient, judged: str) -> None:
    url, table = "/api/indexes/curated/histogram", indexes.open(f"{judged}/curated").metadata
    found = api.get(url, params={"column": "clip_similarity", "bins": 5}).json()
    counts, edges = np.histogram(table["clip_similarity"].to_numpy().astype(float), 5)
    assert (found["counts"], found["nulls"]) == (counts.tolist(), 0)
    np.testing.assert_allclose(found["edges"], edges)
    where = {"column": "width", "where": "width = 48"}
    assert sum(api.get(url, params=where).json()["counts"]) == 56
    empty = api.get(url, params={"column": "width", "where": "width = 1", "bins": 3}).json()
    assert (len(empty["edges"]), empty["counts"]) == (4, [0, 0, 0])
    concepts = api.get(url, params={"column": "concept"}).json()
    values = [value for _, value in concepts["values"]]
    assert values == sorted(values, reverse=True) and sum(values) == 112
    assert api.get(url, params={"column": "sha256"}).json() == {"values": [], "nulls": 112}
    told(api.get(url, params={"column": "nope"}), 400)


def test_which_rows_an_index_holds(api: TestClient, uids: list[str]) -> None:
    asked = [uids[TWIN], "zz", uids[0], uids[TWIN]]
    found = api.post("/api/indexes/curated/contains", json={"uids": asked}).json()
    assert found == {"contained": [True, False, False, True]}
    assert api.post("/api/indexes/curated/contains", json={"uids": []}).json() == {"contained": []}


def test_nothing_is_saved_unless_allowed(api: TestClient, uids: list[str]) -> None:
    body = {"name": "mine", "uids": uids[4:6]}
    told(api.post("/api/indexes/curated/subsets", json=body), 403)


def test_subsets(own: str, opened: Opened, asked: Any) -> None:
    client = asked(opened(own, allow_save=True))
    url = "/api/indexes/curated/subsets"
    uids = [hit["uid"] for hit in client.get("/api/indexes/curated/sample?n=3").json()["hits"]]
    saved = client.post(url, json={"name": "mine", "uids": [*uids, uids[0]]}).json()
    assert (saved["dataset"], saved["rows"]) == ("mine", 3)
    subset = open_dataset(own, f"mine@{saved['version']}")
    rows = subset.rows(0, ["uid", "status"]).to_pylist()
    assert {row["uid"] for row in rows if row["status"] == "ok"} == set(uids)
    wide = client.post(url, json={"name": "mine", "where": "width = 48"}).json()
    assert wide["rows"] == 28 and wide["version"] != saved["version"]
    near = {"name": "near", "text": "a two", "min_similarity": -1, "where": "width = 48"}
    assert client.post(url, json=near).json()["rows"] == 28
    for body, status in [
        ({"name": "pool", "uids": uids}, 400),  # it is no subset, and stays what it is
        ({"name": "../x", "uids": uids}, 400),
        ({"name": "none", "uids": []}, 400),
        ({"name": "none", "uids": ["zz"]}, 404),
        ({"name": "none", "where": "width = 1"}, 400),
        ({"name": "none", "text": "a two"}, 400),
        ({"name": "none", "uids": uids, "where": "width = 48"}, 400),
    ]:
        told(client.post(url, json=body), status)


def test_a_picture_from_the_web_needs_a_fetcher(
    api: TestClient, judged: str, opened: Opened, asked: Any
) -> None:
    body = {"image_url": "https://example.org/a.png", "k": 2}
    assert "fetches no pictures" in told(api.post(SEARCH, json=body), 403)["error"]
    wanted: list[str] = []

    def fetch(url: str) -> bytes:
        wanted.append(url)
        if "private" in url:
            raise SluiceError(f"{url} was not fetched: address_refused", "send the picture")
        return base64.b64decode(png())

    client = asked(opened(judged, fetch=fetch))
    found = client.post(SEARCH, json=body).json()["hits"]
    assert found == client.post(SEARCH, json={"image": png(), "k": 2}).json()["hits"]
    assert wanted == [body["image_url"]]
    refused = client.post(SEARCH, json={"image_url": "http://private/"})
    assert "address_refused" in told(refused, 400)["error"]


def test_the_contract_is_published(api: TestClient) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert {f"/api/indexes/{{name}}/{each}" for each in ("search", "sample", "subsets")} <= {*paths}
    assert api.get("/docs").status_code == 404


def test_metrics_tell_no_words(api: TestClient) -> None:
    api.post(SEARCH, json={"text": "a very secret caption"})
    text = api.get("/metrics").text
    assert "secret" not in text
    assert 'sluice_requests_total{route="/api/indexes/{name}/search",status="200"}' in text
    assert 'sluice_index_vectors{index="curated@' in text and "sluice_search_batch_sum" in text


def test_a_vector_query_loads_no_model(judged: str, opened: Opened, asked: Any) -> None:
    service = opened(judged)
    client = asked(service)
    client.post(SEARCH, json={"vector": [1.0] * 16})
    (live,) = service.registry.every
    assert "encoder" not in vars(live.index)
    client.post(SEARCH, json={"text": "a two"})
    assert "encoder" in vars(live.index)


def test_without_its_model_an_index_takes_vectors(
    tmp_path: Any, new_store: Any, build: Any, opened: Opened, asked: Any
) -> None:
    from indexes.settings import IndexSettings

    store = new_store(tmp_path / "store", 1, "sha256:gone")
    build(store, "curated", IndexSettings())
    client = asked(opened(store))
    assert not client.get("/api/indexes").json()[0]["text"]
    assert "no model" in told(client.post(SEARCH, json={"text": "a two"}), 400)["error"]
    assert client.post(SEARCH, json={"vector": [1.0] * 16}).status_code == 200
