"""A table of URLs becomes a version in which every row has one outcome, whatever the web does."""

import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation import outcomes, retry
from curation.fetch.blocklist_settings import BlocklistSettings
from curation.ingest import IngestWork, ingest_draft, ingest_items
from curation.intake import Intake
from curation.resize_settings import ResizeSettings
from curation.settings import SourceSettings
from infra import stage
from infra.artifacts import Artifact, load, verify
from infra.dataset import Dataset
from infra.errors import SluiceError
from infra.progress import PlainDisplay, SilentDisplay
from infra.runner import InlineRunner
from infra.stage import run_stage
from tests.curation.fetch.names import NameServer
from tests.curation.fetch.server import FaultServer, jpeg
from tests.curation.web import FETCH, ROWS, ingest, mixed, write_table


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer() as made:
        yield made


def rows_of(artifact: Artifact) -> list[dict[str, Any]]:
    dataset = Dataset(artifact)
    return [row for shard in dataset.shards for row in dataset.rows(shard).to_pylist()]


def test_as_many_samples_as_good_urls_exactly(server: FaultServer, tmp_path: Path) -> None:
    urls, ends = mixed(server, 200)
    made = ingest(str(tmp_path / "store"), write_table(tmp_path / "t.parquet", urls))
    rows = rows_of(made)
    assert [row["reason"] for row in rows] == ends
    assert [row["url"] for row in rows] == urls
    assert made.totals["kept"] == ends.count(None)
    assert made.totals["dropped"] == dict(Counter(filter(None, ends)))
    found = {
        sample.row + shard * ROWS: sample.image
        for shard in Dataset(made).shards
        for sample in Dataset(made).samples(shard)
    }
    assert found == {number: jpeg(number) for number, end in enumerate(ends) if end is None}
    assert verify(made) == []
    for shard in Dataset(made).shards:
        seen = json.loads(Path(made.url, "statistics", f"{shard:05d}.json").read_text())
        assert sum(seen["outcomes"].values()) == ROWS


def test_the_number_of_workers_does_not_matter(server: FaultServer, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", mixed(server, 160)[0])
    made = [ingest(str(tmp_path / str(count)), table, count) for count in (0, 2)]
    assert len({artifact.content for artifact in made}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.long)])
def test_killed_at_random_it_ends_with_the_same_bytes(
    kills: int, server: FaultServer, tmp_path: Path
) -> None:
    urls = [*mixed(server, 200)[0], server.url("/slow-body/7?pause=0.01")]
    table = write_table(tmp_path / "t.parquet", urls)
    expected = ingest(str(tmp_path / "undisturbed"), table)
    rng, done, stores = random.Random(kills), 0, itertools.count()
    command = [sys.executable, "-m", "tests.curation.web", table]
    while done < kills:
        store = tmp_path / f"store-{next(stores)}"
        while True:
            process = subprocess.Popen([*command, str(store), "2"], start_new_session=True)
            try:
                process.wait(rng.uniform(0.8, 2.5))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
                if done < kills and rng.random() < 0.85:
                    continue
            break
        made = ingest(str(store), table)
        assert made.content == expected.content
        assert verify(made) == []


def test_a_table_that_is_no_table_and_rows_that_are_none(
    server: FaultServer, tmp_path: Path
) -> None:
    good = server.url("/ok/1.jpg")
    urls = [good, None, "", "no url", "ftp://x.example/1.jpg", good]
    made = ingest(str(tmp_path / "store"), write_table(tmp_path / "t.parquet", urls))
    assert [row["reason"] for row in rows_of(made)] == [
        None, outcomes.MISSING_URL, outcomes.MISSING_URL, outcomes.BAD_URL, outcomes.BAD_URL, None,
    ]  # fmt: skip
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is none PAR1")
    with pytest.raises(SluiceError, match=r"broken\.parquet"):
        ingest(str(tmp_path / "store"), str(tmp_path / "*.parquet"))


def retried(store: str, name: str, fetch: Any = FETCH) -> Artifact:
    intake = Intake(fetch)
    old = retry.failed_version(store, name)
    draft = retry.retry_draft(store, old, intake)
    expected = retry.promises(old.settings)
    work = retry.RetryWork(draft.url, old.url, intake, expected)
    items = retry.retry_items(old)
    return run_stage("retry", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]


