"""clip-retrieval's contract: what its client sends and reads, and the real client."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.indexes.service.process import running

SENT: dict[str, Any] = {  # by the client of 2.45, with its defaults
    "text": None,
    "image": None,
    "image_url": None,
    "embedding_input": None,
    "deduplicate": True,
    "use_safety_model": True,
    "use_violence_detector": True,
    "indice_name": "curated",
    "use_mclip": False,
    "aesthetic_score": 9,
    "aesthetic_weight": 0.5,
    "modality": "image",
    "num_images": 40,
    "num_result_ids": 40,
}


def ask(api: TestClient, **more: Any) -> Any:
    return api.post("/knn-service", content=json.dumps({**SENT, **more}))


def test_a_search_tells_ids_similarities_and_columns(api: TestClient, vector: list[float]) -> None:
    found = ask(api, embedding_input=vector, deduplicate=False, num_images=3, num_result_ids=5)
    hits = found.json()
    assert len(hits) == 5
    assert all({"id", "similarity", "url", "caption"} <= {*hit} for hit in hits[:3])
    assert all({*hit} == {"id", "similarity"} for hit in hits[3:])
    body = {"vector": vector, "k": 5}
    own = api.post("/api/indexes/curated/search", json=body).json()["hits"]
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in own]
    alike = ask(api, embedding_input=vector, num_images=50, num_result_ids=50).json()
    assert 0 < len(alike) < 50
    text = ask(api, text="a handwritten two", num_images=4, num_result_ids=4)
    assert text.status_code == 200 and text.json()


def test_rows_by_id_and_the_names(api: TestClient, vector: list[float]) -> None:
    hits = ask(api, embedding_input=vector, deduplicate=False).json()
    ids = [hit["id"] for hit in hits[:2]]
    body = json.dumps({"ids": ids, "indice_name": "curated"})
    rows = api.post("/metadata", content=body).json()
    assert [row["id"] for row in rows] == ids
    assert [row["metadata"]["uid"] for row in rows] == [hit["uid"] for hit in hits[:2]]
    assert api.post("/metadata", content='{"ids": []}').json() == []
    assert api.get("/indices-list").json() == api.post("/indices-list").json() == ["curated"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 400),
        ({"text": "a", "use_mclip": True}, 400),
        ({"text": "a", "modality": "text"}, 400),
        ({"text": "a", "indice_name": "other"}, 404),
        ({"text": "a", "num_images": 0}, 422),
        ({"text": "a", "num_result_ids": 100_000}, 400),
        ({"embedding_input": [1.0]}, 400),
        ({"image_url": "https://example.org/a.jpg"}, 403),
    ],
)
def test_what_cannot_be_answered_is_refused(
    api: TestClient, more: dict[str, Any], status: int
) -> None:
    response = ask(api, **more)
    assert response.status_code == status and set(response.json()) == {"error", "way_out"}
    assert api.post("/knn-service", content="no json").status_code == 400
    assert api.post("/metadata", content='{"ids": [2]}').status_code == 400


CLIENT = """
import json, sys
from clip_retrieval.clip_client import ClipClient, Modality
url, name, image = sys.argv[1:]
client = ClipClient(url, name, num_images=7, deduplicate=False, modality=Modality.IMAGE)
vector = json.loads(sys.stdin.read())
found = [client.query(text="a two"), client.query(image=image)]
print(json.dumps([*found, client.query(embedding_input=vector)]))
"""


@pytest.mark.slow
def test_its_client_works_unchanged(judged: str, vector: list[float], tmp_path: Path) -> None:
    """Its packages are older than ours: an environment of its own, named by a variable."""
    from PIL import Image

    python = os.environ.get("SLUICE_CLIP_RETRIEVAL_PYTHON")
    if python is None:
        pytest.skip("SLUICE_CLIP_RETRIEVAL_PYTHON names no Python that has clip-retrieval")
    picture = tmp_path / "red.png"
    Image.new("RGB", (40, 40), (200, 0, 0)).save(picture)
    key = "0123456789abcdef"
    with running(judged, key=key) as server:
        url = server.url.replace("//", f"//user:{key}@") + "/knn-service"
        done = subprocess.run(
            [python, "-c", CLIENT, url, "curated", str(picture)],
            input=json.dumps(vector), capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for hits in json.loads(done.stdout.splitlines()[-1]):
        assert len(hits) == 7
        assert all(hit["url"].startswith("https://") and hit["caption"] for hit in hits)
        similarities = [hit["similarity"] for hit in hits]
        assert similarities == sorted(similarities, reverse=True)
