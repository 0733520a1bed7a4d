"""The command line on S3: a table and a store there, and what cannot work, told in words."""

import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.main import store_url
from infra import filesystem
from infra.artifacts import verify
from infra.dataset import open_dataset
from infra.errors import SluiceError
from tests.curation.fetch.server import FaultServer, jpeg
from tests.s3 import S3, environment, free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as made:
        yield made


def flows(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.prefect
@pytest.mark.slow
def test_a_table_on_s3_becomes_a_version_on_s3(s3: S3) -> None:
    store = s3.url("store")
    with FaultServer() as server:
        lines = [f"{server.url(f'/ok/{n}.jpg')},picture {n}" for n in range(20)]
        table = gzip.compress("\n".join(["url,caption", *lines]).encode())
        filesystem.write_bytes(s3.url("tables"), "part-0.csv.gz", table)
        command = ["ingest", "--source", s3.url("tables", "part-*.csv.gz"), "--store", store]
        settings = (
            "run.executor=local", "run.workers=2", "data.rows_per_shard=8",
            'data.fetch.allow_networks=["127.0.0.0/8"]', "data.fetch.robots_txt=false",
        )  # fmt: skip
        command += [word for setting in settings for word in ("--set", setting)]
        done = flows(*command)
    assert done.returncode == 0, done.stderr
    made = open_dataset(store, "pool")
    assert verify(made.artifact) == []
    images = [sample.image for shard in made.shards for sample in made.samples(shard)]
    assert images == [jpeg(number) for number in range(20)]
    assert s3.unfinished() == []


def test_a_store_needs_a_bucket() -> None:
    assert store_url("s3://bucket/") == "s3://bucket"
    with pytest.raises(SluiceError, match="names no bucket"):
        store_url("s3://")


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["bucket", "endpoint", "credentials"])
def test_what_cannot_work_is_one_message_and_a_way_out(s3: S3, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("url,caption\nhttp://x.example/1.jpg,one\n")
    bucket = "s3://no-such-bucket" if wrong == "bucket" else s3.url()
    sources = {
        "source": (f"{bucket}/nothing/part-*.parquet", str(tmp_path / "store")),
        "store": (str(tmp_path / "table.csv"), f"{bucket}/store"),
    }
    changed = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}", "SLUICE_RETRY_SECONDS": "0"}
    for source, store in sources.values():
        with environment(**(changed if wrong == "endpoint" else {})):
            if wrong == "credentials":
                del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
            done = flows("ingest", "--source", source, "--store", store)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and "\n  way out: " in done.stderr
        assert bucket in done.stderr and "Traceback" not in done.stderr