def test_only_what_may_come_is_fetched_again(tmp_path: Path) -> None:
    once = FETCH.model_copy(update={"retries": 0})
    with FaultServer() as server:
        urls = [server.url(f"/ok/{n}.jpg") for n in range(60)]
        urls[10:20] = [server.url(f"/status/503/{n}.jpg?times=1") for n in range(10, 20)]
        urls[50:55] = [server.url(f"/truncated/{n}.jpg?times=2") for n in range(50, 55)]
        urls[30] = server.url("/status/404/30")
        store, table = str(tmp_path / "store"), write_table(tmp_path / "t.parquet", urls)
        first = ingest(store, table, fetch=once)
        assert first.totals["dropped"] == {
            outcomes.SERVER_ERROR: 10, outcomes.TRUNCATED: 5, outcomes.NOT_FOUND: 1,
        }  # fmt: skip
        before = Counter(server.asked)
        second = retried(store, f"pool@{first.digest}", once)
        assert second.totals["dropped"] == {outcomes.TRUNCATED: 5, outcomes.NOT_FOUND: 1}
        asked = server.asked - before
        assert sum(asked.values()) == 15 and all("?times" in path for path in asked)
        third = retried(store, second.digest, once)
        assert third.totals["dropped"] == {outcomes.NOT_FOUND: 1}
        with pytest.raises(SluiceError, match="no transient failure"):
            retry.failed_version(store, third.digest)
    uids = [[row["uid"] for row in rows_of(made)] for made in (first, second, third)]
    assert uids[0] == uids[1] == uids[2]
    for shard in Dataset(third).shards:
        for sample in Dataset(third).samples(shard):
            assert sample.image == jpeg(sample.row + shard * ROWS)
    copied = sum(path.stat().st_size for path in Path(third.url).rglob("*.tar"))
    assert copied < sum(path.stat().st_size for path in Path(first.url).rglob("*.tar")) / 2
    assert load(first.url) == first


def test_listed_samples_leave_no_trace(server: FaultServer, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(hashlib.md5(jpeg(2)).hexdigest())
    intake = Intake(FETCH, BlocklistSettings.model_validate({"md5": str(tmp_path / "list")}))
    urls = [server.url(f"/ok/{n}.jpg") for n in range(4)]
    table = write_table(tmp_path / "t.parquet", urls)
    sources = [SourceSettings.model_validate({"urls": table})]
    draft = ingest_draft(str(tmp_path / "store"), "pool", sources, "x", 10, intake)
    assert draft.spec.digest != ingest_draft("s", "pool", sources, "x", 10).spec.digest
    work = IngestWork(draft.url, intake)
    made = run_stage(
        "i", {"": draft}, ingest_items(sources, 10), work, InlineRunner(), SilentDisplay()
    )[""]
    row = rows_of(made)[2]
    told = {name for name, value in row.items() if value is not None}
    assert told == {"uid", "shard", "row", "status", "reason", "source"}
    assert row["reason"] == outcomes.BLOCKLISTED
    for file in Path(made.url).rglob("*"):
        assert not file.is_file() or jpeg(2) not in file.read_bytes()


def test_a_listed_url_is_told_by_no_row_whatever_else_is_wrong_with_it(tmp_path: Path) -> None:
    """Without a caption, or with an odd hash, a row is refused before it is asked for."""
    (tmp_path / "list").write_text("example.org")
    intake = Intake(FETCH, BlocklistSettings.model_validate({"domains": str(tmp_path / "list")}))
    urls = [f"http://{host}/1.jpg" for host in ("example.org", "example.net")]
    table = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"url": urls, "caption": pa.nulls(2, pa.string())}), table)
    sources = [SourceSettings.model_validate({"urls": table})]
    draft = ingest_draft(str(tmp_path / "store"), "pool", sources, "x", 10, intake)
    items, work = ingest_items(sources, 10), IngestWork(draft.url, intake)
    made = run_stage("i", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]
    told = [(row["reason"], row["url"]) for row in rows_of(made)]
    assert told == [(outcomes.BLOCKLISTED, None), ("missing_caption", urls[1])]


def test_images_are_resized_on_the_way_in(server: FaultServer, tmp_path: Path) -> None:
    urls = [server.url(path) for path in ("/ok/1.jpg", "/png-bomb", "/html", "/ok/2.jpg")]
    resize = ResizeSettings.model_validate({"mode": "keep_ratio", "size": 24})
    made = ingest(str(tmp_path / "store"), write_table(tmp_path / "t.parquet", urls), resize=resize)
    rows = rows_of(made)
    assert [row["reason"] for row in rows] == [
        None, outcomes.TOO_MANY_PIXELS, outcomes.NOT_AN_IMAGE, None,
    ]  # fmt: skip
    first = rows[0]
    assert (first["width"], first["height"]) == (24, 24)
    assert (first["original_width"], first["original_height"]) == (48, 48)
    assert first["sha256"] == hashlib.sha256(jpeg(1)).hexdigest()
    [sample, _] = Dataset(made).samples(0)
    assert len(sample.image) == first["bytes"] < len(jpeg(1))
    before = sum(server.asked.values())
    assert ingest(str(tmp_path / "store"), str(tmp_path / "t.parquet"), resize=resize) == made
    assert sum(server.asked.values()) == before


