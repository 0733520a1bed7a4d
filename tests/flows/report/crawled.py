"""Crawls that were never made, as their versions and statistics would be."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.fetch.observed import Observed
from infra import artifacts
from infra.artifacts import Artifact, Part, Spec
from infra.dataset import ROWS, part_name, sample_key, write_shard
from infra.filesystem import join, write_bytes
from tests.curation.sources.made import picture

START = 1_763_700_000.0


@dataclass(frozen=True)
class Fetched:
    """A row of a crawl to be: what the fetcher noted ("" for nothing), what the row says."""

    host: str
    noted: str | None = None
    reason: str | None = None
    size: int = 1000
    seconds: float = 0.5


def failed(host: str, reason: str) -> Fetched:
    return Fetched(host, reason, reason, 0, 2.0)


def make_crawl(store: Path, shards: Sequence[Sequence[Fetched]], seconds: float = 60.0) -> Artifact:
    """A committed version with statistics; shards begin a minute after each other."""
    spec = Spec("dataset", "curation.ingest", {"name": "web"})
    url = join(str(store), "web", spec.digest)
    for shard, records in enumerate(shards):
        observed = Observed(started=START + 60 * shard)
        for record in records:
            if record.noted != "":
                observed.note(record.host, record.noted, record.size, record.seconds)
                observed.requests += 1
        rows = [_row(shard, place, record) for place, record in enumerate(records)]
        images = [picture(shard) if record.reason is None else None for record in records]
        files = write_shard(url, shard, pa.Table.from_pylist(rows, ROWS), images)
        dropped = Counter(record.reason for record in records if record.reason)
        kept = len(rows) - sum(dropped.values())
        part = Part(part_name(shard), tuple(files), len(rows), kept, dict(dropped))
        statistics = observed.to_json() | {"seconds": seconds}
        write_bytes(url, f"statistics/{part.name}.json", json.dumps(statistics).encode())
        artifacts.record_part(url, part, 1.0, 1.0)
    return artifacts.commit(url, spec)


def _row(shard: int, place: int, record: Fetched) -> dict[str, Any]:
    ok = record.reason is None
    return {
        "uid": f"{shard:016x}{place:016x}", "shard": shard, "row": place,
        "status": "ok" if ok else "rejected", "reason": record.reason,
        "key": sample_key(shard, place), "source": f"urls: {place}",
        "url": f"https://{record.host}/{place}", "caption": "a", "sha256": None,
        "bytes": record.size if ok else None, "format": "jpg" if ok else None,
        "width": 100 + place if ok else None, "height": 50 if ok else None, "meta": None,
    }  # fmt: skip
