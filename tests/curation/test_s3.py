"""Ingest from and to a real S3-compatible server: what holds on a disk holds there."""

import csv
import gzip
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import outcomes, retry
from curation.fingerprint import source_fingerprint
from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.intake import Intake
from curation.settings import SourceSettings
from curation.sources import open_source
from curation.sources.text_tables import TextTablesWork, text_tables_draft, text_tables_items
from infra import artifacts, filesystem
from infra.artifacts import Artifact, verify
from infra.dataset import Dataset, open_dataset, publish, read_images
from infra.errors import SluiceError
from infra.progress import SilentDisplay
from infra.runner import InlineRunner
from infra.shards import TarWriter
from infra.stage import Draft, Item, Work, run_stage
from tests.curation.fetch.server import FaultServer, jpeg
from tests.curation.web import FETCH, ROWS, ingest, mixed
from tests.s3 import BUCKET, S3


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as made:
        yield made


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as made:
        yield made


def put_tables(folder: str, urls: Sequence[str], parts: int) -> str:
    """The rows of one table in several Parquet files; a pattern for them."""
    size = -(-len(urls) // parts)
    for part in range(parts):
        buffer, start = io.BytesIO(), part * size
        piece = urls[start : start + size]
        captions = [f"picture {start + number}" for number in range(len(piece))]
        pq.write_table(pa.table({"url": piece, "caption": captions}), buffer)
        filesystem.write_bytes(folder, f"part-{part:05d}.parquet", buffer.getvalue())
    return f"{folder}/part-*.parquet"


def run(draft: Draft, items: Sequence[Item], work: Work) -> Artifact:
    return run_stage("test", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    dataset = Dataset(artifact)
    return [row for shard in dataset.shards for row in dataset.rows(shard).to_pylist()]


def images_of(artifact: Artifact) -> dict[tuple[int, int], bytes]:
    dataset = Dataset(artifact)
    return {
        (shard, sample.row): sample.image
        for shard in dataset.shards
        for sample in dataset.samples(shard)
    }


def left_over(s3: S3, artifact: Artifact) -> list[str]:
    """Files below an artifact that belong to no committed one."""
    folder = artifact.url.removeprefix("s3://")
    names = [name.removeprefix(f"{folder}/") for name in s3.files().find(folder)]
    ours = {file.path for part in artifact.parts for file in part.files}
    beside = ("manifest.json", "timing.json")
    return [
        name
        for name in names
        if name not in ours and name not in beside and not name.startswith(("statistics/", "tars/"))
    ]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_store_and_its_tables_on_s3_give_what_they_give_on_a_disk(
    s3: S3, server: FaultServer, tmp_path: Path, workers: int
) -> None:
    urls, ends = mixed(server, 200)
    expected = ingest(str(tmp_path / "store"), put_tables(str(tmp_path / "tables"), urls, 3))
    tables = put_tables(s3.url(str(workers), "tables"), urls, 3)
    made = ingest(s3.url(f"store-{workers}"), tables, workers)
    assert made.content == expected.content
    assert [row["reason"] for row in rows_of(made)] == ends
    assert verify(made) == []
    assert images_of(made) == images_of(expected)
    assert left_over(s3, made) == []
    assert s3.unfinished() == []


def test_a_shard_costs_a_bounded_number_of_requests(s3: S3, server: FaultServer) -> None:
    """Four files to write and a piece of a table to read; nothing is listed shard by shard."""
    counts: list[Counter[str]] = []
    for number, rows in enumerate((200, 600)):
        urls = [server.url(f"/ok/{n}.jpg") for n in range(rows)]
        table = put_tables(s3.url(f"counted-{number}"), urls, 1)
        s3.forget()
        ingest(s3.url(f"counting-{number}"), table)
        counts.append(s3.methods())
    few, many = counts
    more = {method: many[method] - few[method] for method in many}
    shards = (600 - 200) // ROWS
    assert more["LIST"] == more.get("DELETE", 0) == 0
    assert more.get("POST", 0) == 0  # a tar that fits into one part is one request, too
    assert more["HEAD"] <= shards  # the table's, to notice a change of it
    assert more["PUT"] == 4 * shards  # tar, rows, statistics, record of the part
    assert more["GET"] <= 5 * shards  # the table's footer and columns, the record of the part


@pytest.mark.long
def test_killed_at_random_it_ends_with_the_same_bytes(
    s3: S3, server: FaultServer, tmp_path: Path
) -> None:
    kills = 10
    urls = [*mixed(server, 200)[0], server.url("/slow-body/7?pause=0.01")]
    expected = ingest(str(tmp_path / "store"), put_tables(str(tmp_path / "tables"), urls, 2))
    tables = put_tables(s3.url("killed", "tables"), urls, 2)
    store, cut_short = s3.url("killed", "store"), 0
    files = 4 * -(-len(urls) // ROWS)  # of all shards, before the commit
    for moment in sorted(random.Random(kills).sample(range(files), kills)):
        command = [sys.executable, "-m", "tests.curation.web", tables, store, "2"]
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and len(s3.files().find(store)) < moment:
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        cut_short += process.wait() == -signal.SIGKILL
    assert cut_short
    made = ingest(store, tables)
    assert made.content == expected.content
    assert verify(made) == []
    assert left_over(s3, made) == []


def put_tar(url: str, numbers: Sequence[int]) -> None:
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    for number in numbers:
        writer.add(f"{number:04d}.jpg", jpeg(number))
        writer.add(f"{number:04d}.txt", f"picture {number}".encode())
    writer.close()
    folder, _, name = url.rpartition("/")
    filesystem.write_bytes(folder, name, buffer.getvalue())


def tars_draft(store: str, pattern: str) -> tuple[Draft, list[SourceSettings]]:
    sources = [SourceSettings.model_validate({"tars": pattern})]
    return ingest_draft(store, "pool", sources, source_fingerprint(sources)), sources


def test_tars_on_s3_are_used_where_they_are_and_their_changes_are_noticed(s3: S3) -> None:
    for tar in range(3):
        put_tar(s3.url("tars", f"{tar}.tar"), range(10 * tar, 10 * tar + 10))
    store, pattern = s3.url("referring"), s3.url("tars", "{0..2}.tar")
    draft, sources = tars_draft(store, pattern)
    made = run(draft, ingest_items(sources), IngestWork(draft.url))
    assert not [file for part in made.parts for file in part.files if file.path.endswith(".tar")]
    assert verify(made) == []
    assert images_of(made) == {(n // 10, n % 10): jpeg(n) for n in range(30)}
    assert read_images(made.url, 1, [2, 7, 99]) == {2: jpeg(12), 7: jpeg(17)}

    put_tar(s3.url("tars", "1.tar"), range(10, 15))
    with pytest.raises(SluiceError, match=r"s3://.*/tars/1\.tar has changed"):
        list(Dataset(made).samples(1))
    with pytest.raises(SluiceError, match=r"s3://.*/tars/1\.tar"):
        read_images(made.url, 1, [7])
    assert tars_draft(store, pattern)[0].spec.digest != draft.spec.digest
    s3.files().rm_file(s3.url("tars", "1.tar"))
    with pytest.raises(SluiceError, match=r"s3://.*/tars/1\.tar is gone"):
        list(Dataset(made).samples(1))


def test_a_tar_of_the_same_size_is_another_by_its_entity_tag(s3: S3) -> None:
    url = s3.url("same", "0.tar")
    put_tar(url, range(5))
    before, state = tars_draft(s3.url("store"), url)[0].spec.digest, filesystem.state(url)
    data = bytearray(filesystem.read_bytes(url))
    data[600] ^= 1  # in the first image
    filesystem.write_bytes(s3.url("same"), "0.tar", bytes(data))
    assert filesystem.size(url) == len(data)
    assert filesystem.state(url) != state
    assert tars_draft(s3.url("store"), url)[0].spec.digest != before


def test_failures_that_may_pass_are_fetched_again_on_s3(s3: S3) -> None:
    once = FETCH.model_copy(update={"retries": 0})
    with FaultServer() as server:
        urls = [server.url(f"/ok/{n}.jpg") for n in range(60)]
        urls[5:9] = [server.url(f"/status/503/{n}.jpg?times=1") for n in range(5, 9)]
        urls[30] = server.url("/status/404/30")
        store, table = s3.url("retried"), put_tables(s3.url("retried-tables"), urls, 2)
        first = ingest(store, table, fetch=once)
        publish(store, "pool", first)
        assert first.totals["dropped"] == {outcomes.SERVER_ERROR: 4, outcomes.NOT_FOUND: 1}
        intake, old = Intake(once), retry.failed_version(store, "latest")
        draft = retry.retry_draft(store, old, intake)
        second = run(draft, retry.retry_items(old), retry.RetryWork(draft.url, old.url, intake))
    assert second.totals["dropped"] == {outcomes.NOT_FOUND: 1}
    assert verify(second) == []
    assert [row["uid"] for row in rows_of(second)] == [row["uid"] for row in rows_of(first)]
    kept = {(n // ROWS, n % ROWS): jpeg(n) for n in range(60) if n != 30}
    assert images_of(second) == kept
    assert open_dataset(store, "pool").artifact == first


def test_text_tables_on_s3_are_read_like_parquet(
    s3: S3, server: FaultServer, tmp_path: Path
) -> None:
    urls, ends = mixed(server, 100)
    for part in range(2):
        lines = io.StringIO()
        writer = csv.writer(lines)
        writer.writerow(["url", "caption"])
        for number in range(part * 50, part * 50 + 50):
            writer.writerow([urls[number], f"picture {number}, with a comma"])
        data = gzip.compress(lines.getvalue().encode())
        for folder in (s3.url("text"), str(tmp_path / "text")):
            filesystem.write_bytes(folder, f"{part}.csv.gz", data)

    def ingested(folder: str, store: str) -> Artifact:
        source = SourceSettings.model_validate({"urls": f"{folder}/*.csv.gz"})
        made = text_tables_draft(store, "pool", source, "text")
        table = run(made, text_tables_items(source), TextTablesWork(made.url))
        intake = Intake(FETCH)
        draft = ingest_draft(store, "pool", [source], "text", ROWS, intake)
        return run(draft, ingest_items([source], ROWS, {0: table}), IngestWork(draft.url, intake))

    made = ingested(s3.url("text"), s3.url("text-store"))
    assert [row["reason"] for row in rows_of(made)] == ends
    assert rows_of(made)[7]["caption"] == "picture 7, with a comma"
    assert made.content == ingested(str(tmp_path / "text"), str(tmp_path / "store")).content


def test_a_worker_that_may_not_write_ends_the_run_with_the_url(s3: S3, server: FaultServer) -> None:
    store, table = s3.url("locked"), put_tables(s3.url("locking"), [server.url("/ok/1.jpg")], 1)
    with (
        s3.refusing("locked/*/shards"),
        pytest.raises(SluiceError, match=rf"cannot write s3://{BUCKET}/locked/.*00000\.tar"),
    ):
        ingest(store, table, 2)
    assert ingest(store, table).totals["kept"] == 1


@pytest.mark.parametrize("what", ["refused", "removed", "replaced"])
def test_what_befalls_a_table_while_it_is_read_is_no_damage_of_its_rows(s3: S3, what: str) -> None:
    buffer = io.BytesIO()
    table = pa.table({"url": [f"http://x.example/{number}" for number in range(3000)]})
    pq.write_table(table, buffer, row_group_size=1000)
    folder, data = s3.url(what), buffer.getvalue()
    filesystem.write_bytes(folder, "0.parquet", data)
    [unit] = open_source(SourceSettings.model_validate({"urls": f"{folder}/0.parquet"})).units(3000)
    records = unit.records()
    assert next(records).reason is None
    if what == "removed":
        s3.files().rm_file(f"{folder}/0.parquet")
    elif what == "replaced":
        s3.files().pipe_file(f"{folder}/0.parquet", data[::-1])
    with (
        s3.refusing("refused"),  # the folder of that one case
        pytest.raises(SluiceError, match=rf"cannot read s3://.*{what}/0\.parquet"),
    ):
        list(records)
    filesystem.write_bytes(folder, "0.parquet", data)
    assert [record.reason for record in unit.records()] == [None] * 3000


@pytest.mark.parametrize("kind", ["parquet", "csv.gz", "tar"])
def test_what_may_not_be_read_is_no_damage(s3: S3, server: FaultServer, kind: str) -> None:
    """A refusal in the middle of a file must not look like rows that cannot be read."""
    folder, url = s3.url(f"refused-{kind}"), server.url("/ok/1.jpg")
    if kind == "tar":
        put_tar(f"{folder}/0.tar", range(3))
    elif kind == "parquet":
        put_tables(folder, [url] * 10, 1)
    else:
        data = gzip.compress(f"url,caption\n{url},one\n".encode())
        filesystem.write_bytes(folder, "0.csv.gz", data)
    source = SourceSettings.model_validate(
        {"tars": f"{folder}/0.tar"} if kind == "tar" else {"urls": f"{folder}/*.{kind}"}
    )
    made = kind == "csv.gz"
    items = text_tables_items(source) if made else ingest_items([source])
    draft = text_tables_draft(s3.url("refused"), "pool", source, "x") if made else None
    draft = draft or ingest_draft(s3.url("refused"), "pool", [source], "x")
    work: Work = TextTablesWork(draft.url) if made else IngestWork(draft.url, Intake(FETCH))
    with (
        s3.refusing(f"refused-{kind}"),
        pytest.raises(SluiceError, match=f"cannot read s3://{BUCKET}/refused-{kind}"),
    ):
        run(draft, items, work)
    assert artifacts.load(draft.url) is None
    assert run(draft, items, work).totals["rows"] == {"tar": 3, "parquet": 10, "csv.gz": 1}[kind]