def test_a_resolver_that_comes_back_leaves_no_false_failure(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of 200 hosts cannot be resolved, until the run has said that it waits."""
    hosts = {f"host{n}.example": "127.0.0.1" for n in range(200)}
    monkeypatch.setattr(stage, "PAUSES", (0.1, 0.1, 0.1))
    urls = [server.url(f"/ok/{n}.jpg", host=host) for n, host in enumerate(hosts)]
    sources = [SourceSettings.model_validate({"urls": write_table(tmp_path / "t.parquet", urls)})]
    said: list[str] = []
    with NameServer({}) as names:

        def say(line: str) -> None:
            said.append(line)
            if "paused" in line:
                names.names.update(hosts)

        fetch = FETCH.model_copy(update={"resolvers": (names.address,), "retries": 0})
        intake = Intake(fetch)
        draft = ingest_draft(str(tmp_path / "store"), "pool", sources, "x", 100, intake)
        items, work = ingest_items(sources, 100), IngestWork(draft.url, intake)
        made = run_stage("i", {"": draft}, items, work, InlineRunner(), PlainDisplay(say))[""]
    assert made.totals["kept"] == 200
    [paused] = [line for line in said if "paused" in line]
    assert "dns" in paused and "data.fetch.resolvers" in paused


def test_faces_are_blurred_by_the_boxes_of_the_table(server: FaultServer, tmp_path: Path) -> None:
    boxes: list[list[list[float]] | None] = [[[0.2, 0.2, 0.8, 0.8]], [], None]
    urls = [server.url(f"/ok/{n}.jpg") for n in range(3)]
    table = write_table(tmp_path / "t.parquet", urls, face_bboxes=boxes)
    resize = ResizeSettings.model_validate({"blur": "face_bboxes"})
    made = ingest(str(tmp_path / "store"), table, resize=resize)
    images = [sample.image for sample in Dataset(made).samples(0)]
    assert images[0] != jpeg(0) and images[1:] == [jpeg(1), jpeg(2)]
    first = rows_of(made)[0]
    assert first["sha256"] == hashlib.sha256(jpeg(0)).hexdigest()
    assert (first["width"], first["original_width"]) == (48, 48)


def test_promised_hashes_hold_also_when_tried_again(tmp_path: Path) -> None:
    with FaultServer() as server:
        urls = [server.url(f"/status/503/{n}.jpg?times=1") for n in range(2)]
        good = hashlib.sha256(jpeg(0)).hexdigest()
        table = write_table(tmp_path / "t.parquet", urls, sha256=[good, good])
        sources = [SourceSettings.model_validate({"urls": table, "expected": "sha256"})]
        intake = Intake(FETCH.model_copy(update={"retries": 0}))
        store = str(tmp_path / "store")
        draft = ingest_draft(store, "pool", sources, "x", 10, intake)
        items, work = ingest_items(sources, 10), IngestWork(draft.url, intake)
        first = run_stage("i", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]
        assert first.totals["dropped"] == {outcomes.SERVER_ERROR: 2}
        second = retried(store, first.digest)
        assert second.totals["dropped"] == {outcomes.HASH_MISMATCH: 1}


def test_a_sample_that_a_subset_repeats_is_fetched_for_each_of_its_rows(tmp_path: Path) -> None:
    """One of two requests for the same URL fails: one row has the image, and no other's."""
    uids = [f"{n:032x}" for n in range(8)]
    twice = np.array([(0, n) for n in sorted([*range(8), *range(8)])], "u8,u8")
    np.save(tmp_path / "subset.npy", twice)
    with FaultServer() as server:
        urls = [server.url(f"/status/404/{n}.jpg?times=1") for n in range(8)]
        table = write_table(tmp_path / "t.parquet", urls, uid=uids)
        source = {"urls": table, "subset": str(tmp_path / "subset.npy")}
        sources = [SourceSettings.model_validate(source)]
        intake = Intake(FETCH, resize=ResizeSettings.model_validate({"verify": True}))
        draft = ingest_draft(str(tmp_path / "store"), "pool", sources, "x", 10, intake)
        items, work = ingest_items(sources, 10), IngestWork(draft.url, intake)
        made = run_stage("i", {"": draft}, items, work, InlineRunner(), SilentDisplay())[""]
    rows = rows_of(made)
    assert [row["uid"] for row in rows] == [uid for uid in uids for _ in range(2)]
    assert made.totals["dropped"] == {outcomes.NOT_FOUND: 8}
    kept = {rows[sample.row]["uid"]: sample.image for sample in Dataset(made).samples(0)}
    assert kept == {uid: jpeg(number) for number, uid in enumerate(uids)}
