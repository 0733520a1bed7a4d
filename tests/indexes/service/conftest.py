"""A store with an index, verdicts and duplicates, and services over it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from curation.dedup.stored import EDGES
from curation.verdicts import VERDICTS
from indexes.service.app import create_app
from indexes.service.service import Service, open_service
from indexes.service.settings import ServiceSettings
from indexes.settings import IndexSettings
from infra import dataset
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import Dataset, index_id, open_dataset, part_name, write_table
from tests.indexes.conftest import (
    PER_SHARD,
    commit_part,
    make_index,
    make_store,
    write_dataset,
)

DROPPED = {0: "too_dark", 1: "near_duplicate", 2: "exact_duplicate"}
TWIN = 10  # the kept row of the duplicates, in every shard


def judge(pool: Dataset) -> tuple[str, str]:
    """Verdicts and pairs of a pool, by the columns that curation writes; their digests."""
    edges = Spec("edges", "test", {}, (pool.artifact.digest,))
    pairs: list[dict[str, Any]] = []
    for shard in pool.shards:
        near, exact, twin = (index_id(shard, row) for row in (1, 2, TWIN))
        # Rows of equal bytes are joined to the one with the lowest id, which has the other pairs.
        pairs += [
            {"a": near, "b": exact, "kind": "clip/image", "similarity": 0.97},
            {"a": exact, "b": twin, "kind": "exact", "similarity": 1.0},
        ]
    url = pool.artifact.path("edges", edges.digest)
    file = write_table(url, "edges.parquet", pa.Table.from_pylist(pairs, schema=EDGES))
    commit_part(url, edges, [Part("all", (file,), len(pairs), len(pairs))])
    spec = Spec("verdicts", "test", {}, (pool.artifact.digest,))
    url = pool.artifact.path("verdicts", spec.digest)
    files = [
        write_table(url, f"{part_name(shard)}.parquet", _verdicts(pool, shard))
        for shard in pool.shards
    ]
    commit_part(url, spec, [Part("all", tuple(files), 1, 1)])
    return spec.digest, edges.digest


def _verdicts(pool: Dataset, shard: int) -> pa.Table:
    uids = pool.rows(shard, ["uid"])["uid"].to_pylist()
    rows: list[dict[str, Any]] = []
    for row, uid in enumerate(uids):
        reason = DROPPED.get(row)
        twin = reason is not None and reason.endswith("duplicate")
        rows.append(
            {
                "uid": uid,
                "shard": shard,
                "row": row,
                "kept": reason is None,
                "reason": reason,
                "reasons": [reason] if reason else [],
                "score": 0.01 if row == 0 else None,
                "threshold": 0.1 if row == 0 else None,
                "twin_uid": uids[TWIN] if twin else None,
                "twin_similarity": 0.97 if twin else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=VERDICTS)


def make_judged(root: Path, shards: int = 2) -> str:
    """As `make_store`, with a version `curated` that verdicts decided, and its index."""
    store = make_store(root, shards)
    publish_version(store, shards, "first")
    return store


def make_version(store: str, shards: int, made: str) -> Artifact:
    """A further version of `curated`, indexed; not yet the one that is served."""
    pool = open_dataset(store, "pool")
    verdicts, edges = judge(pool)
    old = open_dataset(store, "curated").artifact.settings
    spec = Spec(
        "dataset",
        "curate",
        {**old, "verdicts": verdicts, "edges": edges, "made": made},
        (pool.artifact.digest,),
    )
    curated = write_dataset(f"{store}/curated/{spec.digest}", spec, shards, set(DROPPED))
    make_index(store, f"curated@{spec.digest}", IndexSettings())
    return curated


def publish_version(store: str, shards: int, made: str) -> Artifact:
    """A further version of `curated`, indexed and published."""
    curated = make_version(store, shards, made)
    dataset.publish(store, "curated", curated)
    return curated


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store whose `curated` has verdicts, pairs and an index; read only."""
    return make_judged(tmp_path_factory.mktemp("judged"))


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Such a store of the test's own."""
    return make_judged(tmp_path / "store", shards=1)


Opened = Callable[..., Service]
Asked = Callable[[Service], TestClient]


@pytest.fixture
def opened() -> Opened:
    def make(store: str, *names: str, fetch: Any = None, **more: Any) -> Service:
        settings = {"indexes": names or ("curated",), "store": store, "follow": 0, **more}
        return open_service(ServiceSettings.model_validate(settings), fetch)

    return make


@pytest.fixture
def asked() -> Iterator[Asked]:
    """Test clients that name this machine, closed at the end."""
    clients: list[TestClient] = []

    def make(service: Service) -> TestClient:
        client = TestClient(create_app(service), "http://localhost", raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def api(judged: str) -> Iterator[TestClient]:
    """A service over `judged` as it is by default."""
    settings = ServiceSettings(indexes=("curated",), store=judged, follow=0)
    with TestClient(create_app(open_service(settings)), "http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def uids(judged: str) -> list[str]:
    """The uids of the pool's first shard, by row."""
    pool = open_dataset(judged, "pool")
    found = pool.rows(0, ["uid"])["uid"].to_pylist()
    assert len(found) == PER_SHARD
    return found


@pytest.fixture(scope="session")
def vector(judged: str, uids: list[str]) -> list[float]:
    """The vector of the row TWIN."""
    import indexes

    return np.asarray(indexes.open(f"{judged}/curated").vector(uids[TWIN])).tolist()
