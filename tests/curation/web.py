"""Tables of URLs on a fault server, and the ingest of one: something to kill.

python -m tests.curation.web TABLE STORE WORKERS
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from curation import outcomes
from curation.fetch.settings import FetchSettings
from curation.fingerprint import source_fingerprint
from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.intake import Intake
from curation.resize_settings import ResizeSettings
from curation.settings import SourceSettings
from infra.artifacts import Artifact
from infra.progress import SilentDisplay
from infra.runner import make_runner
from infra.stage import run_stage
from tests.curation.fetch.server import FaultServer

FETCH = FetchSettings.model_validate(
    {
        "allow_networks": ("127.0.0.0/8",), "connect_timeout": 5, "first_byte_timeout": 5,
        "timeout": 20, "retries": 1, "backoff": 0.02, "max_bytes": 2**20, "connections": 16,
        "per_host": 16, "robots_txt": False,
    }
)  # fmt: skip
ROWS = 40  # of a shard
# Faults that end the same way every time, and as what.
STEADY = {
    "/status/404": outcomes.NOT_FOUND,
    "/status/410": outcomes.GONE,
    "/status/500": outcomes.SERVER_ERROR,
    "/html": outcomes.NOT_AN_IMAGE,
    "/gzip-bomb": outcomes.TOO_LARGE,
    "/truncated/1": outcomes.TRUNCATED,
    "/reset": outcomes.CONNECT,
    "/loop/a": outcomes.REDIRECT_REFUSED,
    "/tag/1?is=noai": outcomes.DISALLOWED_BY_HEADER,
    "/redirect/1?to=http://10.0.0.1/": outcomes.ADDRESS_REFUSED,
}


def mixed(server: FaultServer, count: int) -> tuple[list[str], list[str | None]]:
    """`count` URLs, every fourth of them a steady fault, and how each will end."""
    faults = list(STEADY.items())
    urls, ends = list[str](), list[str | None]()
    for number in range(count):
        path, end = faults[number // 4 % len(faults)] if number % 4 == 3 else ("", None)
        urls.append(server.url(path or f"/ok/{number}.jpg"))
        ends.append(end)
    return urls, ends


def write_table(path: Path, urls: Sequence[str | None], **columns: Sequence[object]) -> str:
    captions = [f"picture {number}" for number in range(len(urls))]
    pq.write_table(pa.table({"url": urls, "caption": captions, **columns}), path)
    return str(path)


def ingest(
    store: str,
    table: str,
    workers: int = 0,
    fetch: FetchSettings = FETCH,
    resize: ResizeSettings | None = None,
    rows: int = ROWS,
) -> Artifact:
    sources, intake = [SourceSettings.model_validate({"urls": table})], Intake(fetch, resize=resize)
    fingerprint = source_fingerprint(sources, store)
    draft = ingest_draft(store, "pool", sources, fingerprint, rows, intake)
    items, work = ingest_items(sources, rows), IngestWork(draft.url, intake)
    with make_runner("local" if workers else "inline", workers) as runner:
        return run_stage("ingest", {"": draft}, items, work, runner, SilentDisplay())[""]


if __name__ == "__main__":
    ingest(sys.argv[2], sys.argv[1], int(sys.argv[3]))
