"""What the tests of takedowns share: small stores by real ingest, requests, and what is left."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.settings import SourceSettings
from flows.recipe import ExecutionSettings, load_recipe
from flows.takedown import main
from flows.takedown.verify import verify
from infra.artifacts import Artifact
from infra.dataset import Dataset, open_dataset, publish
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage
from tests.curation.sources.made import picture

INLINE = load_recipe(None, ("run.executor=inline",)).run
OVERRIDES = (
    "data.demo=null", "data.trusted=[]", "data.evaluation=[]", "data.canaries=null",
    "data.rows_per_shard=5", "run.executor=inline",
)  # fmt: skip


def write_table(folder: Path, count: int = 20, name: str = "table") -> Path:
    """Pictures with captions, URLs and uids in a Parquet file; number 3 is a copy of number 2."""
    numbers = range(count)
    columns = {
        "jpg": [picture(2 if n == 3 else n) for n in numbers],
        "caption": [f"picture {n}" for n in numbers],
        "url": [f"https://host{n % 4}.example.org/{n}.png" for n in numbers],
        "uid": [f"{n:032x}" for n in numbers],
    }
    path = folder / f"{name}.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def ingest(store: str, table: Path, name: str = "pool") -> Artifact:
    """A version of 5 rows to a shard with tars of its own."""
    sources = [SourceSettings(parquet=str(table), url="url")]
    draft = ingest_draft(store, name, sources, f"of {table.name}", 5)
    items = ingest_items(sources, 5)
    drafts, work = {"": draft}, IngestWork(draft.url)
    made = run_stage("ingest", drafts, items, work, InlineRunner(), SilentDisplay())[""]
    publish(store, name, made)
    return made


def uid(number: int) -> str:
    return f"{number:032x}"


def take(
    store: str,
    folder: Path,
    kind: str,
    entries: Sequence[str],
    reason: str = "",
    where: ExecutionSettings = INLINE,
) -> str:
    path = folder / f"{kind}.txt"
    path.write_text("\n".join(entries))
    asked = main.TakedownOptions(**{kind: str(path)}, reason=reason)
    return main.run(store, asked, where, SilentDisplay())


def check(store: str, name: str = "latest", deep: bool = True) -> tuple[str, bool]:
    return verify(store, name, deep, INLINE, SilentDisplay())


def all_rows(version: Dataset) -> list[dict[str, Any]]:
    return [row for shard in version.shards for row in version.rows(shard).to_pylist()]


def states(store: str, name: str = "pool") -> dict[str, str | None]:
    """By uid the reason of each row of a version."""
    return {row["uid"]: row["reason"] for row in all_rows(open_dataset(store, name))}


def images(store: str, name: str = "pool") -> dict[str, bytes]:
    """By uid the image of each sample, as readers find it."""
    version, found = open_dataset(store, name), dict[str, bytes]()
    for shard in version.shards:
        uids = version.rows(shard, ["uid"])["uid"].to_pylist()
        found |= {uids[sample.row]: sample.image for sample in version.samples(shard)}
    return found


def everything(store: Path) -> dict[str, bytes]:
    """All files of a store, but for what clocks and keys put into the records and timings."""
    found: dict[str, bytes] = {}
    for path in sorted(store.rglob("*")):
        if path.is_file() and path.name != "timing.json":
            data = path.read_bytes()
            if path.name == "record.json":
                record = json.loads(data)["record"]
                data = json.dumps({k: v for k, v in record.items() if k != "time"}).encode()
            found[str(path.relative_to(store))] = data
    return found
