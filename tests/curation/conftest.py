"""Small committed datasets with scores of one's choice, for tests of decisions."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from infra import artifacts
from infra.artifacts import Part, Spec
from infra.dataset import ROWS, part_name, publish, sample_key, write_shard, write_table
from infra.digests import digest
from infra.filesystem import write_bytes
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import Item, run_stage


@dataclass(frozen=True)
class Made:
    """A committed dataset: where it is, what it is called, and its score folders."""

    store: str
    url: str
    digest: str
    folders: dict[str, str] = field(default_factory=dict)


def uid_of(number: int) -> str:
    return f"{number:032x}"


def _row(shard: int, row: int, number: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    image = facts.get("image", f"image {number}".encode())
    rejected = facts.get("rejected")
    return {
        "uid": facts.get("uid", uid_of(number)),
        "shard": shard,
        "row": row,
        "status": "rejected" if rejected else "ok",
        "reason": rejected,
        "key": sample_key(shard, row),
        "source": f"pool/{shard}.tar: {number}.jpg",
        "url": f"https://example.org/{number}.jpg",
        "caption": facts.get("caption", f"picture {number}"),
        "sha256": None if rejected else hashlib.sha256(image).hexdigest(),
        "bytes": len(image),
        "format": "jpg",
        "width": facts.get("width", 64),
        "height": 64,
        "meta": "{}",
        "image": None if rejected else image,
    }


def _make(store: str, name: str, samples: Sequence[Mapping[str, Any]], size: int) -> Made:
    spec = Spec("dataset", "test", {"name": name, "samples": repr(samples)})
    url = f"{store}/{name}/{spec.digest}"
    for shard, start in enumerate(range(0, len(samples), size)):
        entries = [
            _row(shard, row, start + row, facts)
            for row, facts in enumerate(samples[start : start + size])
        ]
        images = [entry.pop("image") for entry in entries]
        files = write_shard(url, shard, pa.Table.from_pylist(entries, schema=ROWS), images)
        rejected = sum(entry["status"] == "rejected" for entry in entries)
        kept = len(entries) - rejected
        dropped = {"not_an_image": rejected} if rejected else {}
        part = Part(part_name(shard), tuple(files), len(entries), kept, dropped)
        artifacts.record_part(url, part, 0.0, 0.0)
    committed = artifacts.commit(url, spec)
    publish(store, name, committed)
    return Made(store, url, spec.digest)


def _score(
    made: Made,
    name: str,
    table: pa.Table,
    vectors: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
    size: int,
) -> None:
    # Other values are another artifact, as they would be if a scorer had made them.
    values = repr((table.to_pydict(), {key: array.tolist() for key, array in vectors.items()}))
    spec = Spec("scores", name, settings, (made.digest, digest(values)))
    folder = f"{name}-{spec.digest}"
    url = f"{made.url}/scores/{folder}"
    for shard, start in enumerate(range(0, table.num_rows, size)):
        part_table = table.slice(start, size)
        files = [write_table(url, f"columns/{part_name(shard)}.parquet", part_table)]
        for vector, array in vectors.items():
            buffer = io.BytesIO()
            np.save(buffer, array[start : start + size].astype(np.float16))
            files.append(write_bytes(url, f"{vector}/{part_name(shard)}.npy", buffer.getvalue()))
        count = part_table.num_rows
        artifacts.record_part(url, Part(part_name(shard), tuple(files), count, count), 0.0, 0.0)
    artifacts.commit(url, spec)
    made.folders[name] = folder


@dataclass(frozen=True)
class Maker:
    """Makes datasets in one store, with `size` rows to a shard."""

    store: str
    size: int = 4

    def dataset(self, name: str, samples: Sequence[Mapping[str, Any]]) -> Made:
        return _make(self.store, name, samples, self.size)

    def score(
        self,
        made: Made,
        name: str,
        columns: Mapping[str, Any],
        vectors: Mapping[str, np.ndarray] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        table = pa.table(dict(columns))
        _score(made, name, table, vectors or {}, settings or {}, self.size)

    def run(
        self, draft: Any, items: Sequence[Item], work: Callable[..., Any]
    ) -> artifacts.Artifact:
        return run_stage("test", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]


@pytest.fixture
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(str(tmp_path_factory.mktemp("store")))
